// Numbers in 8 bits by dynamic block-wise quantisation (Dettmers et al. 2021, "8-bit Optimizers via
// Block-wise Quantization"), and floats rounded to bf16 at random. Blocks of kCodeBlock elements on
// the caller's thread; plain arrays, no LibTorch.
//
// A block is divided by its element of largest magnitude, with its sign, so that this one is kept
// exactly; what is then in [-1, 1] becomes the nearest of 256 values: in each of seven decades
// below 1 the means of evenly spaced intervals, of which every decade has twice those of the one
// below it. Decoding and encoding again gives the same codes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/kernels/bf16.h"

namespace gigagpt::ops::kernels {

constexpr size_t kCodeBlock = 2048;

struct CodeKernels {
  // [0] is for numbers of any sign, [1] for those that are not negative: twice as fine. What is
  // above 0 stays so there, as a second moment of 0 would be an update without bound. Encoding
  // returns the block's scale.
  float (*encode[2])(const float* values, uint8_t* codes);
  void (*decode[2])(const uint8_t* codes, float scale, float* values);
  // To one of the two neighbours in bf16, the nearer the likelier, so that the mean is kept: a
  // function of the value, the key and the block's and element's places alone.
  void (*round_at_random)(const float* values, uint64_t key, uint64_t block, Bf16* rounded);
};

const CodeKernels& code_kernels();  // the best for this CPU

}  // namespace gigagpt::ops::kernels
