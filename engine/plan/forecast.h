// What a step of a run moves and how long it takes. No LibTorch.
#pragma once

#include "engine/plan/memory_estimate.h"

namespace gigagpt::engine {

// Bytes of the file that a step reads and writes; those of the pass that makes the updates, the
// first forward pass or with GradientForm::kNone the backward pass, are counted in `update` too.
struct StepTraffic {
  double read = 0, write = 0;
  double update = 0;
};
// `cached` segments keep their state in memory. In the long run: a step that begins with a deferred
// update and leaves one. Of several systems, what one moves of its own file.
StepTraffic step_traffic(const StateLayout& layout, int64_t windows, bool recompute, size_t cached);

// Fills in how much the plan's step computes and sends, and how long it takes, on size.systems
// systems like this machine. Gradients go behind the last backward pass but for those of the first
// layer, weights behind the first forward pass but for its weights.
void forecast_step(const MemoryEstimate& estimate, const RunSize& size, const StepTraffic& traffic,
                   const Machine& machine, const DiskRates& disk, Plan& plan);

// What a step moves on size.systems systems, given that of one.
StepTraffic shared_traffic(const StepTraffic& of_one, const RunSize& size, int64_t window);

}  // namespace gigagpt::engine
