// Matrices that are stored as their transposes.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace gigagpt::engine {

inline at::Tensor wrap(std::span<float> values, const std::vector<int64_t>& shape) {
  return at::from_blob(values.data(), shape, at::kFloat);
}

// Transposes a matrix [R, C] of whatever size, with about `most` of its numbers in memory: read()
// gets those from the first one on, all of them again for each part that take() is given of the
// transpose, [some of C, R], from that number on.
inline void transpose(int64_t rows, int64_t columns,
                      const std::function<void(int64_t first, std::span<float> values)>& read,
                      const std::function<void(int64_t first, const at::Tensor& part)>& take,
                      int64_t most = 1 << 25) {
  const int64_t width = std::clamp<int64_t>(most / rows, 1, columns);
  const int64_t height = std::clamp<int64_t>(most / 32 / columns, 1, rows);
  std::vector<float> piece;
  for (int64_t column = 0; column < columns; column += width) {
    const int64_t wide = std::min(width, columns - column);
    const at::Tensor part = at::empty({wide, rows}, at::kFloat);
    for (int64_t row = 0; row < rows; row += height) {
      const int64_t high = std::min(height, rows - row);
      piece.resize(size_t(high * columns));
      read(row * columns, piece);
      part.narrow(1, row, high).copy_(wrap(piece, {high, columns}).narrow(1, column, wide).t());
    }
    take(column * rows, part);
  }
}

}  // namespace gigagpt::engine
