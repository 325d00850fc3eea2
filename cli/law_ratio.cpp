// `gigagpt law ratio`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cli/display.h"
#include "cli/figure.h"
#include "cli/law.h"
#include "cli/runs.h"
#include "gpt/law_fit.h"

namespace gigagpt::cli {
namespace {

constexpr int kParts = 48;  // of a line

// FLOPs over parameters times tokens: 6, and what attention and the embedding add to it.
double flops_factor(const std::vector<LawPoint>& points) {
  double sum = 0;
  for (const LawPoint& point : points) sum += point.flops / (point.parameters * point.tokens);
  return sum / double(points.size());
}

// The loss at so many FLOPs with that number of tokens a parameter.
double loss_at(const ShapeLaw& law, double product, double ratio) {
  const double parameters = std::sqrt(product / ratio);
  return law.loss(parameters, ratio * parameters);
}

// Loss over FLOPs: of the best ratio, of 20, and of models that all see as many tokens.
Panel frontier_panel(const ShapeLaw& law, const std::vector<LawPoint>& points) {
  const double factor = flops_factor(points);
  const auto [least, most] = std::ranges::minmax(points, {}, &LawPoint::flops);
  const double tokens = std::ranges::max(points, {}, &LawPoint::tokens).tokens;
  Curve best{"best tokens a parameter", {}, Curve::Look::kLine, 0};
  Curve twenty{"20 tokens a parameter", {}, Curve::Look::kDashed, 2};
  Curve fixed{fmt::format("{:.2g} tokens for every size", tokens), {}, Curve::Look::kLine, 1};
  for (int i = 0; i <= kParts; ++i) {
    const double flops = least.flops * std::pow(most.flops / least.flops, double(i) / kParts);
    const double product = flops / factor;
    best.points.emplace_back(flops, loss_at(law, product, law.best_ratio(product)));
    twenty.points.emplace_back(flops, loss_at(law, product, 20));
    const double parameters = product / tokens;
    if (parameters >= std::ranges::min(points, {}, &LawPoint::parameters).parameters)
      fixed.points.emplace_back(flops, law.loss(parameters, tokens));
  }
  Curve runs{"runs", {}, Curve::Look::kPoints, -1};
  for (const LawPoint& point : points) runs.points.emplace_back(point.flops, point.loss);
  return {"", "FLOPs, by Cerebras-GPT's count", "validation loss, nats a token", true, true, false,
          {}, {best, twenty, fixed, runs}};
}

// Loss over tokens a parameter at equal FLOPs, above the least.
Panel ratio_panel(const ShapeLaw& law, const std::vector<LawPoint>& points) {
  const double factor = flops_factor(points);
  const auto [least, most] = std::ranges::minmax(points, {}, &LawPoint::flops);
  Panel panel{"", "tokens a parameter", "loss above the least, per cent", true, false, false, {},
              {}};
  int colour = 0;
  for (const double share : {0.0, 0.5, 1.0}) {
    const double flops = least.flops * std::pow(most.flops / least.flops, share);
    const double product = flops / factor, best = law.best_ratio(product);
    Curve curve{fmt::format("{:.2g} FLOPs", flops), {}, Curve::Look::kLine, colour++};
    for (int i = 0; i <= kParts; ++i) {
      const double ratio = 2 * std::pow(100.0, double(i) / kParts);
      curve.points.emplace_back(
          ratio, 100 * (loss_at(law, product, ratio) / loss_at(law, product, best) - 1));
    }
    panel.curves.push_back(std::move(curve));
  }
  return panel;
}

}  // namespace

void compare_ratios(const LawArguments& arguments) {
  if (arguments.picture) check_figure_file(*arguments.picture);
  std::vector<LawPoint> points;
  for (const FinishedRun& run : finished_runs(arguments.runs)) points.push_back(run.point);
  const ShapeLaw law = fit_shape(points);
  print_beside_law(points,
                   [&](const LawPoint& run) { return law.loss(run.parameters, run.tokens); });
  fmt::print("\nL = {:.4f} + {:.4g} N^-{:.4f} + {:.4g} D^-{:.4f} nats a token\n", law.floor, law.a,
             law.alpha, law.b, law.beta);
  const double factor = flops_factor(points);
  for (const double flops : {points.front().flops, points.back().flops}) {
    const double product = flops / factor;
    const Interval sure = best_ratios(points, product);
    const Interval within = law.ratios_within(0.01, product);
    fmt::print(
        "at {:.2g} FLOPs {:.3g} tokens a parameter are best, with 95 % {:.2g} to {:.2g}; from "
        "{:.2g} "
        "to {:.2g} the loss is within 1 % of the least, and with 20 {:.1f} % above it\n",
        flops, law.best_ratio(product), sure.low, sure.high, within.low, within.high,
        100 * (loss_at(law, product, 20) / loss_at(law, product, law.best_ratio(product)) - 1));
  }
  if (!arguments.picture) return;
  draw({.title = "",
        .panels = {frontier_panel(law, points), ratio_panel(law, points)},
        .columns = 2,
        .width = 1200},
       *arguments.picture);
  fmt::print("{}\n", *arguments.picture);
}

}  // namespace gigagpt::cli
