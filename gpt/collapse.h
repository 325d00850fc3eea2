// The curve of training losses that compute-optimal models of a family share, once the loss is
// divided by its final value and the tokens by the run's (Bergsma et al. 2025, "Scaling with
// collapse", arXiv 2509.25087; Qiu et al. 2025, arXiv 2507.02119), and whether a run follows it. No
// LibTorch.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace gigagpt {

// A run is cut into this many parts of equal tokens, and the losses of a part are averaged.
inline constexpr size_t kCollapseParts = 40;

// A run's training losses by part, as ln(mean loss / final loss); NaN for a part without steps.
using PartLosses = std::vector<double>;

// Collects PartLosses from steps in any order.
class PartMeans {
 public:
  PartMeans(double all_tokens, double final_loss);
  // A step that ends after `tokens` of the run.
  void add(double tokens, double loss);
  // The part that the step before `tokens` is in, and what is known of it.
  size_t part_of(double tokens) const;
  double mean(size_t part) const;
  PartLosses losses() const;

 private:
  double all_tokens_, final_loss_;
  std::vector<std::pair<double, double>> sums_;  // losses, and how many
};

// How far normal runs are from a curve, on average over some parts: over one, a burst shows; over
// more, what is off by little for long.
struct CollapseBand {
  size_t parts = 1;
  std::vector<double> spread;  // standard deviation of runs over the parts up to each
  double reach = 0;            // standard deviations that a normal run stays within
};

struct CollapseCurve {
  std::vector<double> level;  // of ln(loss / final loss), for each part
  std::vector<CollapseBand> bands;

  // The loss expected after that share of the tokens, for a run that ends at `final_loss`.
  double loss(double share, double final_loss) const;
};

// Fits the curve of runs. Each run is held against the curve of the others, and `reach` is a third
// beyond the farthest that any of them went, at least 4. Throws Error for fewer than four runs.
CollapseCurve fit_collapse(std::span<const PartLosses> runs);

// Follows a run by a curve. Use from one thread.
class CollapseWatch {
 public:
  // `final_loss_deviation` is how far the final loss may be from what is expected, relatively.
  CollapseWatch(CollapseCurve curve, double all_tokens, double final_loss,
                double final_loss_deviation);
  double expected(double tokens) const;
  // What to say when a part is complete that is the first to lie beyond the band, e.g. "the loss,
  // 3.90 over the last 25,000 tokens, is 14 % above ..."; once.
  std::optional<std::string> add(double tokens, double loss);

 private:
  std::optional<std::string> judge(size_t part);
  std::optional<std::string> judge(size_t part, const CollapseBand& band) const;

  CollapseCurve curve_;
  double all_tokens_, final_loss_, deviation_;
  PartMeans means_;
  size_t first_ = 0;            // of the parts that were seen from their beginning
  std::optional<size_t> part_;  // of the newest step
  bool warned_ = false;
};

}  // namespace gigagpt
