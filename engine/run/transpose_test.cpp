#include "engine/run/transpose.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

namespace gigagpt::engine {
namespace {

TEST(Transpose, IsTheSameInAnyNumberOfParts) {
  for (const int64_t rows : {1, 7, 64}) {
    for (const int64_t columns : {1, 5, 100}) {
      const at::Tensor matrix = at::arange(rows * columns, at::kFloat).reshape({rows, columns});
      for (const int64_t most : {1, 40, 333, 1 << 20}) {
        std::vector<float> turned(size_t(rows * columns), -1);
        size_t largest = 0;
        const auto read = [&](int64_t first, std::span<float> values) {
          largest = std::max(largest, values.size());
          std::copy_n(matrix.data_ptr<float>() + first, values.size(), values.data());
        };
        const auto take = [&](int64_t first, const at::Tensor& part) {
          largest = std::max(largest, size_t(part.numel()));
          std::copy_n(part.data_ptr<float>(), part.numel(), &turned[size_t(first)]);
        };
        transpose(rows, columns, read, take, most);
        EXPECT_TRUE(at::equal(wrap(turned, {columns, rows}), matrix.t()))
            << rows << " " << columns << " " << most;
        EXPECT_LE(largest, size_t(std::max({most, rows, columns})));
      }
    }
  }
}

}  // namespace
}  // namespace gigagpt::engine
