// `gigagpt inspect`: what a file or directory of a run is, what it holds, and whether it is whole.
#pragma once

#include "base/file.h"

namespace gigagpt::cli {

// Prints what is known about a store, a checkpoint, a run's out_dir, a safetensors or a GGUF file,
// with all that is wrong in it, and changes nothing. The content may be anything. Throws Error if
// something is wrong, or if it is none of these.
void inspect(const Path& path);

}  // namespace gigagpt::cli
