#include "ops/gradient.h"

#include <ATen/ops/empty.h>

#include "base/error.h"
#include "ops/kernels/optimizer.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {

void check_dense(const GradientSum& sum) {
  if (!sum.sum.defined())
    fail("a layer multiplies by a parameter that it declares as one of which it looks up rows");
}

GradientSum& open_sum(GradientSum& sum) {
  check_dense(sum);
  if (sum.state != GradientSum::kLent) return sum;
  if (!sum.meanwhile) {
    sum.meanwhile = std::make_unique<GradientSum>();
    sum.meanwhile->sum = at::empty(sum.sum.sizes(), at::kFloat);
  }
  return *sum.meanwhile;
}

void add_gradient(GradientSum& sum, const at::Tensor& gradient, double scale) {
  GradientSum& to = open_sum(sum);
  if (to.state == GradientSum::kEmpty) {
    to.state = GradientSum::kFilled;
    to.sum.copy_(scale == 1.0 ? gradient : gradient.mul(scale));
    return;
  }
  if (!gradient.is_contiguous() || gradient.scalar_type() != at::kFloat) {
    to.sum.add_(scale == 1.0 ? gradient : gradient.mul(scale));
    return;
  }
  const auto add = kernels::optimizer_kernels().add;
  parallel_parts(size_t(gradient.numel()), 1 << 14, [&](size_t begin, size_t end, size_t) {
    add(data<float>(gradient) + begin, float(scale), end - begin, data<float>(to.sum) + begin);
  });
}

void fill_gradient(GradientSum& sum) {
  if (sum.state == GradientSum::kEmpty) sum.sum.zero_();
  sum.state = GradientSum::kFilled;
}

at::Tensor deliver(GradientSum* sum, const at::Tensor& gradient) {
  if (sum == nullptr || !gradient.defined()) return gradient;
  add_gradient(*sum, gradient);
  return {};
}

void note_magnitude(const Weight& weight, const at::Tensor& y) {
  if (weight.mean_magnitude == nullptr) return;
  *weight.mean_magnitude = y.detach().to(at::kFloat).abs().mean(at::kDouble).item<double>();
}

}  // namespace gigagpt::ops
