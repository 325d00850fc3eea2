// Everything a run is told: gigaGPT's keys and defaults, and a few of our own.
//
// Shape legend of the whole project: B micro-batch, T sequence length, C width, H heads, D head
// size (C / H), L depth, V vocabulary.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/option.h"
#include "engine/plan/cost.h"
#include "engine/plan/plan.h"
#include "engine/state/parametrisation.h"
#include "engine/state/update.h"
#include "gpt/llama_keys.h"

namespace gigagpt {

struct GPTConfig {
  // The model.
  std::string model = "gpt2";  // its family
  int64_t max_position_embeddings = 2048;
  int64_t vocab_size = 50257;
  int64_t depth = 12;
  int64_t heads = 12;
  int64_t width = 768;
  bool bias = true;                 // of GPT-2 alone
  std::string activation = "gelu";  // of GPT-2 alone
  LlamaKeys llama = {};             // more keys, of that family alone
  bool document_mask = false;
  double dropout = 0.0;
  engine::ParametrisationRules parametrisation = {};  // more keys

  // The run.
  std::string out_dir = "out";
  std::string dataset = "openwebtext";
  int64_t batch_size = 120;
  int64_t sequence_length = 2048;
  int64_t num_steps = 10000;
  int64_t seed = 0;
  int64_t num_systems = 1;

  // Ours.
  std::string precision = "auto";
  std::optional<int64_t> micro_batch_size = {};
  int64_t eval_steps = 0;
  int64_t eval_batches = 0;
  int64_t threads = 0;
  engine::SaveRules saves = {};  // more keys
  engine::OptimizerRules optim = {};
  engine::StoreRules storage = {};
  engine::ScaleRules systems = {};
  engine::WatchRules watch = {};
  engine::CostRules cost = {};

  // The fields above by name, of the families' own those of `model`; the options point into this
  // object. Those that make the model what it is, which a checkpoint is opened with, come first.
  std::vector<Option> options();
  std::vector<Option> model_options();

  // What `model` may be.
  static const std::vector<std::string>& families();

  // Throws Error for values that do not go together, naming the keys.
  void check() const;
  void check_model() const;

  // Writes the model as config.json, and the tokenizer beside it; reads one of ours, or one of
  // another program that this one computes. Other programs refuse a model with multipliers (muP).
  void write_model(const Path& checkpoint, const std::string& tokenizer);
  static GPTConfig of_checkpoint(const Path& checkpoint);

  // What the model's parameters get, by their kinds.
  engine::Parametrisation parametrised() const;

  // Sequences per micro-batch. A function of the config alone, so that the bits of a run do not
  // depend on the machine: the largest divisor of a system's share of batch_size within 4096 tokens
  // unless given.
  int64_t micro_batch() const;

  // What passes through the layers in training, or in evaluation and sampling.
  engine::RunSize run_size(bool training) const;

  // The model's layers in order: embedding, blocks, head.
  std::vector<engine::LayerSpec> layers() const;
};

}  // namespace gigagpt
