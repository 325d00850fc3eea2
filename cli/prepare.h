// `gigagpt prepare`: text files to a data set.
#pragma once

#include "cli/arguments.h"

namespace gigagpt::cli {

// Writes the folder arguments.out as a whole or not at all, and prints figures with
// arguments.stats, for which `out` may be empty. Bytes written depend on the input, the tokenizer,
// the split and the seed, not on the threads. Throws Error for missing, empty or badly encoded
// input, when the folder holds anything that is not a data set, and after Ctrl-C.
void prepare(const PrepareArguments& arguments);

}  // namespace gigagpt::cli
