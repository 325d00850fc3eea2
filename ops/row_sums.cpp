#include "ops/row_sums.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "ops/kernels/optimizer.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {

void RowSums::forget() {
  for (const int64_t row : rows_) place_[size_t(row)] = kNone;
  rows_.clear();
}

void RowSums::touch(std::span<const int64_t> rows, int64_t width) {
  const auto before = static_cast<int64_t>(rows_.size());
  for (const int64_t row : rows) {
    if (place_[size_t(row)] != kNone) continue;
    place_[size_t(row)] = static_cast<int32_t>(rows_.size());
    rows_.push_back(row);
  }
  const auto now = static_cast<int64_t>(rows_.size());
  const int64_t room = sums_.defined() ? sums_.size(0) : 0;
  if (now > room) {
    const at::Tensor larger =
        at::empty({std::min(std::max(now, 2 * room), int64_t(place_.size())), width}, at::kFloat);
    if (before > 0) larger.narrow(0, 0, before).copy_(sums_.narrow(0, 0, before));
    sums_ = larger;
  }
  sums_.narrow(0, before, now - before).zero_();
}

float* RowSums::at(int64_t row) const {
  return data<float>(sums_) + place_[size_t(row)] * sums_.size(1);
}

void RowSums::add_to(const at::Tensor& matrix) const {
  const auto width = static_cast<size_t>(matrix.size(1));
  const auto add = kernels::optimizer_kernels().add;
  parallel_parts(rows_.size(), 16, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i)
      add(at(rows_[i]), 1.0F, width, data<float>(matrix) + size_t(rows_[i]) * width);
  });
}

}  // namespace gigagpt::ops
