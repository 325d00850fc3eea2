// Which GELU: the exact x Phi(x), or the approximation with tanh of the first GPT models, which is
// off by up to 5e-4 (both in Hendrycks and Gimpel 2016).
#pragma once

namespace gigagpt::ops {

enum class GeluForm { kErf, kTanh };

}  // namespace gigagpt::ops
