// What a step of a run moves and how long it takes. No LibTorch.
#pragma once

#include "engine/needs.h"

namespace gigagpt::engine {

// Bytes of the file that a step reads and writes; those of the pass that makes the updates, the
// first forward pass or with GradientForm::kNone the backward pass, are counted in `update` too.
struct StepTraffic {
  double read = 0, write = 0;
  double update = 0;
};
// `cached` segments keep their state in memory. In the long run: a step that begins with a deferred
// update and leaves one.
StepTraffic step_traffic(const StateLayout& layout, int64_t windows, bool recompute, size_t cached);

struct StepTime {
  double flops = 0;
  double compute_s = 0;  // the disk never waited for
  double stall_s = 0;
};
StepTime step_time(const Needs& needs, const RunSize& size, const Choices& way,
                   const StepTraffic& traffic, const Machine& machine, const DiskRates& disk);

}  // namespace gigagpt::engine
