// The passes of ops/kernels/optimizer.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/kernels/optimizer.cpp"
#include <hwy/foreach_target.h>

#include <cmath>

#include "ops/kernels/optimizer.h"
#include "ops/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace gigagpt::ops::kernels::HWY_NAMESPACE {

template <bool kCompute>
void AdamW(const ParamState& s, const UpdateNumbers& n, size_t begin, size_t end) {
  ForVectors(end - begin, [&](auto d, size_t offset) {
    const size_t i = begin + offset;
    const auto set = [&](float x) { return hn::Set(d, x); };
    const auto g = hn::Mul(LoadF(d, s.grad.data() + i), set(n.grad_scale));
    const auto m = hn::MulAdd(g, set(n.one_minus_beta1),
                              hn::Mul(LoadF(d, s.exp_avg.data() + i), set(n.beta1)));
    const auto v = hn::MulAdd(hn::Mul(g, g), set(n.one_minus_beta2),
                              hn::Mul(LoadF(d, s.exp_avg_sq.data() + i), set(n.beta2)));
    const auto step =
        hn::Div(hn::Mul(m, set(n.rate)), hn::MulAdd(hn::Sqrt(v), set(n.v_scale), set(n.epsilon)));
    const auto w = hn::MulSub(LoadF(d, s.value.data() + i), set(n.keep), step);
    StoreF(d, m, s.exp_avg.data() + i);
    StoreF(d, v, s.exp_avg_sq.data() + i);
    StoreF(d, w, s.value.data() + i);
    if constexpr (kCompute) StoreF(d, w, s.compute + i);
  });
}

void Sgd(const ParamState& s, const UpdateNumbers& n, size_t begin, size_t end) {
  ForVectors(end - begin, [&](auto d, size_t offset) {
    const size_t i = begin + offset;
    const auto g = hn::Mul(LoadF(d, s.grad.data() + i), hn::Set(d, n.grad_scale));
    const auto m = hn::MulAdd(LoadF(d, s.exp_avg.data() + i), hn::Set(d, n.beta1), g);
    const auto w = hn::NegMulAdd(m, hn::Set(d, n.rate),
                                 hn::Mul(LoadF(d, s.value.data() + i), hn::Set(d, n.keep)));
    StoreF(d, m, s.exp_avg.data() + i);
    StoreF(d, w, s.value.data() + i);
    if (s.compute != nullptr) StoreF(d, w, s.compute + i);
  });
}

void Update(const ParamState& s, const UpdateNumbers& numbers, size_t begin, size_t end) {
  UpdateNumbers n = numbers;
  if (!s.decays) n.keep = 1.0F;
  if (n.sgd) return Sgd(s, n, begin, end);
  s.compute == nullptr ? AdamW<false>(s, n, begin, end) : AdamW<true>(s, n, begin, end);
}

double SumOfSquares(const float* values, size_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto v0 = hn::PromoteTo(d, hn::LoadU(half, values + i));
    const auto v1 = hn::PromoteTo(d, hn::LoadU(half, values + i + lanes));
    sum0 = hn::MulAdd(v0, v0, sum0);
    sum1 = hn::MulAdd(v1, v1, sum1);
  }
  double rest = 0;
  for (; i < n; ++i) rest += double(values[i]) * double(values[i]);
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1))) + rest;
}

void Add(const float* values, float scale, size_t n, float* sum) {
  ForVectors(n, [&](auto d, size_t i) {
    const auto scaled = hn::Mul(LoadF(d, values + i), hn::Set(d, scale));
    StoreF(d, hn::Add(LoadF(d, sum + i), scaled), sum + i);
  });
}

void Round(const float* values, size_t n, Bf16* rounded) {
  ForVectors(n, [&](auto d, size_t i) { StoreF(d, LoadF(d, values + i), rounded + i); });
}

void Widen(const Bf16* values, size_t n, float* wide) {
  ForVectors(n, [&](auto d, size_t i) { StoreF(d, LoadF(d, values + i), wide + i); });
}

const OptimizerKernels& Optimizer() {
  static constexpr OptimizerKernels kernels = {Update, SumOfSquares, Add, Round, Widen};
  return kernels;
}

}  // namespace gigagpt::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gigagpt::ops::kernels {

UpdateNumbers update_numbers(const UpdateRule& rule, double lr, double grad_scale, int64_t step) {
  const double b1_power = std::pow(rule.beta1, double(step));
  const double b2_power = std::pow(rule.beta2, double(step));
  return {rule.sgd,
          float(1.0 - lr * rule.weight_decay),
          float(grad_scale),
          float(rule.beta1),
          float(rule.beta2),
          float(1.0 - rule.beta1),
          float(1.0 - rule.beta2),
          float(rule.sgd ? lr : lr / (1.0 - b1_power)),
          float(1.0 / std::sqrt(1.0 - b2_power)),
          float(rule.epsilon)};
}

HWY_EXPORT(Optimizer);
const OptimizerKernels& optimizer_kernels() {
  return HWY_DYNAMIC_DISPATCH(Optimizer)();
}

}  // namespace gigagpt::ops::kernels
#endif
