#include "gpt/collapse.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace gigagpt {
namespace {

constexpr double kLeastReach = 4;
constexpr double kLeastSpread = 2e-3;  // of losses of one kind that hardly differ
constexpr double kBeyond = 4.0 / 3;    // of the farthest that a known run went
constexpr size_t kLeastRuns = 4;
constexpr size_t kBands[] = {1, 8};  // parts

// The mean of the runs at each part, leaving one out if it is below their number; NaN where none
// has steps.
std::vector<double> level_of(std::span<const PartLosses> runs, size_t left_out) {
  std::vector<double> level;
  for (size_t part = 0; part < kCollapseParts; ++part) {
    double sum = 0, count = 0;
    for (size_t r = 0; r < runs.size(); ++r) {
      if (r != left_out && std::isfinite(runs[r][part])) sum += runs[r][part], count += 1;
    }
    level.push_back(sum / count);
  }
  return level;
}

// How far a run is from the level on average over so many parts up to each; NaN where that is not
// known.
std::vector<double> away(const PartLosses& run, const std::vector<double>& level, size_t parts) {
  std::vector<double> result(kCollapseParts, std::numeric_limits<double>::quiet_NaN());
  for (size_t part = parts - 1; part < kCollapseParts; ++part) {
    double sum = 0;
    for (size_t p = part + 1 - parts; p <= part; ++p) sum += run[p] - level[p];
    result[part] = sum / double(parts);
  }
  return result;
}

// The spread around the level, pooled over neighbouring parts, as few runs say little about one.
std::vector<double> spread_of(std::span<const PartLosses> runs, size_t left_out,
                              const std::vector<double>& level, size_t parts) {
  std::vector<double> squares(kCollapseParts), freedom(kCollapseParts);
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto distances = away(runs[r], level, parts);
    for (size_t part = 0; part < kCollapseParts && r != left_out; ++part) {
      if (!std::isfinite(distances[part])) continue;
      squares[part] += distances[part] * distances[part];
      freedom[part] += 1;
    }
  }
  const double runs_used = double(runs.size()) - (left_out < runs.size() ? 1 : 0);
  std::vector<double> spread;
  for (size_t part = 0; part < kCollapseParts; ++part) {
    double sum = 0, count = 0;
    for (size_t p = part > 1 ? part - 2 : 0; p <= std::min(part + 2, kCollapseParts - 1); ++p)
      sum += squares[p], count += freedom[p];
    count *= (runs_used - 1) / runs_used;  // the level is theirs
    spread.push_back(std::max(std::sqrt(sum / std::max(count, 1.0)), kLeastSpread));
  }
  return spread;
}

CollapseBand band_of(std::span<const PartLosses> runs, const std::vector<double>& level,
                     size_t parts) {
  double farthest = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto others = level_of(runs, r);
    const auto spread = spread_of(runs, r, others, parts), distances = away(runs[r], others, parts);
    for (size_t part = 0; part < kCollapseParts; ++part) {
      const double deviations = std::abs(distances[part]) / spread[part];
      if (std::isfinite(deviations)) farthest = std::max(farthest, deviations);
    }
  }
  return {parts, spread_of(runs, runs.size(), level, parts),
          std::max(kLeastReach, kBeyond * farthest)};
}

}  // namespace

PartMeans::PartMeans(double all_tokens, double final_loss)
    : all_tokens_(all_tokens), final_loss_(final_loss), sums_(kCollapseParts) {}

size_t PartMeans::part_of(double tokens) const {
  const double part = std::ceil(tokens / all_tokens_ * double(kCollapseParts)) - 1;
  return size_t(std::clamp(part, 0.0, double(kCollapseParts - 1)));
}

void PartMeans::add(double tokens, double loss) {
  auto& [sum, count] = sums_[part_of(tokens)];
  sum += loss, count += 1;
}

double PartMeans::mean(size_t part) const {
  const auto& [sum, count] = sums_[part];
  return sum / count;
}

PartLosses PartMeans::losses() const {
  PartLosses losses;
  for (size_t part = 0; part < kCollapseParts; ++part)
    losses.push_back(std::log(mean(part) / final_loss_));
  return losses;
}

double CollapseCurve::loss(double share, double final_loss) const {
  // Between the middles of parts, and level at both ends.
  const double at = std::clamp(share * double(kCollapseParts) - 0.5, 0.0, kCollapseParts - 1.0);
  const auto part = std::min(size_t(at), kCollapseParts - 2);
  const double weight = at - double(part);
  return final_loss * std::exp(level[part] * (1 - weight) + level[part + 1] * weight);
}

CollapseCurve fit_collapse(std::span<const PartLosses> runs) {
  if (runs.size() < kLeastRuns)
    fail("a curve of normal runs needs {} of them, not {}", kLeastRuns, runs.size());
  CollapseCurve curve{level_of(runs, runs.size()), {}};
  if (!std::ranges::all_of(curve.level, [](double level) { return std::isfinite(level); }))
    fail("the runs have too few steps for a curve: some {} or more are needed", kCollapseParts);
  for (const size_t parts : kBands) curve.bands.push_back(band_of(runs, curve.level, parts));
  return curve;
}

CollapseWatch::CollapseWatch(CollapseCurve curve, double all_tokens, double final_loss,
                             double final_loss_deviation)
    : curve_(std::move(curve)),
      all_tokens_(all_tokens),
      final_loss_(final_loss),
      deviation_(final_loss_deviation),
      means_(all_tokens, final_loss) {}

double CollapseWatch::expected(double tokens) const {
  return curve_.loss(tokens / all_tokens_, final_loss_);
}

std::optional<std::string> CollapseWatch::add(double tokens, double loss) {
  const size_t part = means_.part_of(tokens);
  if (!part_) first_ = part == 0 ? 0 : part + 1;
  std::optional<std::string> said;
  if (part_ && part != *part_) said = judge(*part_);
  part_ = part;
  means_.add(tokens, loss);
  if (tokens >= all_tokens_ && !said) said = judge(part);
  return said;
}

std::optional<std::string> CollapseWatch::judge(size_t part) {
  for (const CollapseBand& band : curve_.bands) {
    if (warned_ || part + 1 < first_ + band.parts) continue;
    const auto said = judge(part, band);
    if (!said) continue;
    warned_ = true;
    return said;
  }
  return std::nullopt;
}

std::optional<std::string> CollapseWatch::judge(size_t part, const CollapseBand& band) const {
  const double distance = away(means_.losses(), curve_.level, band.parts)[part];
  const double reach = band.reach * std::hypot(band.spread[part], deviation_);
  if (!(std::abs(distance) > reach)) return std::nullopt;
  return fmt::format(
      "the loss of the last {:.3g} tokens is {:.1f} % {} what is expected; normal runs are within "
      "{:.1f} %",
      all_tokens_ * double(band.parts) / double(kCollapseParts),
      100 * std::abs(std::exp(distance) - 1), distance > 0 ? "above" : "below",
      100 * (std::exp(reach) - 1));
}

}  // namespace gigagpt
