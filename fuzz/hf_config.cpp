// A config.json of Hugging Face's.
#include <cmath>

#include "formats/hf_gpt2.h"
#include "fuzz/fuzz.h"
#include "gpt/config.h"

namespace gigagpt {
namespace {

void check(std::string_view input) {
  fuzz::write("config.json", input);
  const formats::HfGpt2Config config = formats::read_hf_config(fuzz::scratch());
  GIGAGPT_ASSERT(config.n_layer > 0 && config.n_embd % config.n_head == 0);
  GIGAGPT_ASSERT(std::isfinite(config.dropout) && std::isfinite(config.initializer_range));
  if (config.n_layer <= 64) {
    for (const auto& layer : GPTConfig::of_checkpoint(fuzz::scratch()).layers()) {
      for (const auto& param : layer.params) {
        int64_t count = 1;
        for (const int64_t extent : param.shape) {
          GIGAGPT_ASSERT(extent > 0 && !__builtin_mul_overflow(count, extent, &count));
        }
      }
    }
  }
  formats::write_hf_config(fuzz::scratch(), config);
  const formats::HfGpt2Config again = formats::read_hf_config(fuzz::scratch());
  GIGAGPT_ASSERT(again.n_layer == config.n_layer && again.n_embd == config.n_embd);
  GIGAGPT_ASSERT(again.dropout == config.dropout && again.bias == config.bias);
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
