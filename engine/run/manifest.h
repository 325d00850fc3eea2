// What computed a checkpoint: enough to tell why two runs differ in their last bits.
#pragma once

#include "formats/run_files.h"

namespace gigagpt::engine {

// Version of this program and of LibTorch and oneDNN, the CPU and the threads in use.
formats::TextPairs manifest();

}  // namespace gigagpt::engine
