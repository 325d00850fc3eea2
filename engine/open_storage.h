// The storage that a memory plan asks for.
#pragma once

#include <memory>
#include <vector>

#include "engine/memory_plan.h"
#include "engine/storage.h"

namespace gigagpt::engine {

// With `reopen`, a file that holds the run already is continued; else it is made. The file of a
// model that is not trained is scratch: it has no name any more when this returns.
std::unique_ptr<Storage> open_storage(const std::vector<LayerSpec>& specs, Precision precision,
                                      const RunSize& size, const MemoryPlan& plan, bool reopen);

}  // namespace gigagpt::engine
