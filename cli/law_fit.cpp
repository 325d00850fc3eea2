// `gigagpt law fit`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "cli/display.h"
#include "cli/figure.h"
#include "cli/law.h"
#include "cli/runs.h"
#include "gpt/law_fit.h"

namespace gigagpt::cli {
namespace {

// What decides whether losses can be compared.
struct Text {
  std::string run, data, parametrisation;
};

// The validation loss after the last step; throws Error for a run that has none.
double last_loss(const Path& run, int64_t last_step) {
  std::optional<double> loss;
  formats::for_each_logged(run, last_step, [&](const formats::StepMetrics& metrics) {
    loss = metrics.step == last_step ? metrics.val_loss : std::nullopt;
  });
  if (loss && std::isfinite(*loss)) return *loss;
  fail("{}: it has no validation loss of its last step, {}; train with eval_steps", run.string(),
       last_step);
}

LawPoint point_of(const Path& run, Text& text) {
  const auto [state, config] = look_at_run(run);
  if (state.step != config.num_steps) {
    fail("{}: it is not finished: its newest checkpoint is of step {} of {}", run.string(),
         state.step, config.num_steps);
  }
  text = {run.string(), formats::find_text(state.manifest, "data"),
          config.parametrisation.mup_base_width ? "muP" : "the standard parametrisation"};
  const auto layers = config.layers();
  const auto tokens = double(state.tokens);
  return {run_name(run), tokens * published_flops_per_token(layers, config.sequence_length),
          double(engine::parameter_count(layers)), tokens, last_loss(run, state.step)};
}

std::vector<LawPoint> points_of(const std::vector<std::string>& runs, std::string& data) {
  std::vector<LawPoint> points;
  Text first;
  for (const std::string& run : runs) {
    Text text;
    points.push_back(point_of(run, text));
    if (points.size() == 1) first = text;
    if (text.data != first.data) {
      fail("{}: its text ({}) is not that of {} ({}): their losses cannot be compared", run,
           text.data, first.run, first.data);
    }
    if (text.parametrisation != first.parametrisation) {
      fail("{}: it is a model of {}, and {} is one of {}: a law is of one kind", run,
           text.parametrisation, first.run, first.parametrisation);
    }
  }
  data = first.data;
  std::ranges::sort(points, {}, &LawPoint::flops);
  return points;
}

Figure figure_of(const LawFit& fit, const std::vector<LawPoint>& points) {
  const double least = points.front().flops, most = points.back().flops * 4;
  Curve law{"fitted law", {}, Curve::Look::kLine, 0}, runs{"runs", {}, Curve::Look::kPoints, 1};
  Curve band{"95 % of predictions", {}, Curve::Look::kBand, 0};
  constexpr int kParts = 24;
  for (int i = 0; i <= kParts; ++i) {
    const double flops = least * std::pow(most / least, double(i) / kParts);
    const Interval interval = predicted_loss(points, flops);
    law.points.emplace_back(flops, fit.law.loss(flops));
    band.points.emplace_back(flops, interval.low);
    band.upper.push_back(interval.high);
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

void fit_runs(const LawArguments& arguments) {
  if (arguments.picture) check_figure_file(*arguments.picture);
  std::string data;
  const auto points = points_of(arguments.runs, data);
  const LawFit fit = fit_law(points, fmt::format("fitted to {} runs", points.size()));
  fmt::print("{:<24}{:>14}{:>10}{:>12}{:>10}{:>10}{:>9}\n", "run", "parameters", "tokens/N",
             "FLOPs", "loss", "the law", "off by");
  for (const LawPoint& point : points) {
    const double expected = fit.law.loss(point.flops);
    fmt::print("{:<24}{:>14}{:>10.3g}{:>12.3g}{:>10.4f}{:>10.4f}{:>+8.2f} %\n", point.name,
               grouped(std::llround(point.parameters)), point.tokens / point.parameters,
               point.flops, point.loss, expected, 100 * (point.loss / expected - 1));
  }
  fmt::print("\nL = (FLOPs / {:.4g})^-{:.4f} + {:.4f} nats a token\n", fit.law.scale,
             fit.law.exponent, fit.law.floor);
  fmt::print(
      "with 95 %: exponent {:.3f} to {:.3f}, floor {:.3f} to {:.3f}; losses scatter by {:.2f} %\n",
      fit.exponent.low, fit.exponent.high, fit.floor.low, fit.floor.high, 100 * fit.scatter);
  const auto ratio = [](const LawPoint& point) { return point.tokens / point.parameters; };
  const auto [few, many] = std::ranges::minmax(points, {}, ratio);
  if (ratio(many) > 1.5 * ratio(few)) {
    fmt::print(
        "note: the runs have {:.3g} to {:.3g} tokens a parameter; a law over FLOPs is of one "
        "ratio, "
        "such as 20\n",
        ratio(few), ratio(many));
  }
  const double larger = 4 * points.back().flops;
  const Interval interval = predicted_loss(points, larger);
  fmt::print("a run of four times the FLOPs of the largest: {:.4f}, between {:.4f} and {:.4f}\n",
             fit.law.loss(larger), interval.low, interval.high);
  if (arguments.out) {
    write_law(*arguments.out, fit, points, data);
    fmt::print("{}\n", *arguments.out);
  }
  if (!arguments.picture) return;
  draw(figure_of(fit, points), *arguments.picture);
  fmt::print("{}\n", *arguments.picture);
}

}  // namespace gigagpt::cli
