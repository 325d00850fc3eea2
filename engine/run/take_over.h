// State from the files of a run on another number of systems, or by an older version.
#pragma once

#include "engine/run/resume.h"
#include "engine/run/store.h"

namespace gigagpt::engine {

// Fills the store from `other_files`, which must be there for the system that leads. Those of
// another run stay; others are removed where the store is in files of its own. Throws AgreedError,
// before anything is written, if they cannot be read.
void load_files(const ResumePoint& from, Store& store, const Progress& progress);

}  // namespace gigagpt::engine
