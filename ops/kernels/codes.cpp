// The loops of ops/kernels/codes.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/kernels/codes.cpp"
#include <hwy/foreach_target.h>

#include <cmath>

#include "ops/kernels/codes.h"
#include "ops/kernels/philox-inl.h"
#include "ops/kernels/simd-inl.h"

#ifndef GIGAGPT_OPS_KERNELS_CODES_TABLES_
#define GIGAGPT_OPS_KERNELS_CODES_TABLES_
namespace gigagpt::ops::kernels {

// The magnitudes that codes stand for, ascending from 0 to 1, and how to find the nearest.
struct CodeTable {
  // The upper 16 bits of a magnitude, less those of 2^-23, are the place in `guess`: no two borders
  // between magnitudes have the same. Below 2^-23 everything is nearest to 0.
  static constexpr int32_t kFirst = (127 - 23) << 7;
  static constexpr int32_t kPlaces = (23 << 7) + 1;
  int32_t top;             // the rank of 1
  float magnitude[256];    // by rank
  float border[256];       // from which the next rank is nearer
  int32_t guess[kPlaces];  // the rank of the place's smallest magnitude
  float value[256];        // by code
};

inline CodeTable make_code_table(bool positive) {
  constexpr int kDecades = 7;
  CodeTable table = {};
  int rank = 1;
  for (int decade = 0; decade < kDecades; ++decade) {
    const int intervals = (positive ? 2 : 1) << decade;
    for (int i = 0; i < intervals; ++i) {
      const double mean = 0.1 + 0.9 * (i + 0.5) / intervals;
      table.magnitude[rank++] = float(mean * std::pow(10.0, decade - kDecades + 1));
    }
  }
  table.top = rank;
  table.magnitude[rank] = 1;
  for (int r = 0; r < rank; ++r) {
    table.border[r] = 0.5F * (table.magnitude[r] + table.magnitude[r + 1]);
  }
  table.border[rank] = 2;
  int32_t nearest = 0;
  for (int32_t place = 0; place < CodeTable::kPlaces; ++place) {
    const float least = to_float({uint16_t(CodeTable::kFirst + place)});
    while (least >= table.border[nearest]) ++nearest;
    table.guess[place] = nearest;
  }
  for (int code = 0; code < 256; ++code) {
    // Of any sign: the rank and the sign's bit, but -0 stands for 1.
    const float magnitude = table.magnitude[positive ? code : code & 127];
    const float sign = !positive && code > 128 ? -1.0F : 1.0F;
    table.value[code] = !positive && code == 128 ? 1.0F : sign * magnitude;
  }
  return table;
}

inline const CodeTable& code_table(bool positive) {
  static const CodeTable tables[] = {make_code_table(false), make_code_table(true)};
  return tables[positive ? 1 : 0];
}

}  // namespace gigagpt::ops::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace gigagpt::ops::kernels::HWY_NAMESPACE {

using DI = hn::Rebind<int32_t, DF>;
using DU = hn::Rebind<uint32_t, DF>;
using DB = hn::Rebind<uint8_t, DF>;

// Ranks of the nearest magnitudes of |x| <= 1.
HWY_INLINE hn::Vec<DI> Ranks(const CodeTable& table, VF magnitude) {
  const DI di;
  const auto upper = hn::ShiftRight<16>(hn::BitCast(di, magnitude));
  const auto place = hn::Max(hn::Sub(upper, hn::Set(di, CodeTable::kFirst)), hn::Zero(di));
  const auto guess = hn::GatherIndex(di, table.guess, place);
  const auto border = hn::GatherIndex(DF(), table.border, guess);
  const auto above = hn::VecFromMask(di, hn::RebindMask(di, hn::Ge(magnitude, border)));
  return hn::Sub(guess, above);  // a true mask is -1
}

HWY_INLINE void StoreCodes(hn::Vec<DI> codes, uint8_t* to) {
  hn::StoreU(hn::DemoteTo(DB(), codes), DB(), to);
}

// Codes of |x| <= 1 of any sign.
HWY_INLINE hn::Vec<DI> SignedCodes(const CodeTable& table, VF x) {
  const DI di;
  const auto rank = Ranks(table, hn::Abs(x));
  const auto top = hn::Set(di, table.top), sign_bit = hn::Set(di, 128);
  const auto negative = hn::RebindMask(di, hn::Lt(x, hn::Zero(DF())));
  // The negative side has no 1; neither a negative 0 nor its bits are wanted for 0.
  const auto below_top = hn::Min(rank, hn::Set(di, 127));
  return hn::IfThenElse(negative,
                        hn::IfThenElseZero(hn::Gt(rank, hn::Zero(di)), hn::Or(below_top, sign_bit)),
                        hn::IfThenElse(hn::Eq(rank, top), sign_bit, rank));
}

// Codes of x that are not negative; `value`, not yet divided, says which are above 0.
HWY_INLINE hn::Vec<DI> PositiveCodes(const CodeTable& table, VF value, VF x) {
  const DI di;
  const auto one = hn::VecFromMask(di, hn::RebindMask(di, hn::Gt(value, hn::Zero(DF()))));
  return hn::Max(Ranks(table, x), hn::And(one, hn::Set(di, 1)));
}

template <bool kPositive>
float Encode(const float* values, uint8_t* codes) {
  const DF d;
  auto most = hn::Zero(d), least = hn::Zero(d);
  for (size_t i = 0; i < kCodeBlock; i += kLanes) {
    const auto x = LoadF(d, values + i);
    most = hn::Max(most, x);
    if (!kPositive) least = hn::Min(least, x);
  }
  const float above = hn::GetLane(hn::MaxOfLanes(d, most));
  const float below = hn::GetLane(hn::MinOfLanes(d, least));
  const float scale = kPositive || above >= -below ? above : below;
  const CodeTable& table = code_table(kPositive);
  const auto divisor = hn::Set(d, scale == 0 ? 1.0F : scale);
  for (size_t i = 0; i < kCodeBlock; i += kLanes) {
    const auto value = LoadF(d, values + i), x = hn::Div(value, divisor);
    StoreCodes(kPositive ? PositiveCodes(table, value, x) : SignedCodes(table, x), codes + i);
  }
  return scale;
}

template <bool kPositive>
void Decode(const uint8_t* codes, float scale, float* values) {
  const CodeTable& table = code_table(kPositive);
  const DF d;
  for (size_t i = 0; i < kCodeBlock; i += kLanes) {
    const auto code = hn::PromoteTo(DI(), hn::LoadU(DB(), codes + i));
    StoreF(d, hn::Mul(hn::GatherIndex(d, table.value, code), hn::Set(d, scale)), values + i);
  }
}

// Each counter has eight numbers of 16 bits, for elements that are kStride apart.
void RoundAtRandom(const float* values, uint64_t key, uint64_t block, Bf16* rounded) {
  constexpr size_t kStride = kCodeBlock / 8;
  const DU du;
  const DI di;
  const hn::Rebind<uint16_t, DF> d16;
  const auto store = [&](hn::Vec<DU> random, size_t i) {
    const auto bits = hn::BitCast(du, LoadF(DF(), values + i));
    const auto upper = hn::ShiftRight<16>(hn::Add(bits, random));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, upper)), d16,
               reinterpret_cast<uint16_t*>(rounded + i));
  };
  for (size_t i = 0; i < kStride; i += kLanes) {
    const uint64_t counter = block * kStride + i;  // kStride divides 2^32: no carry in a vector
    hn::Vec<DU> words[4];
    Philox(du, key, hn::Iota(du, uint32_t(counter)), hn::Set(du, uint32_t(counter >> 32)), words);
    for (size_t w = 0; w < 4; ++w) {
      store(hn::And(words[w], hn::Set(du, 0xFFFF)), i + 2 * w * kStride);
      store(hn::ShiftRight<16>(words[w]), i + (2 * w + 1) * kStride);
    }
  }
}

const CodeKernels& Codes() {
  static constexpr CodeKernels kernels = {
      {Encode<false>, Encode<true>}, {Decode<false>, Decode<true>}, RoundAtRandom};
  return kernels;
}

}  // namespace gigagpt::ops::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gigagpt::ops::kernels {

HWY_EXPORT(Codes);
const CodeKernels& code_kernels() {
  return HWY_DYNAMIC_DISPATCH(Codes)();
}

}  // namespace gigagpt::ops::kernels
#endif
