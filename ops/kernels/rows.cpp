// The passes of ops/kernels/rows.h for every CPU.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/kernels/rows.cpp"
#include <hwy/foreach_target.h>

#include "ops/kernels/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gigagpt::ops::kernels::HWY_NAMESPACE {

const RowKernels<float>& FloatRows() {
  return kRowKernels<float>;
}
const RowKernels<Bf16>& Bf16Rows() {
  return kRowKernels<Bf16>;
}

}  // namespace gigagpt::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gigagpt::ops::kernels {

HWY_EXPORT(FloatRows);
HWY_EXPORT(Bf16Rows);

template <>
const RowKernels<float>& row_kernels<float>() {
  return HWY_DYNAMIC_DISPATCH(FloatRows)();
}
template <>
const RowKernels<Bf16>& row_kernels<Bf16>() {
  return has_avx512_bf16() ? row_kernels_avx512_bf16() : HWY_DYNAMIC_DISPATCH(Bf16Rows)();
}

}  // namespace gigagpt::ops::kernels
#endif
