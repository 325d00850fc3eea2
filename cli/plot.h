// `gigagpt plot`: the losses of runs as a picture.
#pragma once

#include "cli/arguments.h"
#include "cli/figure.h"

namespace gigagpt::cli {

// Reads the metrics.jsonl of each run; runs that are under way are shown as far as they are. Throws
// Error for a folder without one, or where FLOPs are asked for and a run has no checkpoint to know
// its model from.
Figure plot_of(const PlotArguments& arguments);

void plot(const PlotArguments& arguments);

}  // namespace gigagpt::cli
