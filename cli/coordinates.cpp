#include "cli/coordinates.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "cli/compute_parts.h"
#include "cli/figure.h"
#include "cli/output.h"
#include "gpt/coordinates.h"

namespace gigagpt::cli {
namespace {

// Slopes of a log over a log below the first are those of a flat line, whose sizes over a width of
// eight times differ by a tenth; above the second it is not flat.
constexpr double kFlat = 0.05, kSteep = 0.2;

std::vector<int64_t> widths_of(const std::string& text) {
  std::vector<int64_t> widths;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int64_t width = 0;
    const auto [rest, error] = std::from_chars(text.data() + begin, text.data() + end, width);
    if (error != std::errc() || rest != text.data() + end || width < 1 || width > 1 << 18)
      fail("--widths: '{}' is not a list of widths, such as 64,128,256", text);
    if (!widths.empty() && width <= widths.back())
      fail("--widths: {} does not come after {}: they must grow", width, widths.back());
    widths.push_back(width);
    begin = end + 1;
  }
  if (widths.size() < 2) fail("--widths: a slope needs two widths or more");
  return widths;
}

// Whole heads.
std::vector<int64_t> usual_widths(const GPTConfig& config) {
  const int64_t size = std::max<int64_t>(config.width / config.heads, 1);
  const int64_t least = std::max<int64_t>((128 + size / 2) / size, 1) * size;
  return {least, 2 * least, 4 * least, 8 * least};
}

const char* verdict(double slope) {
  return std::abs(slope) <= kFlat ? "flat" : std::abs(slope) < kSteep ? "tilted" : "NOT FLAT";
}

void print_table(const std::vector<CoordinateCurves>& curves, const CoordinatePlan& plan) {
  std::string head = fmt::format("{:<20}", "after the last step");
  for (const int64_t width : plan.widths) head += fmt::format("{:>11}", width);
  fmt::print("{}{:>9}\n", head, "slope");
  for (const CoordinateCurves& curve : curves) {
    std::string line = fmt::format("{:<20}", curve.name);
    for (const double size : curve.by_step.back()) line += fmt::format("{:>11.4g}", size);
    const double slope = curve.slope(plan.widths);
    fmt::print("{}{:>+9.3f}  {}\n", line, slope, verdict(slope));
  }
}

Figure figure_of(const std::vector<CoordinateCurves>& curves, const CoordinatePlan& plan,
                 const std::string& title) {
  Figure figure{title, {}, 2, 960, 700};
  for (const CoordinateCurves& curve : curves) {
    Panel panel{curve.name, "width", "mean magnitude", true, true, true, {}, {}};
    panel.x_tics.assign(plan.widths.begin(), plan.widths.end());
    const size_t steps = curve.by_step.size() - 1;
    // The beginning, the end, and some steps in between.
    for (size_t step = 0; step <= steps; ++step) {
      if (step != 0 && step != 1 && step != steps && (steps < 4 || step % (steps / 4) != 0))
        continue;
      Curve line{fmt::format("step {}", step), {}, Curve::Look::kLineAndPoints, int(step)};
      for (size_t w = 0; w < plan.widths.size() && curve.by_step[step][w] > 0; ++w)
        line.points.emplace_back(double(plan.widths[w]), curve.by_step[step][w]);
      if (!line.points.empty()) panel.curves.push_back(std::move(line));
    }
    if (!panel.curves.empty()) figure.panels.push_back(std::move(panel));
  }
  return figure;
}

std::string name_of(const GPTConfig& config, const CoordinatePlan& plan) {
  const auto& rules = config.parametrisation;
  const std::string name = rules.mup_base_depth   ? "CompleteP"
                           : rules.mup_base_width ? "muP"
                                                  : "the standard parametrisation";
  return plan.without.empty() ? name : fmt::format("{} without its {}", name, plan.without);
}

}  // namespace

int coordinates(const Arguments& arguments) {
  GPTConfig config;
  apply_settings(arguments.settings, config);
  const CoordinatesArguments& asked = arguments.coordinates;
  const CoordinatePlan plan{asked.widths ? widths_of(*asked.widths) : usual_widths(config),
                            asked.seeds, asked.steps, asked.without.value_or("")};
  config.parametrisation.check(*ops::find_optimizer(config.optim.optimizer));
  if (!plan.without.empty() && !config.parametrisation.mup_base_width)
    fail("--without: there is nothing to leave out unless mup_base_width is set");
  if (asked.out) check_figure_file(*asked.out);
  for (const int64_t width : plan.widths) with_width(config, width);
  set_threads(config.threads);
  Display display;
  const auto curves = measure_coordinates(config, plan, follow(display, "coordinates"));
  display.line(fmt::format("{}, learning_rate {:.3g}, {} steps, {} seeds", name_of(config, plan),
                           config.optim.learning_rate / 6, plan.steps, plan.seeds));
  print_table(curves, plan);
  if (asked.out) {
    draw(figure_of(curves, plan,
                   fmt::format("Mean magnitudes over width: {}", name_of(config, plan))),
         *asked.out);
    fmt::print("{}\n", *asked.out);
  }
  const bool flat = std::all_of(curves.begin(), curves.end(), [&](const CoordinateCurves& curve) {
    return std::abs(curve.slope(plan.widths)) <= kFlat;
  });
  return flat ? 0 : 1;
}

}  // namespace gigagpt::cli
