#include "cli/law.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "cli/display.h"
#include "cli/run_settings.h"
#include "formats/dataset.h"
#include "gpt/law.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {
namespace {

constexpr double kOptimal = 20;  // tokens a parameter

struct Budget {
  double parameters, tokens, flops;
  double ratio() const { return tokens / parameters; }
};

Budget budget_of(const GPTConfig& config) {
  return {double(engine::parameter_count(config.layers())), run_tokens(config),
          published_flops(config)};
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

namespace {

// Fingerprint of the text. A prediction may be made where the data is not.
std::optional<std::string> find_data(const std::string& dataset) {
  try {
    return formats::fingerprint(formats::find_dataset(dataset) / "train.bin");
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string law_text(const ScalingLaw& law) {
  return fmt::format("(FLOPs / {:.4g})^-{:.4f} + {:.4f}, {}", law.scale, law.exponent, law.floor,
                     law.name);
}

double bits_per_byte(double loss, double tokens_per_byte) {
  return loss * tokens_per_byte / std::numbers::ln2;
}

void say_ratio(const Budget& budget, double of_law) {
  if (budget.ratio() > of_law / 1.5 && budget.ratio() < of_law * 1.5) return;
  const bool few = budget.ratio() < of_law;
  fmt::print(
      "\nThe law is of models that see {:.3g} tokens a parameter. This one sees {:.3g}: with {} "
      "tokens\n"
      "and as many FLOPs, a {} model would reach that loss.\n",
      of_law, budget.ratio(), few ? "more" : "fewer", few ? "smaller" : "larger");
}

void predict_by_published(const GPTConfig& config, const Budget& budget) {
  const ScalingLaw& law = published_law(config.parametrisation.mup_base_width.has_value());
  const double loss = law.loss(budget.flops);
  line("law", law_text(law));
  line("loss", fmt::format("{:.3f} nats a token, {:.3f} bits a byte", loss,
                           bits_per_byte(loss, kPileTokensPerByte)));
  fmt::print(
      "\nThe law is of the Pile's test set in GPT-2's tokens. On another text or with another\n"
      "tokenizer losses are others, bits a byte too; only how they fall is alike.\n");
  say_ratio(budget, kOptimal);
}

void predict_by_fitted(const FittedLaw& law, bool compared, const GPTConfig& config,
                       const Budget& budget) {
  const double loss = law.fit.law.loss(budget.flops);
  const Interval interval = predicted_loss(law.runs, budget.flops);
  line("law", law_text(law.fit.law));
  std::string text = fmt::format("{:.4f} nats a token, with 95 % {:.4f} to {:.4f}", loss,
                                 interval.low, interval.high);
  if (law.tokens_per_byte)
    text += fmt::format("; {:.4f} bits a byte", bits_per_byte(loss, *law.tokens_per_byte));
  line("loss", text);
  if (!compared) {
    fmt::print(
        "\nThe law is of one text in one tokenizer. {} is not here, so it was not compared.\n",
        config.dataset);
  }
  say_ratio(budget, law.ratio());
}

}  // namespace

void print_beside_law(std::span<const LawPoint> runs,
                      const std::function<double(const LawPoint&)>& expected) {
  fmt::print("{:<24}{:>14}{:>10}{:>12}{:>10}{:>10}{:>9}\n", "run", "parameters", "tokens/N",
             "FLOPs", "loss", "the law", "off by");
  for (const LawPoint& point : runs) {
    const double loss = expected(point);
    fmt::print("{:<24}{:>14}{:>10.3g}{:>12.3g}{:>10.4f}{:>10.4f}{:>+8.2f} %\n", point.name,
               grouped(std::llround(point.parameters)), point.tokens / point.parameters,
               point.flops, point.loss, loss, 100 * (point.loss / loss - 1));
  }
}

void predict_loss(const Arguments& arguments) {
  GPTConfig config;
  apply_run_settings(arguments.settings, config);
  config.check();
  print_prediction(config);
}

void print_prediction(const GPTConfig& config) {
  std::optional<FittedLaw> law;
  std::optional<std::string> data;
  if (config.watch.law) {
    law = read_law(*config.watch.law);
    data = find_data(config.dataset);
    check_law(*law, *config.watch.law, comparable(config, data.value_or(law->kind.data)));
  }
  const Budget budget = budget_of(config);
  line("model", fmt::format("{} parameters, in {}", grouped(int64_t(budget.parameters)),
                            comparable(config, "").parametrisation));
  line("tokens", fmt::format("{:.4g}, {:.3g} a parameter", budget.tokens, budget.ratio()));
  line("FLOPs", fmt::format("{:.2g} by Cerebras-GPT's count, {}", budget.flops,
                            beside_published(budget.flops)));
  law ? predict_by_fitted(*law, data.has_value(), config, budget)
      : predict_by_published(config, budget);
}

}  // namespace gigagpt::cli
