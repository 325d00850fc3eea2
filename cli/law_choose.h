// `gigagpt law choose`: a budget turned into a config.
#pragma once

#include <functional>

#include "cli/arguments.h"
#include "engine/plan/plan.h"

namespace gigagpt::cli {

using PlanOf = std::function<engine::Plan(const GPTConfig&)>;

// Chooses the largest model of the config's family that sees 20 tokens a parameter within so many
// hours or FLOPs. Prints its size, time and expected loss, and its config or the file that this is
// written to. plan_of tells how long a run takes. Throws Error if none fits.
void choose_size(const Arguments& arguments, const PlanOf& plan_of);

}  // namespace gigagpt::cli
