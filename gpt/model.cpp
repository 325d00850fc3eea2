#include "gpt/model.h"

namespace gigagpt {

engine::Model make_model(const GPTConfig& config) {
  return config.model == "llama" ? make_llama(config) : make_gpt2(config);
}

engine::Runtime make_gpt(const GPTConfig& c, bool training, const engine::System& system,
                         const std::optional<engine::ResumePoint>& from) {
  return engine::Runtime(make_model(c), c.precision, c.run_size(training), c.storage, c.out_dir,
                         system, from);
}

}  // namespace gigagpt
