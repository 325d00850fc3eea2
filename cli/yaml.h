// Config files: gigaGPT's flat keys, or the nested layout of its later, Model Zoo based version.
#pragma once

#include <string>
#include <vector>

#include "cli/arguments.h"

namespace gigagpt::cli {

// The settings of a YAML file in order. Keys that only steer Cerebras' cluster are left out, with
// one note. A list of hosts becomes "a,b:2". Throws Error naming file and line for bad YAML, a key
// given twice, or another key whose value is not a single one. Unknown keys are for the caller to
// find.
std::vector<Setting> read_yaml(const Path& path, std::vector<std::string>& notes);

}  // namespace gigagpt::cli
