// A model of any family, as an embedding, blocks and a head, and with all that runs it.
#pragma once

#include "engine/run/runtime.h"
#include "gpt/config.h"

namespace gigagpt {

// The layers in order. The first takes tokens [B, T]; the last returns the mean loss over the
// targets [B, T] or, without targets, logits [B, T, V], or those of the last position alone.
engine::Model make_model(const GPTConfig& config);
// Those of one family.
engine::Model make_gpt2(const GPTConfig& config);
engine::Model make_llama(const GPTConfig& config);

// The model with its state and what runs it, planned for the system that this is.
engine::Runtime make_gpt(const GPTConfig& config, bool training, const engine::System& system = {},
                         const std::optional<engine::ResumePoint>& from = {});

}  // namespace gigagpt
