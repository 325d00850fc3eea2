// A model together with its state and what runs it.
#pragma once

#include <string>
#include <vector>

#include "engine/executor.h"
#include "engine/memory_plan.h"
#include "engine/store.h"
#include "formats/safetensors.h"

namespace gigagpt::engine {

struct Runtime {
  // Plans the memory, then makes the storage, or with `reopen` goes on with the file that holds it.
  // Throws Error if nothing fits; the state starts as zeros.
  Runtime(Model model, std::vector<formats::StoredTensor> layout, const std::string& precision,
          const RunSize& size, const MemoryRules& rules, bool reopen);
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  Model model;
  std::vector<formats::StoredTensor> layout;  // how it lies in a checkpoint
  MemoryPlan plan;
  Store store;
  Executor executor;
};

}  // namespace gigagpt::engine
