// `gigagpt law`: what compute-optimal models of a size come to.
#pragma once

#include <functional>
#include <span>

#include "cli/arguments.h"
#include "gpt/law.h"

namespace gigagpt::cli {

// Says what a run comes to by a law, before it begins.
void predict_loss(const Arguments& arguments);
void print_prediction(const GPTConfig& config);
// Fits a law to finished runs; says what it is, and draws and writes it where that is asked for.
void fit_runs(const LawArguments& arguments);
// Fits a law of parameters and tokens to runs of several tokens a parameter; says how many of them
// are best, and draws what others cost.
void compare_ratios(const LawArguments& arguments);

// A table of runs and the losses that a law has for them.
void print_beside_law(std::span<const LawPoint> runs,
                      const std::function<double(const LawPoint&)>& expected);

// A run's place among compute-optimal ones, in a line: tokens a parameter, FLOPs by Cerebras-GPT's
// count, and which of its models took as many.
std::string budget_text(const GPTConfig& config);

}  // namespace gigagpt::cli
