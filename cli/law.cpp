#include "cli/law.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "cli/display.h"
#include "cli/run_settings.h"
#include "gpt/law.h"

namespace gigagpt::cli {
namespace {

constexpr double kOptimal = 20;  // tokens a parameter

struct Budget {
  double parameters, tokens, flops;
  double ratio() const { return tokens / parameters; }
};

Budget budget_of(const GPTConfig& config) {
  const auto layers = config.layers();
  const double tokens = double(config.num_steps) * double(config.run_size(true).step_tokens());
  return {double(engine::parameter_count(layers)), tokens,
          tokens * published_flops_per_token(layers, config.sequence_length)};
}

// "as many as its 111M", "3.2 times its 13B".
std::string beside_published(double flops) {
  const PublishedModel& near = nearest_published(flops);
  const double times = flops / near.flops;
  if (times > 0.9 && times < 1.1) return fmt::format("as many as Cerebras-GPT {}", near.name);
  const auto number = [](double ratio) {
    return ratio < 100 ? fmt::format("{:.3g}", ratio) : grouped(std::llround(ratio));
  };
  return times >= 1 ? fmt::format("{} times Cerebras-GPT {}'s", number(times), near.name)
                    : fmt::format("1/{} of Cerebras-GPT {}'s", number(1 / times), near.name);
}

void line(const char* name, const std::string& text) {
  fmt::print("{:<13}{}\n", name, text);
}

}  // namespace

std::string budget_text(const GPTConfig& config) {
  const Budget budget = budget_of(config);
  return fmt::format("{:.3g} tokens a parameter; {:.2g} FLOPs by Cerebras-GPT's count, {}",
                     budget.ratio(), budget.flops, beside_published(budget.flops));
}

void predict_loss(const Arguments& arguments) {
  GPTConfig config;
  apply_run_settings(arguments.settings, config);
  config.check();
  const Budget budget = budget_of(config);
  const bool mup = config.parametrisation.mup_base_width.has_value();
  const auto& file = arguments.law.law;
  const ScalingLaw law = file ? read_law(*file) : published_law(mup);
  const double loss = law.loss(budget.flops);
  line("model", fmt::format("{} parameters, {}", grouped(int64_t(budget.parameters)),
                            mup ? "in muP" : "in the standard parametrisation"));
  line("tokens", fmt::format("{:.4g}, {:.3g} a parameter", budget.tokens, budget.ratio()));
  line("FLOPs", fmt::format("{:.2g} by Cerebras-GPT's count, {}", budget.flops,
                            beside_published(budget.flops)));
  line("law", fmt::format("(FLOPs / {:.4g})^-{:.4f} + {:.4f}, {}", law.scale, law.exponent,
                          law.floor, law.name));
  if (file) return line("loss", fmt::format("{:.3f} nats a token", loss));
  line("loss", fmt::format("{:.3f} nats a token, {:.3f} bits a byte", loss,
                           loss * kPileTokensPerByte / std::numbers::ln2));
  fmt::print(
      "\nThe law is of the Pile's test set in GPT-2's tokens. On another text or with another\n"
      "tokenizer losses are others, bits a byte too; only how they fall is alike.\n");
  if (budget.ratio() > kOptimal / 1.5 && budget.ratio() < kOptimal * 1.5) return;
  fmt::print(
      "It is of models that see 20 tokens a parameter. This one sees {:.3g}: with {} tokens and "
      "as\n"
      "many FLOPs, a {} model would reach that loss.\n",
      budget.ratio(), budget.ratio() < kOptimal ? "more" : "fewer",
      budget.ratio() < kOptimal ? "smaller" : "larger");
}

}  // namespace gigagpt::cli
