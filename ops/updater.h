// The numbers of one optimizer step, and the step over any stretch of elements. No LibTorch.
#pragma once

#include <cmath>

#include "ops/kernels/optimizer.h"
#include "ops/optimizer.h"

namespace gigagpt::ops {

// The same bits for every way of cutting the elements into stretches.
class Updater {
 public:
  Updater(const UpdateRule& rule, double lr, double grad_scale, int64_t step)
      : step_of_(rule.sgd ? kernels::optimizer_kernels().sgd : kernels::optimizer_kernels().adamw),
        decaying_(numbers(rule, lr, grad_scale, step)),
        others_(decaying_) {
    others_.keep = 1.0F;
  }

  void operator()(const ParamState& s, size_t begin, size_t end) const {
    step_of_({s.value.data(), s.grad.data(), s.exp_avg.data(), s.exp_avg_sq.data(), s.compute},
             s.decays ? decaying_ : others_, begin, end);
  }

 private:
  static kernels::UpdateNumbers numbers(const UpdateRule& rule, double lr, double grad_scale,
                                        int64_t step) {
    const double b1_power = std::pow(rule.beta1, double(step));
    const double b2_power = std::pow(rule.beta2, double(step));
    return {float(1.0 - lr * rule.weight_decay),
            float(grad_scale),
            float(rule.beta1),
            float(rule.beta2),
            float(1.0 - rule.beta1),
            float(1.0 - rule.beta2),
            float(rule.sgd ? lr : lr / (1.0 - b1_power)),
            float(1.0 / std::sqrt(1.0 - b2_power)),
            float(rule.epsilon)};
  }

  decltype(kernels::OptimizerKernels::adamw) step_of_;
  kernels::UpdateNumbers decaying_, others_;
};

}  // namespace gigagpt::ops
