#include "gpt/config.h"

#include <algorithm>

#include "base/error.h"

namespace gigagpt {

std::vector<Option> GPTConfig::options() {
  std::vector<Option> run = {
      {"dropout", &dropout, "dropout on embeddings, attention and FFN output", between(0, 0.99)},
      {"out_dir", &out_dir, "where checkpoints and metrics.jsonl go"},
      {"dataset", &dataset, "folder with train.bin and val.bin, or its name under data/"},
      {"batch_size", &batch_size, "sequences per step", between(1, 1 << 24)},
      {"sequence_length", &sequence_length, "tokens per sequence (T)", between(1, 1 << 24)},
      {"num_steps", &num_steps, "steps of the whole run", at_least(1)},
      {"seed", &seed, "of weights, data order and dropout", at_least(0)},
      {"num_systems", &num_systems, "machines (or MPI ranks) to train on", at_least(1)},
      {"precision", &precision, "of matrix products", one_of({"auto", "bf16", "fp32"})},
      {"micro_batch_size", &micro_batch_size, "sequences at once; null: automatic",
       between(1, 1 << 24)},
      {"eval_steps", &eval_steps, "evaluate every so many steps; 0: never", at_least(0)},
      {"eval_batches", &eval_batches, "batches of val.bin per evaluation; 0: all", at_least(0)},
      {"threads", &threads, "CPU threads; 0: one per core", between(0, 1 << 16)},
  };
  if (model != "gpt2") run.erase(run.begin());  // dropout is GPT-2's
  std::vector<Option> options;
  for (auto rules :
       {model_options(), std::move(run), parametrisation.options(), saves.options(),
        optim.options(), storage.options(), systems.options(), watch.options(), cost.options()}) {
    std::move(rules.begin(), rules.end(), std::back_inserter(options));
  }
  return options;
}

void GPTConfig::check() const {
  const double tokens = double(num_steps) * double(batch_size) * double(sequence_length);
  if (tokens > 0x1p60) fail("num_steps: a run of {} tokens is too long to count", tokens);
  check_model();
  optim.check(num_steps);
  parametrisation.check(*ops::find_optimizer(optim.optimizer));
  if (sequence_length > max_position_embeddings) {
    fail("sequence_length: {} is above max_position_embeddings {}", sequence_length,
         max_position_embeddings);
  }
  if (micro_batch() > batch_size) {
    fail("micro_batch_size: {} is above batch_size {}", micro_batch(), batch_size);
  }
  if (run_size(true).all_micro_batches() < num_systems) {
    fail("num_systems: {} systems need as many micro-batches, but batch_size {} has {}",
         num_systems, batch_size, run_size(true).all_micro_batches());
  }
}

int64_t GPTConfig::micro_batch() const {
  if (micro_batch_size) return *micro_batch_size;
  const int64_t share = batch_size % num_systems == 0 ? batch_size / num_systems : batch_size;
  int64_t size = std::clamp<int64_t>(4096 / sequence_length, 1, share);
  while (share % size != 0 || size * num_systems > std::max(batch_size, num_systems)) --size;
  return size;
}

engine::Parametrisation GPTConfig::parametrised() const {
  return parametrisation.at(width, depth, *ops::find_optimizer(optim.optimizer));
}

engine::RunSize GPTConfig::run_size(bool training) const {
  engine::RunSize size{batch_size, micro_batch(), sequence_length, training, num_steps};
  size.checkpoint_steps = saves.checkpoint_steps;
  size.checkpoint_minutes = saves.checkpoint_minutes;
  size.checkpoint_moments = saves.checkpoint_moments;
  size.keep_checkpoints = saves.keep_checkpoints, size.systems = num_systems;
  size.network_gbit = systems.network(num_systems);
  size.optimizer = ops::find_optimizer(optim.optimizer);
  return size;
}

}  // namespace gigagpt
