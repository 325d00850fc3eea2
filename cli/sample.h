// `gigagpt sample`: text from a trained model.
#pragma once

#include "cli/arguments.h"

namespace gigagpt::cli {

// Writes to standard output. Throws Error.
void sample(const SampleArguments& arguments);

}  // namespace gigagpt::cli
