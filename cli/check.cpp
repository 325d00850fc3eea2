#include "cli/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/system.h"
#include "cli/compute_parts.h"
#include "gpt/check.h"

namespace gigagpt::cli {
namespace {

// The file's sizes are made small; those that are given as flags are meant for the check.
GPTConfig config_of(const Arguments& arguments) {
  std::vector<Setting> in_file, flags;
  for (const Setting& setting : arguments.settings)
    (setting.origin == "--" + setting.key ? flags : in_file).push_back(setting);
  GPTConfig config;
  for (const Setting& setting : flags) {
    if (setting.key == "model") in_file.push_back(setting);
  }
  apply_settings(in_file, config);
  config.check();
  config = small_config(config);
  apply_settings(flags, config);
  const bool given = std::any_of(flags.begin(), flags.end(), [](const Setting& setting) {
    return setting.key == "max_position_embeddings";
  });
  if (!given) {
    config.max_position_embeddings =
        std::max(config.max_position_embeddings, config.sequence_length);
  }
  config.check();
  return config;
}

std::string sizes_of(GPTConfig& config) {
  std::vector<std::string> texts;
  for (const auto& [key, value] : option_texts(config.model_options())) {
    if (value != "null") texts.push_back(fmt::format("{} {}", key, value));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

int check(const Arguments& arguments) {
  GPTConfig config = config_of(arguments);
  set_threads(config.threads);
  fmt::print("a small model: {}, sequence_length {}: {} parameters\n", sizes_of(config),
             config.sequence_length, grouped(engine::parameter_count(config.layers())));
  const Stopwatch watch;
  int claims = 0;
  const int failures = check_gpt(config, [&](const engine::Finding& finding) {
    ++claims;
    const bool holds = finding.problem.empty();
    const std::string seen = finding.seen.empty() ? "" : fmt::format(" ({})", finding.seen);
    fmt::print("{:<7} {}{}\n", holds ? "ok" : "FAILED", finding.claim, seen);
    if (!holds) fmt::print("        {}\n", finding.problem);
    std::fflush(stdout);
  });
  const std::string time = duration_text(watch.seconds());
  if (failures == 0) {
    fmt::print("all {} claims hold; {}\n", claims, time);
  } else {
    fmt::print("{} of {} claims do not hold; {}. Mend the first: later ones may follow from it\n",
               failures, claims, time);
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace gigagpt::cli
