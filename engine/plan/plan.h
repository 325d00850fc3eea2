// How a run uses the machine it is given: state in RAM or in a file and in what form, outputs kept
// or computed again, how many micro-batches at once; and what that takes of memory, disk and time.
// Plain numbers, no LibTorch.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/option.h"
#include "engine/plan/machine.h"
#include "engine/state/layout.h"

namespace gigagpt::engine {

// What passes through the layers, and how often.
struct RunSize {
  int64_t batch_size = 1;  // sequences
  int64_t micro_batch_size = 1;
  int64_t sequence_length = 1;
  bool training = true;
  int64_t num_steps = 1;
  int64_t checkpoint_steps = 0;
  double checkpoint_minutes = 0;
  int64_t keep_checkpoints = 0;
  bool checkpoint_moments = false;  // also where the state is in a file
  int64_t systems = 1;              // that share the micro-batches
  double network_gbit = 0;          // a second, between them
  const ops::Optimizer* optimizer = &ops::AdamW::kInfo;

  int64_t micro_batch_tokens() const { return micro_batch_size * sequence_length; }
  // Of a step; the most that one system has of them.
  int64_t all_micro_batches() const {
    return (batch_size + micro_batch_size - 1) / micro_batch_size;
  }
  int64_t micro_batches() const { return (all_micro_batches() + systems - 1) / systems; }
  int64_t step_tokens() const { return batch_size * sequence_length; }
};

// What a user may decide of it: config keys.
struct StoreRules {
  std::string store = "auto";            // "auto", "memory", or the path of the file
  std::string state = "full";            // "full", "compact"
  std::string clip = "global";           // "global", "layer"
  std::string recompute = "auto";        // "auto", "on", "off"
  std::optional<double> memory_gb = {};  // nothing: nine tenths of what the machine has free

  std::vector<Option> options();  // they point into this object
};

// What a user may say of the systems that train together: config keys.
struct ScaleRules {
  std::optional<std::string> hosts = {};    // where they run; nothing: all on this machine
  double system_timeout_minutes = 30;       // a system that is silent for so long ends all
  std::optional<double> network_gbit = {};  // a second, of each system's link; for plans
  double network(int64_t systems) const {
    return network_gbit.value_or(systems == 1 || hosts ? 10 : 30);
  }

  std::vector<Option> options();  // they point into this object
};

// What a user may say of checkpoints: config keys.
struct SaveRules {
  int64_t checkpoint_steps = 1000;
  std::optional<std::string> checkpoint_path = {};
  std::string load_weights_only = "auto";  // "auto", "true", "false"
  double checkpoint_minutes = 30;
  int64_t keep_checkpoints = 3;
  bool checkpoint_moments = false;

  std::vector<Option> options();  // they point into this object
};

// What a user may say of a run whose loss goes astray, or no longer falls: config keys.
struct WatchRules {
  std::string on_spike = "warn";  // "warn", "skip", "rewind"
  double spike_threshold = 8;     // standard deviations
  bool keep_best = false;
  int64_t early_stopping = 0;           // evaluations without a better one; 0: never
  std::optional<std::string> law = {};  // a file with what is normal

  std::vector<Option> options();  // they point into this object
};

// The file of a run's state, if it is in a file: `store`, or one in out_dir; of several systems
// each has one, "model.0-of-2.store". A file that is there already is used.
Path store_file(const std::string& store, const Path& out_dir, const Shard& shard = {});

// How a run is made.
struct Execution {
  // Micro-batches that pass a layer before the next; 0: all of them. What they keep for the
  // backward pass is in memory together, so with weights at hand one at a time is best.
  int64_t window = 1;
  bool recompute = false;  // keep only each layer's input and run it again in the backward pass
  StateForm form = {};
  Path file = {};  // where the state is; empty: in RAM
};

struct Plan {
  Execution execution;
  uint64_t layer_bytes = 0;       // for layers that stream through
  uint64_t cache_bytes = 0;       // for state that need not be read again
  uint64_t activation_bytes = 0;  // for tensors: what is left
  double state_gb = 0;            // in RAM or file
  double peak_gb = 0;             // of memory, expected

  double snapshot_gb = 0;   // of one
  int64_t snapshots = 0;    // that are there when the run ends
  double disk_gb = 0;       // all that is there then
  double most_disk_gb = 0;  // while an old snapshot waits for a new one to be complete
  double free_gb = 0;       // on the disk of out_dir
  double freed_gb = 0;      // of that, what the run has on the disk already

  double flops_per_token = 0;        // of training on one, nothing computed twice
  double step_flops = 0;             // what is computed twice counted twice
  double read_gb = 0, write_gb = 0;  // a step, of the file
  double all_write_gb = 0;           // of the whole run, snapshots too
  double step_s = 0;                 // 0: the machine is not known
  double compute_s = 0;              // of that, without waiting for the disk or the network
  double sent_gb = 0;                // a step, by each of several systems
  double sending_s = 0;              // that takes
  double network_s = 0;              // of that, what is waited for
  double network_gbit = 0;           // a second, that it counts with
  std::vector<std::pair<int64_t, double>> on_systems = {};  // other numbers of them: step_s

  // Why it cannot be done and what could; empty if it can. The numbers above are then those of the
  // least that it needs.
  std::string refusal;
  std::string note() const;  // one line for the user
};

// From "fp32", "bf16" or "auto": bf16 where the CPU multiplies it natively, or compact state
// needs it.
Precision precision_for(const std::string& wanted, bool compact, bool native_bf16);

// Plans a run, training or not. Throws Error for rules that contradict each other or a file that is
// there. Nothing is written. `free` tells what is free on a path's disk. Of several systems it is
// the plan of the one of that rank, on a machine of its own or its share of one.
using FreeBytes = std::function<uint64_t(const Path&)>;
Plan make_plan(const std::vector<LayerSpec>& specs, Precision precision, const RunSize& size,
               const StoreRules& rules, const Path& out_dir, const Machine& machine, int rank = 0,
               const FreeBytes& free = free_bytes);

}  // namespace gigagpt::engine
