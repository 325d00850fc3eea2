// Measures what a plan counts with.
#pragma once

#include "engine/plan/machine.h"

namespace gigagpt::engine {

// The precision that a config asks for, on this CPU; see precision_for().
Precision choose_precision(const std::string& wanted, bool compact);

// This machine's products and memory, and the disk that `folder` is, or would be, on: some five
// seconds, and 1 GB of room. A disk that has no room for that stays unknown.
Machine measure_machine(const Path& folder);

// What is kept of this machine with its products in that precision measured once more, which takes
// a moment; what was not measured yet is now, and kept, and so is all if other programs were busy
// then and are less so now. With several systems on it, all asking at
// once, what each of them has of it; then nothing is kept.
Machine known_machine(Precision precision, const Path& folder, int systems_here = 1);

}  // namespace gigagpt::engine
