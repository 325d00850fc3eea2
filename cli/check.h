// The command `check`.
#pragma once

#include "cli/arguments.h"

namespace gigagpt::cli {

// Prints each finding as it is made. Returns the status to exit with: 0 if all claims hold.
int check(const Arguments& arguments);

}  // namespace gigagpt::cli
