// The passes of ops/kernels/rows.h for one target.
#if defined(GIGAGPT_OPS_KERNELS_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef GIGAGPT_OPS_KERNELS_ROWS_INL_H_
#undef GIGAGPT_OPS_KERNELS_ROWS_INL_H_
#else
#define GIGAGPT_OPS_KERNELS_ROWS_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/kernels/philox-inl.h"
#include "ops/kernels/rows.h"

HWY_BEFORE_NAMESPACE();
GIGAGPT_SIMD_TARGET
namespace gigagpt::ops::kernels::GIGAGPT_SIMD {

// Sums f(tag, i) over the elements of a row.
template <class F>
HWY_INLINE float SumOver(size_t n, F f) {
  const DF d;
  VF sums[2] = {hn::Zero(d), hn::Zero(d)};
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    sums[0] = hn::Add(sums[0], f(d, i));
    sums[1] = hn::Add(sums[1], f(d, i + kLanes));
  }
  float rest = 0.0F;
  for (; i < n; ++i) rest += hn::GetLane(f(D1(), i));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sums[0], sums[1]))) + rest;
}

template <class Y, NormForm kForm>
void NormRow(const float* x, const float* weight, const float* bias, size_t C, float eps, Y* y,
             float stats[2]) {
  constexpr bool kCentred = kForm == NormForm::kLayer;
  const float mean =
      kCentred ? SumOver(C, [&](auto d, size_t i) { return LoadF(d, x + i); }) / float(C) : 0.0F;
  const float variance = SumOver(C,
                                 [&](auto d, size_t i) {
                                   const auto centred = hn::Sub(LoadF(d, x + i), hn::Set(d, mean));
                                   return hn::Mul(centred, centred);
                                 }) /
                         float(C);
  const float rstd = 1.0F / std::sqrt(variance + eps);
  ForVectors(C, [&](auto d, size_t i) {
    const auto centred = hn::Mul(hn::Sub(LoadF(d, x + i), hn::Set(d, mean)), hn::Set(d, rstd));
    const auto b = bias == nullptr ? hn::Zero(d) : LoadF(d, bias + i);
    StoreF(d, hn::MulAdd(centred, LoadF(d, weight + i), b), y + i);
  });
  stats[0] = mean;
  stats[1] = rstd;
}

template <class Y, NormForm kForm>
void NormRowBackward(const float* x, const float* weight, const float stats[2], const Y* dy,
                     const float* also, size_t C, float* dx, float* dweight, float* dbias) {
  const float mean = stats[0], rstd = stats[1];
  const auto normal = [&](auto d, size_t i) {
    return hn::Mul(hn::Sub(LoadF(d, x + i), hn::Set(d, mean)), hn::Set(d, rstd));
  };
  const auto g = [&](auto d, size_t i) { return hn::Mul(LoadF(d, dy + i), LoadF(d, weight + i)); };
  const float g_mean = kForm == NormForm::kLayer ? SumOver(C, g) / float(C) : 0.0F;
  const float gx_mean =
      SumOver(C, [&](auto d, size_t i) { return hn::Mul(g(d, i), normal(d, i)); }) / float(C);
  ForVectors(C, [&](auto d, size_t i) {
    const auto n = normal(d, i), dyi = LoadF(d, dy + i);
    StoreF(d, hn::MulAdd(dyi, n, LoadF(d, dweight + i)), dweight + i);
    if (dbias != nullptr) StoreF(d, hn::Add(dyi, LoadF(d, dbias + i)), dbias + i);
    const auto rest = hn::NegMulAdd(n, hn::Set(d, gx_mean), hn::Sub(g(d, i), hn::Set(d, g_mean)));
    auto result = hn::Mul(rest, hn::Set(d, rstd));
    if (also != nullptr) result = hn::Add(LoadF(d, also + i), result);
    StoreF(d, result, dx + i);
  });
}

HWY_INLINE float MaxOf(const float* x, size_t n) {
  const DF d;
  float top = -std::numeric_limits<float>::infinity();
  VF tops[2] = {hn::Set(d, top), hn::Set(d, top)};
  size_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    tops[0] = hn::Max(tops[0], hn::LoadU(d, x + i));
    tops[1] = hn::Max(tops[1], hn::LoadU(d, x + i + kLanes));
  }
  for (; i < n; ++i) top = std::max(top, x[i]);
  return std::max(top, hn::GetLane(hn::MaxOfLanes(d, hn::Max(tops[0], tops[1]))));
}

// The sum of exp(scale (x - top)), which `e` gets unless null; it may be x.
HWY_INLINE float SumOfPowers(const float* x, size_t n, float scale, float top, float* e) {
  return SumOver(n, [&](auto d, size_t i) {
    const auto power =
        Exp2(d, hn::Mul(hn::Sub(LoadF(d, x + i), hn::Set(d, top)), hn::Set(d, scale * kLog2E)));
    if (e != nullptr) StoreF(d, power, e + i);
    return power;
  });
}

inline float Exponentials(float* x, size_t n, float scale) {
  return SumOfPowers(x, n, scale, MaxOf(x, n), x);
}

inline double CrossEntropyLoss(const float* x, size_t V, size_t label) {
  const float top = MaxOf(x, V);
  const float sum = SumOfPowers(x, V, 1.0F, top, nullptr);
  return std::log(double(sum)) + double(top) - double(x[label]);
}

template <class T>
double CrossEntropy(float* x, size_t V, size_t label, float scale, T* dx) {
  const double wanted = x[label];
  const float top = MaxOf(x, V);
  const float sum = SumOfPowers(x, V, 1.0F, top, x);
  const float factor = scale / sum;
  // Taken before a narrower dx in the same place overwrites it.
  const float of_label = x[label] * factor - scale;
  ForVectors(V, [&](auto d, size_t i) {
    StoreF(d, hn::Mul(LoadF(d, x + i), hn::Set(d, factor)), dx + i);
  });
  StoreF(D1(), hn::Set(D1(), of_label), dx + label);
  return std::log(double(sum)) + double(top) - wanted;
}

// 1 / x by one step of Newton's from an estimate: a division takes longer.
template <class D>
HWY_INLINE hn::Vec<D> Reciprocal(D d, hn::Vec<D> x) {
  const auto estimate = hn::ApproximateReciprocal(x);
  return hn::Mul(estimate, hn::NegMulAdd(x, estimate, hn::Set(d, 2.0F)));
}

// `tail`, the value at -|x|, or what it leaves of 1.
template <class D>
HWY_INLINE hn::Vec<D> FromTail(D d, hn::Vec<D> x, hn::Vec<D> tail) {
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0F), tail));
}

// Phi(x), what x is multiplied with, and its slope phi(x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ErfGate(D d, V x, V& slope) {
  const auto density = Exp2(d, hn::Mul(hn::Mul(x, x), hn::Set(d, -0.5F * kLog2E)));
  const auto z = hn::Mul(hn::Abs(x), hn::Set(d, 0.70710678F));
  const auto t = Reciprocal(d, hn::MulAdd(z, hn::Set(d, 0.3275911F), hn::Set(d, 1.0F)));
  auto p = hn::Set(d, 1.061405429F);
  p = hn::MulAdd(p, t, hn::Set(d, -1.453152027F));
  p = hn::MulAdd(p, t, hn::Set(d, 1.421413741F));
  p = hn::MulAdd(p, t, hn::Set(d, -0.284496736F));
  p = hn::MulAdd(p, t, hn::Set(d, 0.254829592F));
  const auto tail = hn::Mul(hn::Mul(hn::Mul(p, t), density), hn::Set(d, 0.5F));  // Phi(-|x|)
  slope = hn::Mul(density, hn::Set(d, 0.39894228F));
  return FromTail(d, x, tail);
}

// In its place (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)) = s, and its slope s (1 - s) 2 u'.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V TanhGate(D d, V x, V& slope) {
  const auto one = hn::Set(d, 1.0F);
  const auto z = hn::Min(hn::Abs(x), hn::Set(d, 100.0F));  // far beyond where s is 0 or 1
  const auto square = hn::Mul(z, z);
  constexpr float kTwice = 1.5957691F, kCube = 0.044715F;  // 2 sqrt(2 / pi)
  const auto exponent =
      hn::Mul(hn::Mul(z, hn::Set(d, -kTwice * kLog2E)), hn::MulAdd(square, hn::Set(d, kCube), one));
  const auto e = Exp2(d, exponent);
  const auto rest = Reciprocal(d, hn::Add(one, e));  // s(|x|)
  const auto tail = hn::Mul(e, rest);
  const auto inner = hn::MulAdd(square, hn::Set(d, 3 * kCube * kTwice), hn::Set(d, kTwice));
  slope = hn::Mul(hn::Mul(tail, rest), inner);
  return FromTail(d, x, tail);
}

template <GeluForm kForm, class D, class V = hn::Vec<D>>
HWY_INLINE V Gate(D d, V x, V& slope) {
  return kForm == GeluForm::kErf ? ErfGate(d, x, slope) : TanhGate(d, x, slope);
}

template <class T, GeluForm kForm>
void Gelu(const T* x, size_t n, T* y) {
  ForVectors(n, [&](auto d, size_t i) {
    const auto v = LoadF(d, x + i);
    hn::Vec<decltype(d)> slope;
    StoreF(d, hn::Mul(v, Gate<kForm>(d, v, slope)), y + i);
  });
}

template <class T, GeluForm kForm>
void GeluBackward(const T* x, const T* dy, size_t n, T* dx, T* y) {
  ForVectors(n, [&](auto d, size_t i) {
    const auto v = LoadF(d, x + i);
    hn::Vec<decltype(d)> slope;
    const auto gate = Gate<kForm>(d, v, slope);
    StoreF(d, hn::Mul(LoadF(d, dy + i), hn::MulAdd(v, slope, gate)), dx + i);
    StoreF(d, hn::Mul(v, gate), y + i);
  });
}

// 1 / (1 + exp(-x)), and what it leaves of 1.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x, V& rest) {
  const auto one = hn::Set(d, 1.0F);
  const auto e = Exp2(d, hn::Mul(hn::Abs(x), hn::Set(d, -kLog2E)));
  const auto upper = Reciprocal(d, hn::Add(one, e)), lower = hn::Mul(e, upper);  // of |x|, -|x|
  const auto negative = hn::Lt(x, hn::Zero(d));
  rest = hn::IfThenElse(negative, upper, lower);
  return hn::IfThenElse(negative, lower, upper);
}

template <class T>
void SiluTimes(const T* x, const T* u, size_t n, T* y) {
  ForVectors(n, [&](auto d, size_t i) {
    const auto v = LoadF(d, x + i);
    hn::Vec<decltype(d)> rest;
    StoreF(d, hn::Mul(hn::Mul(v, Sigmoid(d, v, rest)), LoadF(d, u + i)), y + i);
  });
}

template <class T>
void SiluTimesBackward(const T* x, const T* u, const T* dy, size_t n, T* dx, T* du) {
  ForVectors(n, [&](auto d, size_t i) {
    const auto v = LoadF(d, x + i), dyi = LoadF(d, dy + i);
    hn::Vec<decltype(d)> rest;
    const auto s = Sigmoid(d, v, rest);
    const auto slope = hn::Mul(s, hn::MulAdd(v, rest, hn::Set(d, 1.0F)));
    StoreF(d, hn::Mul(hn::Mul(dyi, LoadF(d, u + i)), slope), dx + i);
    StoreF(d, hn::Mul(dyi, hn::Mul(v, s)), du + i);
  });
}

template <class T>
void Rotate(const T* x, const float* cosines, const float* sines, float sign, size_t half, T* y) {
  ForVectors(half, [&](auto d, size_t i) {
    const auto a = LoadF(d, x + i), b = LoadF(d, x + half + i), c = LoadF(d, cosines + i);
    const auto s = hn::Mul(LoadF(d, sines + i), hn::Set(d, sign));
    StoreF(d, hn::NegMulAdd(b, s, hn::Mul(a, c)), y + i);
    StoreF(d, hn::MulAdd(a, s, hn::Mul(b, c)), y + half + i);
  });
}

template <class T>
void Dropout(const T* x, size_t n, double p, uint64_t key, uint64_t first, T* y) {
  const hn::ScalableTag<uint32_t> d32;
  const DF d;
  const auto threshold = static_cast<uint32_t>(p * 0x1p32);
  const auto scale = static_cast<float>(1.0 / (1.0 - p));
  // Vectors of counters; the four words of each go to neighbouring elements.
  HWY_ALIGN uint32_t low[kLanes], high[kLanes];
  HWY_ALIGN float words[4][kLanes];
  for (uint64_t counter = first / 4; counter * 4 < first + n; counter += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      low[lane] = static_cast<uint32_t>(counter + lane);
      high[lane] = static_cast<uint32_t>((counter + lane) >> 32);
    }
    hn::Vec<decltype(d32)> bits[4];
    Philox(d32, key, hn::Load(d32, low), hn::Load(d32, high), bits);
    for (int i = 0; i < 4; ++i) hn::Store(DropoutFactor(d, bits[i], threshold, scale), d, words[i]);
    const uint64_t begin = std::max(first, counter * 4);
    const uint64_t end = std::min(first + n, (counter + kLanes) * 4);
    for (uint64_t i = begin; i < end; ++i) {
      const float factor = words[i % 4][i / 4 - counter];
      const float value = hn::GetLane(LoadF(D1(), x + (i - first)));
      StoreF(D1(), hn::Set(D1(), value * factor), y + (i - first));
    }
  }
}

template <class T>
void FromFloats(const float* x, size_t n, T* y) {
  ForVectors(n, [&](auto d, size_t i) { StoreF(d, LoadF(d, x + i), y + i); });
}

template <class T>
float Dot(const float* x, const T* row, size_t n) {
  const DF d;
  VF sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (size_t u = 0; u < 4; ++u) {
      const size_t at = i + u * kLanes;
      sums[u] = hn::MulAdd(hn::LoadU(d, x + at), LoadF(d, row + at), sums[u]);
    }
  }
  for (; i + kLanes <= n; i += kLanes)
    sums[0] = hn::MulAdd(hn::LoadU(d, x + i), LoadF(d, row + i), sums[0]);
  float rest = 0.0F;
  for (; i < n; ++i) rest += x[i] * hn::GetLane(LoadF(D1(), row + i));
  const VF sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(d, sum)) + rest;
}

template <class T>
void AddScaled(float a, const T* row, size_t n, float* y) {
  ForVectors(n, [&](auto d, size_t i) {
    StoreF(d, hn::MulAdd(hn::Set(d, a), LoadF(d, row + i), LoadF(d, y + i)), y + i);
  });
}

template <class T>
constexpr RowKernels<T> kRowKernels = {
    {NormRow<T, NormForm::kLayer>, NormRow<T, NormForm::kRms>},
    {NormRowBackward<T, NormForm::kLayer>, NormRowBackward<T, NormForm::kRms>},
    {Gelu<T, GeluForm::kErf>, Gelu<T, GeluForm::kTanh>},
    {GeluBackward<T, GeluForm::kErf>, GeluBackward<T, GeluForm::kTanh>},
    SiluTimes<T>,
    SiluTimesBackward<T>,
    Rotate<T>,
    CrossEntropy<T>,
    CrossEntropyLoss,
    Exponentials,
    Dropout<T>,
    FromFloats<T>,
    Dot<T>,
    AddScaled<T>};

}  // namespace gigagpt::ops::kernels::GIGAGPT_SIMD
HWY_AFTER_NAMESPACE();

#endif
