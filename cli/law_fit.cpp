// `gigagpt law fit`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "base/error.h"
#include "cli/display.h"
#include "cli/figure.h"
#include "cli/law.h"
#include "cli/output.h"
#include "cli/runs.h"
#include "formats/dataset.h"
#include "formats/tokenizer.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {
namespace {

// Tokens in a byte of validation text; nothing if the text is no longer here, or has no tokenizer.
std::optional<double> tokens_per_byte(const FinishedRun& run) {
  try {
    const Path folder = formats::find_dataset(run.dataset);
    if (formats::fingerprint(folder / "train.bin") != run.kind.data) return std::nullopt;
    const auto tokenizer = formats::Tokenizer::load(folder);
    const auto vocab_size = formats::read_dataset_meta(folder).vocab_size;
    const auto file = formats::open_split(run.dataset, "val", vocab_size, 1);
    std::vector<int64_t> tokens(1 << 16), counts(static_cast<size_t>(vocab_size));
    for (int64_t first = 0; first < file.size(); first += int64_t(tokens.size())) {
      const int64_t count = std::min(int64_t(tokens.size()), file.size() - first);
      file.copy(first, count, vocab_size, tokens.data());
      for (int64_t i = 0; i < count; ++i) ++counts[size_t(tokens[size_t(i)])];
    }
    double bytes = 0;
    for (size_t token = 0; token < counts.size(); ++token)
      bytes += double(counts[token]) * double(tokenizer.decode(int32_t(token)).size());
    return double(file.size()) / bytes;
  } catch (const Error&) {
    return std::nullopt;
  }
}

CollapseCurve curve_of(const std::vector<FinishedRun>& runs, const ScalingLaw& law) {
  std::vector<KnownLosses> losses;
  for (const FinishedRun& run : runs) {
    PartMeans means(run.point.tokens, law.loss(run.point.flops));
    formats::for_each_logged(
        run.path, std::numeric_limits<int64_t>::max(),
        [&](const formats::StepMetrics& row) { means.add(double(row.tokens), row.loss); });
    losses.push_back({run.path.string(), run.point.flops, means.losses()});
  }
  return fit_collapse(losses);
}

FittedLaw fit_to(const std::vector<FinishedRun>& runs) {
  FittedLaw law;
  for (const FinishedRun& run : runs) law.runs.push_back(run.point);
  law.fit = fit_law(law.runs, fmt::format("fitted to {} runs", runs.size()));
  law.kind = runs.front().kind;
  law.tokens_per_byte = tokens_per_byte(runs.front());
  try {
    law.curve = curve_of(runs, law.fit.law);
  } catch (const Error& error) {
    print_message("note: no curve of normal runs: {}", error.what());
  }
  return law;
}

Figure figure_of(const LawFit& fit, const std::vector<LawPoint>& points) {
  const double least = points.front().flops, most = points.back().flops * 4;
  Curve law{"fitted law", {}, Curve::Look::kLine, 0}, runs{"runs", {}, Curve::Look::kPoints, 1};
  Curve band{"95 % of predictions", {}, Curve::Look::kBand, 0};
  constexpr int kParts = 24;
  std::vector<double> flops;
  for (int i = 0; i <= kParts; ++i)
    flops.push_back(least * std::pow(most / least, double(i) / kParts));
  const auto intervals = predicted_losses(points, flops);
  for (size_t i = 0; i < flops.size(); ++i) {
    law.points.emplace_back(flops[i], fit.law.loss(flops[i]));
    band.points.emplace_back(flops[i], intervals[i].low);
    band.upper.push_back(intervals[i].high);
  }
  for (const LawPoint& point : points) runs.points.emplace_back(point.flops, point.loss);
  Figure figure{.title = fmt::format("L = (FLOPs / {:.3g})^-{:.3f} + {:.3f}", fit.law.scale,
                                     fit.law.exponent, fit.law.floor),
                .panels = {}};
  figure.panels.push_back({"",
                           "FLOPs, by Cerebras-GPT's count",
                           "validation loss, nats a token",
                           true,
                           true,
                           false,
                           {},
                           {band, law, runs}});
  return figure;
}

}  // namespace

namespace {

// Prints the widest of each band in the second half of a run.
void print_curve(const CollapseCurve& curve) {
  std::string text;
  for (const CollapseBand& band : curve.bands) {
    const auto half = band.spread.begin() + kCollapseParts / 2;
    const double spread = *std::max_element(half, band.spread.end());
    text += fmt::format("{}{:.1f} % over {:.3g} % of it", text.empty() ? "" : ", ",
                        100 * std::expm1(band.reach * spread),
                        100 * double(band.parts) / double(kCollapseParts));
  }
  fmt::print("in the second half of a run, normal losses are within {}\n", text);
}

void print_fit(const FittedLaw& fitted) {
  const auto& [law, exponent, floor, scatter] = fitted.fit;
  print_beside_law(fitted.runs,
                   [&](const LawPoint& run) { return fitted.fit.law.loss(run.flops); });
  fmt::print("\nL = (FLOPs / {:.4g})^-{:.4f} + {:.4f} nats a token\n", law.scale, law.exponent,
             law.floor);
  fmt::print(
      "with 95 %: exponent {:.3f} to {:.3f}, floor {:.3f} to {:.3f}; losses scatter by {:.2f} %\n",
      exponent.low, exponent.high, floor.low, floor.high, 100 * scatter);
  const double larger = 4 * fitted.runs.back().flops;
  const Interval interval = predicted_loss(fitted.runs, larger);
  fmt::print("a run of four times the FLOPs of the largest: {:.4f}, between {:.4f} and {:.4f}\n",
             law.loss(larger), interval.low, interval.high);
  if (fitted.tokens_per_byte) {
    fmt::print("bits a byte are the nats a token times {:.4f}, on this text\n",
               *fitted.tokens_per_byte / std::numbers::ln2);
  }
  if (fitted.curve) print_curve(*fitted.curve);
  const auto ratio = [](const LawPoint& point) { return point.tokens / point.parameters; };
  const auto [few, many] = std::ranges::minmax(fitted.runs, {}, ratio);
  if (ratio(many) <= 1.5 * ratio(few)) return;
  fmt::print(
      "note: the runs have {:.3g} to {:.3g} tokens a parameter; a law over FLOPs is of one ratio, "
      "such as 20\n",
      ratio(few), ratio(many));
}

}  // namespace

void fit_runs(const LawArguments& arguments) {
  if (arguments.picture) check_figure_file(*arguments.picture);
  const FittedLaw law = fit_to(finished_runs(arguments.runs));
  print_fit(law);
  if (arguments.out) {
    write_law(*arguments.out, law);
    fmt::print("{}\n", *arguments.out);
  }
  if (!arguments.picture) return;
  draw(figure_of(law.fit, law.runs), *arguments.picture);
  fmt::print("{}\n", *arguments.picture);
}

}  // namespace gigagpt::cli
