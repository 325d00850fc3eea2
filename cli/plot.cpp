#include "cli/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "cli/runs.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {
namespace {

using formats::StepMetrics;

constexpr size_t kMostPoints = 1000;  // of a curve; more cannot be seen

// What is on the horizontal axis for each step of a run.
class Position {
 public:
  Position(const std::string& axis, const Path& run) : axis_(axis) {
    if (axis_ != "flops") return;
    const GPTConfig config = look_at_run(run).config;
    flops_per_token_ = published_flops_per_token(config.layers(), config.sequence_length);
  }
  double operator()(const StepMetrics& metrics) {
    hours_ += metrics.step_ms / 3.6e6;
    if (axis_ == "steps") return double(metrics.step);
    if (axis_ == "hours") return hours_;
    return double(metrics.tokens) * (axis_ == "flops" ? flops_per_token_ : 1);
  }

 private:
  std::string axis_;
  double flops_per_token_ = 0, hours_ = 0;
};

// The mean of as many steps as `share` is of the run, around each of at most kMostPoints.
std::vector<std::pair<double, double>> smoothed(
    const std::vector<std::pair<double, double>>& points, double share) {
  const auto n = int64_t(points.size());
  const auto half = int64_t(share * double(n) / 2);
  std::vector<double> sums(points.size() + 1);
  for (size_t i = 0; i < points.size(); ++i) sums[i + 1] = sums[i] + points[i].second;
  std::vector<std::pair<double, double>> result;
  const int64_t stride = std::max<int64_t>(n / int64_t(kMostPoints), 1);
  for (int64_t i = 0; i < n; i += stride) {
    // Narrower at the ends, so that it stays around the point.
    const int64_t around = std::min({half, i, n - 1 - i});
    const double sum = sums[size_t(i + around + 1)] - sums[size_t(i - around)];
    result.emplace_back(points[size_t(i)].first, sum / double(2 * around + 1));
  }
  return result;
}

// The training loss as a line and validation as points, in one colour.
void add_run(const Path& run, const PlotArguments& arguments, int colour, Panel& panel) {
  Position position(arguments.x, run);
  std::vector<std::pair<double, double>> loss, validation;
  formats::for_each_logged(run, std::numeric_limits<int64_t>::max(),
                           [&](const StepMetrics& metrics) {
                             const double x = position(metrics);
                             if (std::isfinite(metrics.loss)) loss.emplace_back(x, metrics.loss);
                             if (metrics.val_loss) validation.emplace_back(x, *metrics.val_loss);
                           });
  if (loss.empty()) fail("{}: there are no steps in its metrics.jsonl", run.string());
  const std::string name = run_name(run);
  panel.curves.push_back({name, smoothed(loss, arguments.smooth), Curve::Look::kLine, colour});
  if (validation.empty()) return;
  // One entry of the key is enough to say what points are.
  const bool first = std::ranges::count(panel.curves, Curve::Look::kPoints, &Curve::look) == 0;
  panel.curves.push_back(
      {first ? "validation" : "", std::move(validation), Curve::Look::kPoints, colour});
}

// A published law or that of a file.
ScalingLaw law_named(const std::string& which) {
  if (which == "cerebras-gpt" || which == "cerebras-gpt-mup")
    return published_law(which == "cerebras-gpt-mup");
  return read_law(which).fit.law;
}

// The law over the axis, where that has FLOPs.
void add_law(const ScalingLaw& law, Panel& panel) {
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const Curve& curve : panel.curves) {
    for (const auto& [x, _] : curve.points) least = std::min(least, x), most = std::max(most, x);
  }
  Curve line{"law: " + law.name, {}, Curve::Look::kDashed, -1};
  for (int i = 0; i <= 100; ++i) {
    const double flops = least * std::pow(most / least, i / 100.0);
    line.points.emplace_back(flops, law.loss(flops));
  }
  panel.curves.push_back(std::move(line));
}

}  // namespace

Figure plot_of(const PlotArguments& arguments) {
  if (arguments.law && arguments.x != "flops") fail("--law: a law is over FLOPs: add --x flops");
  Panel panel{.title = "",
              .x_label = arguments.x == "flops" ? "FLOPs, by Cerebras-GPT's count" : arguments.x,
              .y_label = "loss, nats a token",
              .log_x = arguments.log.find('x') != std::string::npos,
              .log_y = arguments.log.find('y') != std::string::npos,
              .key_outside = false,
              .x_tics = {},
              .curves = {}};
  for (size_t i = 0; i < arguments.runs.size(); ++i)
    add_run(arguments.runs[i], arguments, int(i), panel);
  if (arguments.law) add_law(law_named(*arguments.law), panel);
  return {.title = arguments.title.value_or(""), .panels = {std::move(panel)}};
}

void plot(const PlotArguments& arguments) {
  check_figure_file(arguments.out);
  draw(plot_of(arguments), arguments.out);
  fmt::print("{}\n", arguments.out);
}

}  // namespace gigagpt::cli
