// Attention in fp32 for every CPU.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/kernels/attention_f32.cpp"
#include <hwy/foreach_target.h>

#include "ops/kernels/attention_backward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gigagpt::ops::kernels::HWY_NAMESPACE {

const AttentionKernels<float>& FloatAttention() {
  return kAttentionKernels<float>;
}

}  // namespace gigagpt::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gigagpt::ops::kernels {

HWY_EXPORT(FloatAttention);
template <>
const AttentionKernels<float>& attention_kernels<float>() {
  return HWY_DYNAMIC_DISPATCH(FloatAttention)();
}

}  // namespace gigagpt::ops::kernels
#endif
