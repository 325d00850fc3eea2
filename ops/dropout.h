// Dropout as a plain function, for ops that apply it inside.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace gigagpt::ops {

// A new tensor with each element of x zeroed with probability p, the rest divided by 1 - p. Element
// i is drawn as element first + i of the key's row, so a part drops what the whole would.
at::Tensor drop(const at::Tensor& x, double p, uint64_t key, int64_t first = 0);

}  // namespace gigagpt::ops
