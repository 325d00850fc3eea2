// `gigagpt tokenizer`: trains a tokenizer, or shows what one does.
#pragma once

#include "cli/arguments.h"

namespace gigagpt::cli {

// train writes the folder `out` as a whole or not at all; encode and decode print to standard
// output. Throws Error for input that is missing or makes no sense, and for a folder `out` that
// holds anything but a tokenizer.
void run_tokenizer(const TokenizerArguments& arguments);

}  // namespace gigagpt::cli
