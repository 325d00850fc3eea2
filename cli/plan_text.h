// A plan as a person reads it, before a run and beside what was measured when it ends.
#pragma once

#include <string>

#include "engine/plan/plan.h"
#include "gpt/config.h"

namespace gigagpt::cli {

// A line per question: what it is, what it takes of this machine, how long it will run. With the
// reason if it does not fit.
std::string plan_text(const GPTConfig& config, const engine::Plan& plan,
                      const engine::Machine& machine);

// What a run took, in the units of its plan; zeros are not known.
struct Measured {
  double step_s = 0;  // mean without the first
  double peak_gb = 0;
  double disk_gb = 0;
};
std::string comparison_text(const engine::Plan& plan, const Measured& measured);

// What the run has on the disk now: its out_dir, and its store if that is elsewhere.
double disk_used_gb(const GPTConfig& config, const engine::Plan& plan);

// A number of 1e9 bytes as "0.34 GB", "48.1 GB" or "3.15 TB".
std::string gb_text(double gb);

}  // namespace gigagpt::cli
