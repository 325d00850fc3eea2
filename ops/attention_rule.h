// Which keys a query of attention sees.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace gigagpt::ops {

// Query i of Tq is at position p = i + Tk - Tq of Tk keys. It sees key j if all of these hold:
// j <= p or j < prefix; j > p - window; j >= documents[row, i]; sees(row, p, j). Whole blocks of
// 64 x 64 that nobody sees are skipped, and there is no T x T matrix. Each query must see a key.
struct AttentionRule {
  int64_t heads = 1;
  // Instead of all that: added to the scores, [.., Tq, Tk] as it broadcasts. By plain ATen.
  at::Tensor mask = {};
  at::Tensor documents = {};  // [B, Tq] int64: where each query's document begins; undefined: at 0
  double dropout_p = 0.0;     // on the probabilities, drawn as in ops/kernels/attention.h
  uint64_t key = 0;           // of dropout
  int64_t window = 0;         // keys that a query looks back on, its own included; 0: all
  int64_t prefix = 0;         // keys that are seen by those before them too
  // Called from several threads, once for each pair that the rest lets through, and pass.
  std::function<bool(int64_t row, int64_t position, int64_t key)> sees = {};
  bool over_size = false;  // scores are q k^T / D, as in muP, instead of q k^T / sqrt(D)

  bool is_causal() const { return !documents.defined() && window == 0 && prefix == 0 && !sees; }
};

}  // namespace gigagpt::ops
