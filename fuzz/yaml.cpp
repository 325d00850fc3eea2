// A config file, applied as the program does, and read again from what it is printed as.
#include "cli/yaml.h"

#include <cmath>

#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

void check(std::string_view input) {
  std::vector<std::string> notes;
  GPTConfig config;
  const auto settings = cli::read_yaml(fuzz::write("config.yaml", input), notes);
  for (const bool family : {true, false}) {  // which keys there are depends on it
    for (const auto& setting : settings) {
      GIGAGPT_ASSERT(!setting.origin.empty());
      if ((setting.key == "model") == family)
        set_option(find_option(config.options(), setting.key), setting.value);
    }
  }
  config.check();
  GPTConfig again;
  again.model = config.model;
  for (const auto& [key, value] : option_texts(config.options())) {
    set_option(find_option(again.options(), key), value);
  }
  GIGAGPT_ASSERT(option_texts(again.options()) == option_texts(config.options()));
  GIGAGPT_ASSERT(config.micro_batch() > 0 && config.batch_size % config.micro_batch() == 0);
  if (config.depth <= 64) {
    const double flops = engine::train_flops_per_token(config.layers(), config.sequence_length);
    GIGAGPT_ASSERT(std::isfinite(flops) && flops > 0);
  }
  for (const int64_t step : {int64_t{0}, config.num_steps / 2, config.num_steps - 1}) {
    GIGAGPT_ASSERT(std::isfinite(config.optim.learning_rate_at(step, config.num_steps)));
  }
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
