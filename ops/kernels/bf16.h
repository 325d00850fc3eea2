// bf16 as the kernels see it: the upper half of a float.
#pragma once

#include <cstdint>

namespace gigagpt::ops::kernels {

struct Bf16 {
  uint16_t bits;
};

// Whether bf16 products may use AVX512_BF16 instructions: this CPU has them (and AVX-512 is not
// turned off for a test by limit_target).
bool has_avx512_bf16();

}  // namespace gigagpt::ops::kernels
