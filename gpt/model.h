// The model: GPT-2 with pre-layer-norm (Radford et al. 2019), as an embedding, blocks and a head.
#pragma once

#include <vector>

#include "engine/checkpoint.h"
#include "engine/executor.h"
#include "engine/open_storage.h"
#include "engine/store.h"
#include "formats/hf_gpt2.h"
#include "gpt/config.h"

namespace gigagpt {

// The layers in order. The first takes tokens [B, T]; the last returns the mean loss over the
// targets [B, T] or, without targets, logits [B, T, V]; with caches those of the last position
// alone.
engine::Model make_model(const GPTConfig& config);

// The model, its state, what runs it, and how it lies in a checkpoint.
struct GPT {
  // With `reopen`, the state is in a file from before.
  GPT(const GPTConfig& config, bool training, bool reopen = false);
  engine::Model model;
  engine::RunSize size;
  engine::MemoryPlan plan;
  engine::Store store;
  engine::Executor executor;
  std::vector<engine::StoredTensor> layout;
};

// Where a run's state is if it is in a file.
Path store_file(const GPTConfig& config);

// The model part of a config from a checkpoint's config.json, and back.
GPTConfig config_of_checkpoint(const Path& checkpoint);
formats::HfGpt2Config hf_config(const GPTConfig& config);

}  // namespace gigagpt
