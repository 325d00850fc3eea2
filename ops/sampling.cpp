#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace gigagpt::ops {
namespace {

constexpr float kForbidden = -std::numeric_limits<float>::infinity();

void forbid_repeats(std::span<float> logits, std::span<const int32_t> history, int64_t n) {
  const auto size = static_cast<int64_t>(history.size());
  if (n < 1 || size < n) return;
  const std::vector<float> before(logits.begin(), logits.end());
  const auto tail = history.last(static_cast<size_t>(n - 1));
  for (int64_t start = 0; start + n <= size; ++start) {
    const auto gram = history.subspan(static_cast<size_t>(start), static_cast<size_t>(n));
    if (std::equal(tail.begin(), tail.end(), gram.begin())) {
      logits[static_cast<size_t>(gram.back())] = kForbidden;
    }
  }
  if (*std::max_element(logits.begin(), logits.end()) == kForbidden) {
    std::copy(before.begin(), before.end(), logits.begin());
  }
}

}  // namespace

int32_t sample(std::span<float> logits, std::span<const int32_t> history, const SamplingRule& rule,
               uint64_t key) {
  if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
    fail(
        "the model's logits are not finite: its weights are damaged, or not those of a model that "
        "learned");
  }
  forbid_repeats(logits, history, rule.no_repeat_ngram_size);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  // Equal logits are ordered by id, so the result does not depend on the sorting algorithm.
  const auto more_likely = [&](int32_t a, int32_t b) {
    const float la = logits[size_t(a)], lb = logits[size_t(b)];
    return la != lb ? la > lb : a < b;
  };
  const int64_t vocab = static_cast<int64_t>(order.size());
  const int64_t wanted = rule.top_k == 0 ? vocab : std::min(rule.top_k, vocab);
  const int64_t kept = rule.temperature == 0.0 ? 1 : wanted;
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), more_likely);
  if (kept == 1) return order[0];
  std::vector<double> cumulative;
  double total = 0;
  for (int64_t i = 0; i < kept; ++i) {
    const double margin =
        double(logits[size_t(order[size_t(i)])]) - double(logits[size_t(order[0])]);
    total += std::exp(margin / rule.temperature);
    cumulative.push_back(total);
  }
  const double draw = uniform(philox(key, 0)[0]) * total;
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), draw);
  return order[size_t(std::min<int64_t>(chosen - cumulative.begin(), kept - 1))];
}

}  // namespace gigagpt::ops
