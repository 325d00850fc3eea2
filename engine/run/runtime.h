// A model together with its state and what runs it.
#pragma once

#include <optional>
#include <string>

#include "engine/plan/plan.h"
#include "engine/run/executor.h"
#include "engine/run/resume.h"
#include "engine/run/store.h"
#include "formats/run_files.h"

namespace gigagpt::engine {

// The system that this process is: what its machine can do, and its place among others.
struct System {
  Machine machine = {};
  Cluster& cluster = Cluster::alone();
};

struct Runtime {
  // Plans, then makes the storage, or goes on with the file that the run is in. Throws Error,
  // before anything is written, if it does not fit; the state starts as zeros. Of several systems
  // all fail alike, and files that are a step apart go on from the earlier one.
  Runtime(Model model, const std::string& precision, const RunSize& size, const StoreRules& rules,
          const Path& out_dir, const System& system, const std::optional<ResumePoint>& from);
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // The metrics of a step whose gradients are complete, of all systems together.
  formats::StepMetrics measure(const Gradients& gradients, const Update& update);

  RunSize size;
  Model model;
  Plan plan;
  Store store;
  Executor executor;
  Cluster& cluster;
  double peak_flops;  // of products in the run's precision; 0: not known
};

}  // namespace gigagpt::engine
