#include "cli/run_settings.h"

#include <algorithm>

#include "base/error.h"
#include "engine/run/resume.h"
#include "engine/run/run_directory.h"
#include "formats/dataset.h"

namespace gigagpt::cli {
namespace {

// Where a key was set last; null if it was not.
const Setting* find_setting(const std::vector<Setting>& settings, const std::string& key) {
  const auto found = std::find_if(settings.rbegin(), settings.rend(),
                                  [&](const Setting& setting) { return setting.key == key; });
  return found == settings.rend() ? nullptr : &*found;
}

// The newest checkpoint that a path means; "" if there is none, or not here.
Path checkpoint_in(const Path& given) {
  std::error_code error;
  if (std::filesystem::exists(given / "config.json", error)) return given;
  const auto steps = engine::checkpoint_steps(given);
  return steps.empty() ? Path() : engine::checkpoint_directory(given, steps.back());
}

// The checkpoint_path that was set before "latest".
std::optional<std::string> first_origin(const std::vector<Setting>& settings) {
  for (auto setting = settings.rbegin(); setting != settings.rend(); ++setting) {
    const bool path = setting->value != "latest" && setting->value != "null";
    if (setting->key == "checkpoint_path" && path) return setting->value;
  }
  return std::nullopt;
}

}  // namespace

void adopt_model(GPTConfig model, const std::string& where, const std::vector<Setting>& settings,
                 GPTConfig& config) {
  const auto adopt = [&](const std::string& key, const std::string& value) {
    const auto ours = config.options();
    const Option& option = find_option(ours, key);
    const Setting* setting = find_setting(settings, key);
    if (setting != nullptr && option_text(option) != value) {
      fail("{}: {} is {}, but the model in {} has {}; leave the key out", setting->origin, key,
           option_text(option), where, value);
    }
    set_option(option, value);
  };
  adopt("model", model.model);  // which others there are depends on it
  for (const auto& [key, value] : option_texts(model.model_options())) adopt(key, value);
  if (find_setting(settings, "sequence_length") != nullptr) return;
  config.sequence_length = std::min(config.sequence_length, config.max_position_embeddings);
}

namespace {

// The data set knows its vocabulary. One that is missing or damaged is an error later, where it is
// read.
void adopt_vocabulary(const std::vector<Setting>& settings, GPTConfig& config) {
  if (find_setting(settings, "vocab_size") != nullptr) return;
  try {
    const Path data = formats::find_dataset(config.dataset);
    if (std::filesystem::exists(data / "meta.json"))
      config.vocab_size = formats::read_dataset_meta(data).vocab_size;
  } catch (const Error&) {
  }
}

}  // namespace

void apply_run_settings(const std::vector<Setting>& settings, GPTConfig& config) {
  apply_settings(settings, config);
  config.num_steps = config.optim.run_length(config.num_steps);
  adopt_vocabulary(settings, config);
  if (!config.saves.checkpoint_path) return;
  Path checkpoint;
  if (*config.saves.checkpoint_path != "latest") {
    checkpoint = checkpoint_in(*config.saves.checkpoint_path);
  } else {
    checkpoint = checkpoint_in(config.out_dir);
    if (const auto origin = first_origin(settings); origin && checkpoint.empty()) {
      checkpoint = checkpoint_in(*origin);
      const auto files = engine::find_store_files(config.storage.store, config.out_dir);
      if (files.empty()) config.saves.checkpoint_path = origin;
    }
  }
  if (checkpoint.empty()) return;  // the run says so, or another system has it
  adopt_model(GPTConfig::of_checkpoint(checkpoint), checkpoint.string(), settings, config);
}

void apply_kept_settings(const Path& checkpoint, GPTConfig& config) {
  std::vector<Setting> kept;
  for (const auto& [key, value] : formats::read_trainer_state(checkpoint).config)
    kept.push_back({key, value, (checkpoint / "trainer_state.json").string()});
  apply_settings(kept, config);
}

}  // namespace gigagpt::cli
