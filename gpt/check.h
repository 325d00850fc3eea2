// `gigagpt check`: a model of any family, in a small size, held to what the engine counts on and
// taken through the training loop.
#pragma once

#include <functional>

#include "engine/check/check.h"
#include "gpt/config.h"

namespace gigagpt {

// Leaves two blocks at most, and CompleteP's base depth in proportion.
void make_shallow(GPTConfig& config);

// The config with the sizes of a model that is checked in seconds: other things about it, such as
// which heads share keys and values, stay.
GPTConfig small_config(GPTConfig config);

// engine::check_model() with tokens at random, and then runs of the training loop, on files for
// temporary ones. Takes widths as they are. Returns the number of claims that do not hold.
int check_gpt(const GPTConfig& config, const std::function<void(const engine::Finding&)>& found);

}  // namespace gigagpt
