// `gigagpt law`: what compute-optimal models of a size come to.
#pragma once

#include "cli/arguments.h"

namespace gigagpt::cli {

// What a run comes to by a law, before it begins.
void predict_loss(const Arguments& arguments);
// Fits a law to finished runs; says what it is, and draws and writes it where that is asked for.
void fit_runs(const LawArguments& arguments);

// A run's place among compute-optimal ones, in a line: tokens a parameter, FLOPs by Cerebras-GPT's
// count, and which of its models took as many.
std::string budget_text(const GPTConfig& config);

}  // namespace gigagpt::cli
