#include "ops/kv_cache.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "base/error.h"

namespace gigagpt::ops {

std::pair<at::Tensor, at::Tensor> KVCache::append(const at::Tensor& k, const at::Tensor& v) {
  const int64_t T = k.size(1);
  if (!k_.defined()) {
    k_ = at::empty({k.size(0), capacity_, k.size(2)}, k.options());
    v_ = at::empty_like(k_);
  }
  GIGAGPT_ASSERT(length_ + T <= capacity_);
  k_.narrow(1, length_, T).copy_(k);
  v_.narrow(1, length_, T).copy_(v);
  length_ += T;
  return {k_.narrow(1, 0, length_), v_.narrow(1, 0, length_)};
}

}  // namespace gigagpt::ops
