// `gigagpt prepare`: text files to a data set.
#pragma once

#include "cli/arguments.h"

namespace gigagpt::cli {

// Writes the folder arguments.out as a whole or not at all. Throws Error for missing, empty or
// badly encoded input, and when the folder holds anything that is not a data set.
void prepare(const PrepareArguments& arguments);

}  // namespace gigagpt::cli
