#include "gpt/check.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "base/temporary_directory.h"
#include "engine/run/checkpoint.h"
#include "formats/dataset.h"
#include "gpt/model.h"
#include "gpt/train.h"

namespace gigagpt {
namespace {

constexpr int64_t kSteps = 6;

// A run in a folder, on tokens in an order that can be learned.
class TrialRun {
 public:
  TrialRun(const GPTConfig& config, const Path& folder) : config_(config), folder_(folder) {
    config_.dataset = (folder / "data").string();
    config_.num_steps = kSteps;
    config_.optim.warmup_steps = 2;
    config_.optim.learning_rate = 1e-2;
    config_.optim.decay_steps.reset();
    std::filesystem::create_directories(config_.dataset);
    std::vector<uint16_t> ids;
    for (int64_t i = 0; i < 100 * config.sequence_length; ++i)
      ids.push_back(uint16_t((i * i / 7 + i) % config.vocab_size));
    for (const char* split : {"train.bin", "val.bin"})
      File::create(Path(config_.dataset) / split).write(std::as_bytes(std::span(ids)));
    formats::write_dataset_meta(config_.dataset, {config.vocab_size, 2});
  }

  // Trains in out_dir `name`, for so many steps or to the end; returns the last checkpoint there.
  Path train(const std::string& name, bool in_file, int64_t steps = kSteps) const {
    GPTConfig config = config_;
    config.out_dir = (folder_ / name).string();
    config.storage.store = in_file ? (folder_ / (name + ".store")).string() : "memory";
    config.saves.checkpoint_path = "latest";
    int64_t done = 0;
    const auto go_on = [](double) { return true; };
    gigagpt::train(
        config, {},
        {[](const formats::StepMetrics&) {}, go_on, go_on, go_on, [&] { return ++done == steps; },
         [](const std::string&) {}, [](const engine::Plan&, const std::string&) {}});
    return engine::find_checkpoint(config.out_dir);
  }
  const GPTConfig& config() const { return config_; }

 private:
  GPTConfig config_;
  Path folder_;
};

std::string weights_in(const Path& checkpoint) {
  return read_text(checkpoint / "model.safetensors");
}

std::string problem_of_stops(const TrialRun& run) {
  const std::string whole = weights_in(run.train("whole", /*in_file=*/false));
  for (const bool in_file : {false, true}) {
    const std::string name = in_file ? "file" : "ram";
    run.train(name, in_file, kSteps / 2);
    if (weights_in(run.train(name, in_file)) == whole) continue;
    return fmt::format(
        "stopped after {} of {} steps and gone on with, a run {} ends with other "
        "weights than one in RAM that was not stopped",
        kSteps / 2, kSteps, in_file ? "in a file" : "in RAM");
  }
  return "";
}

std::string problem_of_reading(const TrialRun& run) {
  const Path checkpoint = run.train("whole", /*in_file=*/false);
  std::filesystem::remove(checkpoint / "trainer_state.json");
  GPTConfig read = GPTConfig::of_checkpoint(checkpoint), trained = run.config();
  const auto ours = option_texts(trained.model_options());
  const auto theirs = option_texts(read.model_options());
  for (size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i) {
    if (ours[i] != theirs[i]) {
      return fmt::format("{} was {}, and {} is read from the checkpoint", ours[i].first,
                         ours[i].second, theirs[i].second);
    }
  }
  auto gpt = make_gpt(read, /*training=*/false);
  engine::load_checkpoint(checkpoint, gpt.store, /*optimizer=*/false, 0, {});
  return "";
}

engine::Subject subject_of(const GPTConfig& config, const Path& scratch) {
  engine::Subject subject;
  subject.make = [config] { return make_model(config); };
  at::manual_seed(1);
  for (const int64_t rows : {2, 1, 2}) {
    const std::vector<int64_t> shape = {rows, config.sequence_length};
    subject.batches.push_back({at::randint(0, config.vocab_size, shape, at::kLong),
                               at::randint(0, config.vocab_size, shape, at::kLong)});
  }
  subject.sequence_length = config.sequence_length;
  subject.language = true;
  subject.scratch = scratch;
  return subject;
}

}  // namespace

void make_shallow(GPTConfig& config) {
  const int64_t depth = std::exchange(config.depth, std::min<int64_t>(config.depth, 2));
  auto& base_depth = config.parametrisation.mup_base_depth;
  if (base_depth) base_depth = std::max<int64_t>(*base_depth * config.depth / depth, 1);
}

GPTConfig small_config(GPTConfig config) {
  constexpr int64_t kHeads = 4, kHeadSize = 8, kLength = 12;
  const int64_t heads = config.heads;
  config.heads = std::min(config.heads, kHeads);
  config.width = config.heads * kHeadSize;
  make_shallow(config);
  config.vocab_size = std::min<int64_t>(config.vocab_size, 61);
  config.sequence_length = std::min(config.sequence_length, kLength);
  config.max_position_embeddings = std::min(config.max_position_embeddings, kLength + 2);
  config.batch_size = 5;
  config.micro_batch_size = 2;
  LlamaKeys& llama = config.llama;
  if (llama.kv_heads && *llama.kv_heads < heads)
    llama.kv_heads = *llama.kv_heads == 1 || config.heads < kHeads ? 1 : 2;
  else if (llama.kv_heads)
    llama.kv_heads = config.heads;
  if (llama.head_size) llama.head_size = kHeadSize + 2;
  if (llama.ffn_width) llama.ffn_width = 5 * kHeadSize;
  llama.rope.original_positions = std::min(llama.rope.original_positions, kLength / 2);
  config.document_mask = false;  // there are none in tokens at random
  config.num_systems = 1;
  config.precision = "fp32";
  config.eval_steps = 0;
  config.saves = {};
  config.storage = {};
  config.systems = {};
  config.watch = {};
  return config;
}

int check_gpt(const GPTConfig& config, const std::function<void(const engine::Finding&)>& found) {
  const TemporaryDirectory scratch;
  const int failures = engine::check_model(subject_of(config, scratch.path()), found);
  if (failures > 0) return failures;
  const TrialRun run(config, scratch.path());
  int more = 0;
  const auto check = [&](const char* claim, std::string (*problem_of)(const TrialRun&)) {
    const std::string problem = problem_of(run);
    found({claim, problem, ""});
    if (!problem.empty()) ++more;
  };
  check("training stops and goes on, in RAM and in a file, as if it had not stopped",
        problem_of_stops);
  check("a checkpoint says by itself what the model is", problem_of_reading);
  return more;
}

}  // namespace gigagpt
