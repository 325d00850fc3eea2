// Everything a run is told: gigaGPT's keys and defaults, and a few of our own.
//
// Shape legend of the whole project: B micro-batch, T sequence length, C width, H heads, D head
// size (C / H), L depth, V vocabulary.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/option.h"
#include "engine/plan/plan.h"
#include "engine/state/update.h"
#include "formats/hf_gpt2.h"

namespace gigagpt {

struct GPTConfig {
  // The model; of_checkpoint relies on the order.
  int64_t max_position_embeddings = 2048;
  int64_t vocab_size = 50257;
  int64_t depth = 12;
  int64_t heads = 12;
  int64_t width = 768;
  double dropout = 0.0;
  bool bias = true;
  std::string activation = "gelu";
  double init_std = 0.02;
  std::optional<double> residual_init_std = {};

  // The run.
  std::string out_dir = "out";
  std::string dataset = "openwebtext";
  int64_t batch_size = 120;
  int64_t sequence_length = 2048;
  int64_t num_steps = 10000;
  int64_t checkpoint_steps = 1000;
  std::optional<std::string> checkpoint_path = {};
  std::string load_weights_only = "auto";
  int64_t seed = 0;
  int64_t num_systems = 1;

  // Ours.
  std::string precision = "auto";
  std::optional<int64_t> micro_batch_size = {};
  int64_t eval_steps = 0;
  int64_t eval_batches = 0;
  double checkpoint_minutes = 30;
  int64_t keep_checkpoints = 3;
  int64_t threads = 0;
  engine::OptimizerRules optim = {};  // more keys
  engine::StoreRules storage = {};
  engine::ScaleRules systems = {};
  engine::WatchRules watch = {};

  // The fields above by name; the options point into this object.
  std::vector<Option> options();

  // Throws Error for values that do not go together, naming the keys.
  void check() const;

  // The model as config.json has it, and a config with the model of a checkpoint.
  formats::HfGpt2Config hf() const;
  static GPTConfig of_checkpoint(const Path& checkpoint);

  // Sequences per micro-batch. A function of the config alone, so that the bits of a run do not
  // depend on the machine: the largest divisor of a system's share of batch_size within 4096 tokens
  // unless given.
  int64_t micro_batch() const;

  // What passes through the layers in training, or in evaluation and sampling.
  engine::RunSize run_size(bool training) const;

  // The model's layers in order: embedding, blocks, head.
  std::vector<engine::LayerSpec> layers() const;

  // Floating-point operations to train on one token of a sequence: three passes over every matrix
  // product, attention counted up to the diagonal, nothing counted twice for recomputation.
  double train_flops_per_token() const;
};

}  // namespace gigagpt
