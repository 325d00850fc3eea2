// The keys and values of one attention layer for the positions computed so far.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

namespace gigagpt::ops {

class KVCache {
 public:
  // Room for `capacity` positions, reserved at the first append.
  explicit KVCache(int64_t capacity) : capacity_(capacity) {}

  // Appends k and v [B, T, C] and returns all keys and values so far as views [B, length, C].
  std::pair<at::Tensor, at::Tensor> append(const at::Tensor& k, const at::Tensor& v);
  int64_t length() const { return length_; }
  void clear() { length_ = 0; }

 private:
  int64_t capacity_;
  at::Tensor k_, v_;  // B capacity C
  int64_t length_ = 0;
};

}  // namespace gigagpt::ops
