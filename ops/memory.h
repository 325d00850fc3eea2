// What one layer keeps from pass to pass while a text is continued: keys and values of the
// positions so far, or a recurrent state.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace gigagpt::ops {

class Memory {
 public:
  // Room for `capacity` positions in what is appended to, reserved at the first append.
  explicit Memory(int64_t capacity) : capacity_(capacity) {}

  // Appends x [B, T, ...] to what goes by that name and returns all of it, a view [B, length, ...].
  at::Tensor append(const std::string& name, const at::Tensor& x);
  // A tensor that the layer replaces in each pass; undefined at first.
  at::Tensor& state(const std::string& name) { return states_[name]; }
  void clear();

 private:
  struct Series {
    at::Tensor values;  // B capacity ...
    int64_t length = 0;
  };
  int64_t capacity_;
  std::map<std::string, Series> series_;
  std::map<std::string, at::Tensor> states_;
};

}  // namespace gigagpt::ops
