// Sums of rows of a large matrix of which few are touched: the gradient of an embedding.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace gigagpt::ops {

class RowSums {
 public:
  explicit RowSums(int64_t row_count) : place_(size_t(row_count), kNone) {}

  void forget();
  // Makes room, zeros at first, for the sums of these rows [.., width]; after that at(row) can be
  // added to, different rows from different threads.
  void touch(std::span<const int64_t> rows, int64_t width);
  float* at(int64_t row) const;
  std::span<const int64_t> rows() const { return rows_; }  // touched so far
  // matrix [row_count, width] += these sums.
  void add_to(const at::Tensor& matrix) const;

 private:
  static constexpr int32_t kNone = -1;
  std::vector<int32_t> place_;  // of a row's sum in sums_
  std::vector<int64_t> rows_;   // touched so far
  at::Tensor sums_;             // [room, width] fp32
};

}  // namespace gigagpt::ops
