// Checks of a model that predicts tokens.
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "base/error.h"
#include "engine/check/check_parts.h"
#include "engine/run/executor.h"

namespace gigagpt::engine::checks {
namespace {

// Sums of fp32 products in another order, a few layers deep, as a share of the largest logit.
constexpr double kLogitError = 1e-4;

// [B, T, V]
at::Tensor logits_of(const Trial& trial, const at::Tensor& tokens) {
  const MicroBatch batch{tokens};
  return output_of(trial, trial.values, {batch});
}

double apart(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

}  // namespace

Verdict check_causality(const Trial& trial) {
  const at::Tensor tokens = trial.subject.batches.front().input;
  const int64_t T = tokens.size(1);
  const at::Tensor logits = logits_of(trial, tokens);
  for (int64_t position = 0; position < T; ++position) {
    at::Tensor changed = tokens.clone();
    changed.narrow(1, position, T - position) = tokens.flip(1).narrow(1, 0, T - position);
    changed.select(1, position) = (tokens.select(1, position) + 1) % logits.size(2);
    const at::Tensor others = logits_of(trial, changed);
    for (int64_t before = 0; before < position; ++before) {
      if (apart(others.select(1, before), logits.select(1, before)) <= kLogitError) continue;
      return bad(
          fmt::format("the logits at position {} change with the token at position {} or later",
                      before, position));
    }
    if (apart(others.select(1, position), logits.select(1, position)) <= kLogitError)
      return bad(fmt::format("the logits at position {} do not change with its token", position));
  }
  return good(fmt::format("{} positions", T));
}

Verdict check_documents(const Trial& trial) {
  const at::Tensor tokens = trial.subject.batches.front().input;
  const int64_t T = tokens.size(1), first = T / 3, last = T - first;
  MicroBatch packed{tokens};
  packed.positions = at::cat({at::arange(first), at::arange(last)}).expand({tokens.size(0), T});
  packed.documents = at::cat({at::zeros(first, at::kLong), at::full(last, first, at::kLong)});
  packed.documents = packed.documents.expand({tokens.size(0), T}).contiguous();
  const at::Tensor logits = output_of(trial, trial.values, {packed});
  const double before =
      apart(logits.narrow(1, 0, first), logits_of(trial, tokens.narrow(1, 0, first)));
  const double after =
      apart(logits.narrow(1, first, last), logits_of(trial, tokens.narrow(1, first, last)));
  if (std::max(before, after) <= kLogitError)
    return good(fmt::format("within {:.1e}", std::max(before, after)));
  return bad(
      fmt::format("behind another document the logits of one are {:.2g} of the largest off; "
                  "pass.attention_rule() says where documents begin, as pass.batch.documents does, "
                  "and pass.batch.positions counts from there",
                  std::max(before, after)));
}

Verdict check_sampling(const Trial& trial) {
  Store store(trial.specs, {Precision::kFp32, /*training=*/false});
  fill(store, trial.values);
  Executor executor(trial.model, store, {});
  const at::Tensor tokens = trial.subject.batches.front().input.narrow(0, 0, 1);
  const at::Tensor whole = logits_of(trial, tokens);
  const int64_t T = tokens.size(1);
  std::vector<ops::Memory> memories(trial.model.size(), ops::Memory(T));
  double worst = 0;
  for (int64_t position = 0, count = T / 2; position < T; position += count, count = 1) {
    if (position > T / 2 + 2) count = T - position;
    MicroBatch batch{tokens.narrow(1, position, count)};
    batch.positions = at::arange(position, position + count).unsqueeze(0);
    const at::Tensor part = executor.infer(batch, memories);
    const int64_t last = position + count - 1;
    if (part.size(1) != 1) {
      return bad(fmt::format("the head returns {} positions where pass.last_only asks for one",
                             part.size(1)));
    }
    const double error = apart(part, whole.narrow(1, last, 1));
    if (error > kLogitError) {
      return bad(
          fmt::format("at position {}, after {} tokens at once, the logits are {:.2g} of the "
                      "largest off; positions come from pass.batch.positions, and what is needed "
                      "of earlier tokens from pass.memory",
                      last, count, error));
    }
    worst = std::max(worst, error);
  }
  return good(fmt::format("within {:.1e}", worst));
}

}  // namespace gigagpt::engine::checks
