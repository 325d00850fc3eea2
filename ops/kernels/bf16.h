// bf16 as the kernels see it: the upper half of a float.
#pragma once

#include <bit>
#include <cstdint>

namespace gigagpt::ops::kernels {

struct Bf16 {
  uint16_t bits;
};

inline float to_float(Bf16 x) {
  return std::bit_cast<float>(uint32_t{x.bits} << 16);
}

// Rounded to nearest even; NaN stays NaN.
inline Bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

// Whether bf16 products may use AVX512_BF16 instructions: this CPU has them (and AVX-512 is not
// turned off for a test by limit_target).
bool has_avx512_bf16();

}  // namespace gigagpt::ops::kernels
