// How a run uses the memory it is given: state in RAM or in a file, outputs kept or computed again,
// how many micro-batches at once. Plain numbers, no LibTorch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/state_layout.h"

namespace gigagpt::engine {

// What passes through the layers.
struct RunSize {
  int64_t micro_batch_tokens = 1;
  int64_t micro_batches = 1;  // of a step
  bool training = true;
};

struct MemoryRules {
  std::string store = "auto";      // "auto", "memory", or the path of the file
  std::string recompute = "auto";  // "auto", "on", "off"
  double memory_gb = 0;            // 0: nine tenths of what the machine has free
  Path default_file;               // for "auto"; if it is there already, it is used
};

struct MemoryPlan {
  Path file;               // where the state is; empty: in RAM
  int64_t window = 1;      // as in ExecutorOptions
  bool recompute = false;  // likewise
  uint64_t layer_bytes = 0;  // for layers that stream through
  double state_gb = 0;       // in RAM or file
  double peak_gb = 0;        // expected
  std::string note;          // one line for the user
};

// Throws Error if nothing fits, saying what would be needed.
MemoryPlan plan_memory(const std::vector<LayerSpec>& specs, Precision precision,
                       const RunSize& size, const MemoryRules& rules);

}  // namespace gigagpt::engine
