// A run held against the curve of a law while it trains.
#pragma once

#include <optional>
#include <string>

#include "formats/run_files.h"
#include "gpt/collapse.h"
#include "gpt/config.h"

namespace gigagpt::cli {

class LawWatch {
 public:
  // Reads the file that the config's `law` names. Throws Error if that has no curve, or says
  // nothing of this run.
  explicit LawWatch(const GPTConfig& config);

  // Adds the expected loss to a step's numbers. Says, once, that the run has left the band of
  // normal ones. Steps from before the run was continued are read from its log, which must not have
  // this step yet.
  std::optional<std::string> measured(formats::StepMetrics& metrics);

  // The validation loss that the law expects at the end.
  double final_loss() const { return final_loss_; }

 private:
  std::string out_dir_, file_;
  double final_loss_ = 0;
  std::optional<CollapseWatch> fresh_, watch_;  // before the first step, and now
  int64_t step_ = -1;                           // the newest that `watch_` knows
};

}  // namespace gigagpt::cli
