// How a run uses the memory it is given: state in RAM or in a file, outputs kept or computed again,
// how many micro-batches at once. Plain numbers, no LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/state_layout.h"

namespace gigagpt::engine {

// What passes through the layers.
struct RunSize {
  int64_t batch_size = 1;  // sequences
  int64_t micro_batch_size = 1;
  int64_t sequence_length = 1;
  bool training = true;

  int64_t micro_batch_tokens() const { return micro_batch_size * sequence_length; }
  int64_t micro_batches() const { return (batch_size + micro_batch_size - 1) / micro_batch_size; }
  int64_t step_tokens() const { return batch_size * sequence_length; }
};

struct MemoryRules {
  std::string store = "auto";            // "auto", "memory", or the path of the file
  std::string recompute = "auto";        // "auto", "on", "off"
  std::optional<double> memory_gb = {};  // nothing: nine tenths of what the machine has free
  Path out_dir = {};                     // for store_file
};

// The file of a run's state, if it is in a file: `store`, or one in out_dir. A file that is there
// already is used.
Path store_file(const std::string& store, const Path& out_dir);

struct MemoryPlan {
  Path file;                      // where the state is; empty: in RAM
  int64_t window = 1;             // as in ExecutorOptions
  bool recompute = false;         // likewise
  uint64_t layer_bytes = 0;       // for layers that stream through
  uint64_t cache_bytes = 0;       // for state that need not be read again
  uint64_t activation_bytes = 0;  // for tensors: what is left
  double state_gb = 0;            // in RAM or file
  double peak_gb = 0;             // expected
  std::string note;               // one line for the user
};

// Throws Error if nothing fits, saying what would be needed.
MemoryPlan plan_memory(const std::vector<LayerSpec>& specs, Precision precision,
                       const RunSize& size, const MemoryRules& rules);

}  // namespace gigagpt::engine
