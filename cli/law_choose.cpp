#include "cli/law_choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "base/error.h"
#include "cli/display.h"
#include "cli/law.h"
#include "cli/output.h"
#include "cli/run_settings.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {
namespace {

constexpr double kRatio = 20;       // tokens a parameter
constexpr double kMostRatio = 1.4;  // times that, to fill a budget until the next size fits
constexpr int64_t kMostWidth = 1 << 15;
constexpr double kBatchTokens = 245'760, kBatchOf = 2.221e9;  // Cerebras-GPT 111M's, for its tokens
constexpr double kLeastSteps = 1000;
constexpr double kMostWarmup = 375e6;  // tokens, as all of Cerebras-GPT

// Width over depth: near 77 as Cerebras-GPT's up to 2.7B and 128 as its 6.7B and 13B, and less for
// small models, of which two blocks would otherwise be the most.
double aspect(double width) {
  const double small = std::min(77.0, 32 * std::sqrt(width / 128));
  return std::clamp(width / 32, small, 128.0);
}

int64_t head_size(int64_t width) {
  return width < 128 ? 16 : width < 256 ? 32 : width < 2048 ? 64 : 128;
}

void set_steps(GPTConfig& config, double steps) {
  config.num_steps = std::max<int64_t>(std::llround(steps), 1);
  const double most = kMostWarmup / double(config.run_size(true).step_tokens());
  config.optim.warmup_steps = std::llround(std::min(double(config.num_steps) / 10, most));
}

// The batch grows with the root of the tokens, as that which is still efficient does; short runs
// have smaller ones, to have steps enough.
void set_length(GPTConfig& config, double tokens) {
  const double batch = std::min(kBatchTokens * std::sqrt(tokens / kBatchOf), tokens / kLeastSteps);
  const auto sequences = std::llround(batch / double(config.sequence_length));
  // A multiple of 8 has divisors for micro-batches and systems.
  config.batch_size = sequences < 16 ? std::max<int64_t>(sequences, 1) : sequences / 8 * 8;
  config.batch_size = std::max(config.batch_size, config.num_systems);
  set_steps(config, tokens / double(config.run_size(true).step_tokens()));
}

struct Shape {
  int64_t width, depth;
};

// Shapes from small to large: for each width the usual depth, and a block more.
std::vector<Shape> shapes() {
  std::vector<Shape> shapes;
  for (int64_t width = 32; width <= kMostWidth; width += head_size(width)) {
    const auto usual = std::max<int64_t>(std::llround(double(width) / aspect(double(width))), 2);
    shapes.push_back({width, usual});
    shapes.push_back({width, usual + 1});
  }
  const auto size = [](const Shape& shape) { return shape.depth * shape.width * shape.width; };
  std::ranges::stable_sort(shapes, {}, size);
  return shapes;
}

// The family's model of that shape; nothing, and why, if it has none.
std::optional<GPTConfig> sized(const GPTConfig& family, const Shape& shape, std::string& why_not) {
  GPTConfig config = family;
  config.width = shape.width;
  config.heads = shape.width / head_size(shape.width);
  config.depth = shape.depth;
  try {
    set_length(config, kRatio * double(engine::parameter_count(config.layers())));
    config.check();
    return config;
  } catch (const Error& error) {  // other keys that the family was given do not go with it
    why_not = error.what();
    return std::nullopt;
  }
}

// A run's hours or FLOPs, whichever there is a budget of.
struct Allowance {
  const LawArguments& given;
  const PlanOf& plan_of;

  double most() const { return given.hours ? *given.hours : *given.flops; }
  double of(const GPTConfig& config, const engine::Plan& plan) const {
    return given.hours ? plan.step_s * double(config.num_steps) / 3600 : published_flops(config);
  }
  std::string text(double amount) const {
    return fmt::format("{:.2g} {}", amount, given.hours ? "hours" : "FLOPs");
  }
};

// Lengthens the run to what the budget has left, as sizes come in steps.
void fill(GPTConfig& config, const Allowance& budget) {
  const double costs = budget.of(config, budget.plan_of(config));
  const double times = std::min(budget.most() / costs, kMostRatio);
  set_steps(config, std::floor(double(config.num_steps) * times));
}

// The largest within the budget; with one of hours, of those that this machine can train.
GPTConfig largest_within(const GPTConfig& family, const Allowance& budget) {
  std::optional<GPTConfig> best;
  std::string why_not, refusal;
  for (const Shape& shape : shapes()) {
    const auto config = sized(family, shape, why_not);
    if (!config) continue;
    const engine::Plan plan = budget.plan_of(*config);
    const double costs = budget.of(*config, plan);
    if (budget.given.hours && !plan.refusal.empty()) {
      refusal = plan.refusal;
      break;
    }
    if (!best && costs > budget.most()) {
      fail("the smallest model takes {}, and the budget is {}", budget.text(costs),
           budget.text(budget.most()));
    }
    if (costs <= budget.most()) best = config;
    if (costs > 2 * budget.most()) break;  // those after it take more
  }
  if (!best && !refusal.empty()) fail("the smallest model does not fit: {}", refusal);
  if (!best) fail("no size of this family is possible: {}", why_not);
  fill(*best, budget);
  if (!refusal.empty()) print_message("note: larger models do not fit: {}", refusal);
  return *best;
}

// Throws Error for keys that are of one length of run.
void check_family(const GPTConfig& family) {
  family.check();
  if (family.optim.decay_steps || family.optim.decay_from)
    fail("decay_steps and decay_from are of a run of one length; leave them out");
}

// The keys that are not at their defaults.
std::string yaml_of(GPTConfig config, const std::string& comment) {
  GPTConfig defaults;
  defaults.model = config.model;
  const auto usual = option_texts(defaults.options());
  std::string text = comment;
  for (const auto& [key, value] : option_texts(config.options())) {
    const bool same = std::ranges::count(usual, std::pair(key, value)) > 0;
    if (!same) text += fmt::format("{}: {}\n", key, value);
  }
  return text;
}

std::string budget_name(const LawArguments& given) {
  return given.hours ? fmt::format("--hours {}", *given.hours)
                     : fmt::format("--flops {:g}", *given.flops);
}

}  // namespace

void choose_size(const Arguments& arguments, const PlanOf& plan_of) {
  GPTConfig family;
  apply_run_settings(arguments.settings, family);
  check_family(family);
  // A run of its own, which the plan does not take for the continuation of another.
  const Path name = arguments.law.out ? Path(*arguments.law.out).stem() : Path("chosen");
  family.out_dir = (Path("out") / name).string();
  const GPTConfig config = largest_within(family, {arguments.law, plan_of});
  print_prediction(config);
  const engine::Plan plan = plan_of(config);
  fmt::print(
      "{:<13}{}\n", "time",
      duration_text(plan.step_s * double(config.num_steps)) +
          fmt::format(" for {} steps, as this machine was measured", grouped(config.num_steps)));
  if (!config.parametrisation.mup_base_width) {
    print_message(
        "note: the config has no mup_base_width, so its learning_rate, {}, is of one width; "
        "configs/cerebras-gpt-mup/111m.yaml and configs/scaling_law.yaml are of families",
        config.optim.learning_rate);
  }
  const std::string yaml =
      yaml_of(config, fmt::format("# Chosen by gigagpt law choose {}: {:.3g} tokens a parameter.\n",
                                  budget_name(arguments.law), tokens_per_parameter(config)));
  if (!arguments.law.out) {
    fmt::print("\n{}", yaml);
    return;
  }
  write_text_atomically(*arguments.law.out, yaml);
  fmt::print("\nTo train:\n  gigagpt train {}\n", *arguments.law.out);
}

}  // namespace gigagpt::cli
