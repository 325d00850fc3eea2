// `gigagpt prepare`: text files to a data set.
#pragma once

#include <set>
#include <string>

#include "cli/arguments.h"

namespace gigagpt::cli {

// Writes the folder arguments.out as a whole or not at all, and prints figures with
// arguments.stats, for which `out` may be empty. Bytes written depend on the input, the tokenizer,
// the split and the seed, not on the threads. Throws Error for missing, empty or badly encoded
// input, when the folder holds anything that is not a data set, and after Ctrl-C.
void prepare(const PrepareArguments& arguments);

// Throws Error if the folder has other files than `ours`, which are those of `what`: it is about to
// be replaced. One that is not there will do.
void refuse_foreign_folder(const Path& out, const std::set<std::string>& ours, const char* what);

}  // namespace gigagpt::cli
