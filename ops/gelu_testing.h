// For tests and measurements only: GELU as an op of its own. The model has it in add_gelu_linear.
#pragma once

#include <vector>

#include "ops/autograd.h"
#include "ops/elementwise.h"

namespace gigagpt::ops {

inline at::Tensor gelu(const at::Tensor& x_any, GeluForm form = GeluForm::kErf) {
  Recording recording({x_any});
  const at::Tensor x = x_any.contiguous(), y = apply_gelu(x, form);
  recording.record({y}, [=](const std::vector<at::Tensor>& dy) {
    return std::vector{differentiate_gelu(x, dy[0].contiguous(), form).first};
  });
  return y;
}

}  // namespace gigagpt::ops
