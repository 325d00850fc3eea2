#include "ops/memory.h"

#include <ATen/ops/empty.h>

#include "base/error.h"

namespace gigagpt::ops {

at::Tensor Memory::append(const std::string& name, const at::Tensor& x) {
  Series& series = series_[name];
  if (!series.values.defined()) {
    auto sizes = x.sizes().vec();
    sizes[1] = capacity_;
    series.values = at::empty(sizes, x.options());
  }
  GIGAGPT_ASSERT(series.length + x.size(1) <= capacity_);
  series.values.narrow(1, series.length, x.size(1)).copy_(x);
  series.length += x.size(1);
  return series.values.narrow(1, 0, series.length);
}

void Memory::clear() {
  for (auto& [_, series] : series_) series.length = 0;
  states_.clear();
}

}  // namespace gigagpt::ops
