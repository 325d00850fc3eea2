// Tensors as the plain arrays that kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include "base/error.h"
#include "ops/kernels/bf16.h"

namespace gigagpt::ops {

// The first element; T is float or kernels::Bf16.
template <class T>
T* data(const at::Tensor& x) {
  if constexpr (std::is_same_v<T, kernels::Bf16>)
    return reinterpret_cast<T*>(x.data_ptr<at::BFloat16>());
  else
    return x.data_ptr<T>();
}

inline std::byte* bytes_of(const at::Tensor& x) {
  return static_cast<std::byte*>(x.data_ptr());
}

// Calls f with a value of the type that x's elements have for the kernels.
template <class F>
void dispatch_type(at::ScalarType type, const F& f) {
  GIGAGPT_ASSERT(type == at::kFloat || type == at::kBFloat16);
  if (type == at::kFloat)
    f(float{});
  else
    f(kernels::Bf16{});
}
template <class F>
void dispatch_type(const at::Tensor& x, const F& f) {
  dispatch_type(x.scalar_type(), f);
}

}  // namespace gigagpt::ops
