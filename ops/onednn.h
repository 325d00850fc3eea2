// oneDNN's matrix product for tensors; ops/gemm.h decides when it is used.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/gemm.h"

namespace gigagpt::ops {

// True if this CPU has AMX, for which oneDNN has kernels and we have none.
bool has_amx();
void onednn_gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                 const GemmExtras& extras);

}  // namespace gigagpt::ops
