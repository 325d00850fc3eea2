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

// The distance of normal runs from a curve, on average over some parts: over one, a burst shows;
// over more, a run that is off by little for long.
struct CollapseBand {
  size_t parts = 1;
  std::vector<double> spread;  // standard deviation of runs over the parts up to each
  double reach = 0;            // standard deviations that a normal run stays within
};

// The curve of a family: of its middle size, and how it moves with the size.
struct CollapseCurve {
  double log_flops = 0;       // of that size
  std::vector<double> level;  // of ln(loss / final loss), for each part
  std::vector<double> slope;  // of the level over log FLOPs
  std::vector<CollapseBand> bands;

  // The level of a run of that size.
  std::vector<double> at(double flops) const;
};

struct KnownLosses {
  std::string name;
  double flops = 0;
  PartLosses losses;
};

// Fits the curve to runs, at each part a line over log FLOPs. Each run is held against the curve of
// the others, and `reach` is a third beyond the farthest that any of them went, at least 4. Throws
// Error for fewer than five runs, and names one that lacks a part or is not like the others.
CollapseCurve fit_collapse(std::span<const KnownLosses> runs);

// Follows a run by a curve. Use from one thread.
class CollapseWatch {
 public:
  // `final_loss_deviation` is the standard deviation of the final loss that is expected,
  // relatively.
  CollapseWatch(const CollapseCurve& curve, double flops, double all_tokens, double final_loss,
                double final_loss_deviation);
  double expected(double tokens) const;
  // Returns a message when a part is complete that is the first to lie beyond a band, e.g. "the
  // loss over the last 2.5 % of the run is 14.2 % above what is expected; ..."; once.
  std::optional<std::string> add(double tokens, double loss);

 private:
  std::optional<std::string> judge(size_t part);
  std::optional<std::string> judge(size_t part, const CollapseBand& band) const;

  std::vector<double> level_;
  std::vector<CollapseBand> bands_;
  double all_tokens_, final_loss_, deviation_;
  PartMeans means_;
  size_t first_ = 0;            // of the parts that were seen from their beginning
  std::optional<size_t> part_;  // of the newest step
  bool warned_ = false;
};

}  // namespace gigagpt
