// The passes of ops/kernels/optimizer.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/kernels/optimizer.cpp"
#include <hwy/foreach_target.h>

#include <algorithm>
#include <array>
#include <type_traits>

#include "ops/kernels/optimizer.h"
#include "ops/kernels/simd-inl.h"
#include "ops/optimizers/list.h"

HWY_BEFORE_NAMESPACE();
namespace gigagpt::ops::kernels::HWY_NAMESPACE {

// Compilers turn this into vectors: see ops/optimizers/optimizer.h. `Weight` is what the new
// weights are rounded to besides, or void.
template <class Given, class Weight>
HWY_INLINE void UpdateBy(const Given& given, const ParamState& s, const UpdateNumbers& n,
                         size_t begin, size_t end) {
  const Given optimizer = given;
  const double lr = n.lr * s.factors.rate;
  const auto rate = float(lr), scale = float(n.grad_scale);
  const auto keep = float(1 - lr * n.numbers.weight_decay * s.factors.decay);
  float* HWY_RESTRICT w = s.value.data();
  const float* HWY_RESTRICT g = s.grad.data();
  float* HWY_RESTRICT m = s.exp_avg.data();
  float* HWY_RESTRICT v = s.exp_avg_sq.data();
  Bf16* HWY_RESTRICT rounded = s.compute;
  for (size_t i = begin; i < end; ++i) {
    const float gradient = scale * g[i];
    float direction;
    if constexpr (Given::kInfo.exp_avg && Given::kInfo.exp_avg_sq) {
      direction = optimizer.step(gradient, m[i], v[i]);
    } else if constexpr (Given::kInfo.exp_avg) {
      direction = optimizer.step(gradient, m[i]);
    } else if constexpr (Given::kInfo.exp_avg_sq) {
      direction = optimizer.step(gradient, v[i]);
    } else {
      direction = optimizer.step(gradient);
    }
    w[i] = keep * w[i] - rate * direction;
    if constexpr (!std::is_void_v<Weight>) rounded[i] = to_bf16(w[i]);
  }
}

// What has its direction.
struct Descent {
  static constexpr Optimizer kInfo = {.name = "descent"};
  float step(float direction) const { return direction; }
};

void Descend(const ParamState& s, UpdateNumbers n, size_t begin, size_t end) {
  n.grad_scale = 1;
  s.compute == nullptr ? UpdateBy<Descent, void>({}, s, n, begin, end)
                       : UpdateBy<Descent, Bf16>({}, s, n, begin, end);
}

template <class Given>
void Update(const ParamState& s, const UpdateNumbers& n, size_t begin, size_t end) {
  if (s.directed) return Descend(s, n, begin, end);
  if constexpr (Given::kInfo.whole != Whole::kAll) {
    StepNumbers numbers = n.numbers;
    numbers.epsilon *= s.factors.epsilon;
    const Given optimizer(numbers);
    s.compute == nullptr ? UpdateBy<Given, void>(optimizer, s, n, begin, end)
                         : UpdateBy<Given, Bf16>(optimizer, s, n, begin, end);
  }
}

template <class... All>
constexpr auto UpdatesOf(std::tuple<All...>*) {
  return std::array{&Update<All>...};
}
constexpr auto kUpdates = UpdatesOf(static_cast<Optimizers*>(nullptr));

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

const OptimizerKernels& Kernels() {
  static constexpr OptimizerKernels kernels = {kUpdates.data(), SumOfSquares, Add, Round, Widen};
  return kernels;
}

}  // namespace gigagpt::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gigagpt::ops::kernels {

HWY_EXPORT(Kernels);
const OptimizerKernels& optimizer_kernels() {
  return HWY_DYNAMIC_DISPATCH(Kernels)();
}

UpdateNumbers update_numbers(const UpdateRule& rule, double lr, double grad_scale, int64_t step) {
  const auto all = optimizers();
  const auto place = std::find(all.begin(), all.end(), rule.optimizer);
  return {size_t(place - all.begin()), {rule.numbers, step}, lr, grad_scale};
}

}  // namespace gigagpt::ops::kernels
#endif
