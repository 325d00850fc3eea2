// `gigagpt coordinates`: how large what a model makes is at several widths, as a table and a
// picture.
#pragma once

#include "cli/arguments.h"

namespace gigagpt::cli {

// Returns the status to exit with: 0 if all sizes are the same at every width.
int coordinates(const Arguments& arguments);

}  // namespace gigagpt::cli
