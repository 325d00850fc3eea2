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
constexpr double kStranger = 12;       // spreads that only a run of another kind is away
constexpr size_t kLeastRuns = 5;
constexpr double kOfLine = 2;        // numbers of a line
constexpr size_t kBands[] = {1, 8};  // parts

// The least squares line over log FLOPs at each part; of the other runs, if `left_out` is below
// their number.
CollapseCurve line_of(std::span<const KnownLosses> runs, size_t left_out) {
  const auto each = [&](const auto& use) {
    for (size_t r = 0; r < runs.size(); ++r) {
      if (r != left_out) use(runs[r]);
    }
  };
  double count = 0;
  CollapseCurve curve;
  each([&](const KnownLosses& run) { curve.log_flops += std::log(run.flops), count += 1; });
  curve.log_flops /= count;
  double squares = 0;
  each([&](const KnownLosses& run) {
    squares += std::pow(std::log(run.flops) - curve.log_flops, 2);
  });
  for (size_t part = 0; part < kCollapseParts; ++part) {
    double sum = 0, product = 0;
    each([&](const KnownLosses& run) {
      sum += run.losses[part];
      product += run.losses[part] * (std::log(run.flops) - curve.log_flops);
    });
    curve.level.push_back(sum / count);
    curve.slope.push_back(squares > 0 ? product / squares : 0);
  }
  return curve;
}

// The distance of a run from the level, on average over so many parts up to each; NaN where that is
// not known.
std::vector<double> away(const PartLosses& run, const std::vector<double>& level, size_t parts) {
  std::vector<double> result(kCollapseParts, std::numeric_limits<double>::quiet_NaN());
  for (size_t part = parts - 1; part < kCollapseParts; ++part) {
    double sum = 0;
    for (size_t p = part + 1 - parts; p <= part; ++p) sum += run[p] - level[p];
    result[part] = sum / double(parts);
  }
  return result;
}

// The spread around the curve, pooled over neighbouring parts, as few runs say little about one.
std::vector<double> spread_of(std::span<const KnownLosses> runs, size_t left_out,
                              const CollapseCurve& curve, size_t parts) {
  std::vector<double> squares(kCollapseParts);
  double freedom = -kOfLine;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (r == left_out) continue;
    const auto distances = away(runs[r].losses, curve.at(runs[r].flops), parts);
    for (size_t part = parts - 1; part < kCollapseParts; ++part)
      squares[part] += distances[part] * distances[part];
    freedom += 1;
  }
  std::vector<double> spread;
  for (size_t part = 0; part < kCollapseParts; ++part) {
    double sum = 0, count = 0;
    const size_t first = std::max(part > 1 ? part - 2 : 0, parts - 1);
    for (size_t p = first; p <= std::min(part + 2, kCollapseParts - 1); ++p)
      sum += squares[p], count += freedom;
    spread.push_back(std::max(std::sqrt(sum / std::max(count, 1.0)), kLeastSpread));
  }
  return spread;
}

CollapseBand band_of(std::span<const KnownLosses> runs, const CollapseCurve& curve, size_t parts) {
  double farthest = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto others = line_of(runs, r);
    const auto spread = spread_of(runs, r, others, parts);
    const auto distances = away(runs[r].losses, others.at(runs[r].flops), parts);
    for (size_t part = parts - 1; part < kCollapseParts; ++part)
      farthest = std::max(farthest, std::abs(distances[part]) / spread[part]);
    if (farthest > kStranger) {
      fail("{}: its losses are {:.0f} standard deviations from the curve of the other runs",
           runs[r].name, farthest);
    }
  }
  return {parts, spread_of(runs, runs.size(), curve, parts),
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

std::vector<double> CollapseCurve::at(double flops) const {
  std::vector<double> levels = level;
  for (size_t part = 0; part < kCollapseParts; ++part)
    levels[part] += slope[part] * (std::log(flops) - log_flops);
  return levels;
}

CollapseCurve fit_collapse(std::span<const KnownLosses> runs) {
  if (runs.size() < kLeastRuns)
    fail("a curve of normal runs needs {} of them, not {}", kLeastRuns, runs.size());
  for (const KnownLosses& run : runs) {
    if (!std::ranges::all_of(run.losses, [](double loss) { return std::isfinite(loss); })) {
      fail("{}: its metrics.jsonl does not have steps in each of {} parts of the run", run.name,
           kCollapseParts);
    }
  }
  CollapseCurve curve = line_of(runs, runs.size());
  for (const size_t parts : kBands) curve.bands.push_back(band_of(runs, curve, parts));
  return curve;
}

CollapseWatch::CollapseWatch(const CollapseCurve& curve, double flops, double all_tokens,
                             double final_loss, double final_loss_deviation)
    : level_(curve.at(flops)),
      bands_(curve.bands),
      all_tokens_(all_tokens),
      final_loss_(final_loss),
      deviation_(final_loss_deviation),
      means_(all_tokens, final_loss) {}

double CollapseWatch::expected(double tokens) const {
  // Between the middles of parts, and level at both ends.
  const double share = tokens / all_tokens_ * double(kCollapseParts);
  const double at = std::clamp(share - 0.5, 0.0, kCollapseParts - 1.0);
  const auto part = std::min(size_t(at), kCollapseParts - 2);
  const double weight = at - double(part);
  return final_loss_ * std::exp(level_[part] * (1 - weight) + level_[part + 1] * weight);
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
  for (const CollapseBand& band : bands_) {
    if (warned_ || part + 1 < first_ + band.parts) continue;
    const auto said = judge(part, band);
    if (!said) continue;
    warned_ = true;
    return said;
  }
  return std::nullopt;
}

std::optional<std::string> CollapseWatch::judge(size_t part, const CollapseBand& band) const {
  const double distance = away(means_.losses(), level_, band.parts)[part];
  const double reach = band.reach * std::hypot(band.spread[part], deviation_);
  if (!(std::abs(distance) > reach)) return std::nullopt;
  return fmt::format(
      "the loss over the last {:.3g} % of the run is {:.1f} % {} what is expected; normal runs are "
      "within {:.1f} %",
      100 * double(band.parts) / double(kCollapseParts), 100 * std::abs(std::expm1(distance)),
      distance > 0 ? "above" : "below", 100 * std::abs(std::expm1(distance > 0 ? reach : -reach)));
}

}  // namespace gigagpt
