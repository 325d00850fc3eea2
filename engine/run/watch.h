// Watches the losses of a run: a spike, whose batch can be left out, the best validation loss, and
// when that no longer falls.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "engine/plan/plan.h"
#include "engine/run/store.h"
#include "formats/run_files.h"

namespace gigagpt::engine {

// Tells a loss or gradient norm that does not belong to those before it, by robust z-scores: their
// distance from a line through the medians of the last 64 steps, in standard deviations estimated
// by the median absolute deviation (Iglewicz and Hoaglin 1993). Norms are compared by their
// logarithms.
class SpikeDetector {
 public:
  explicit SpikeDetector(double threshold) : threshold_(threshold) {}
  // What is wrong with them, as "loss 9.8 is 31 standard deviations above ..."; "" if nothing is,
  // or too few are known.
  std::string judge(double loss, double norm) const;
  void add(double loss, double norm);

 private:
  double threshold_;
  std::deque<double> losses_, norms_;
};

// Batches that are left out are kept in out_dir/left_out.json, and beside each checkpoint: a run
// that goes on leaves out the same. Of several systems all call these at once, and what the one
// that leads has seen decides.
class Watch {
 public:
  using Note = std::function<void(const std::string&)>;
  // Throws AgreedError if batches cannot be left out, as layers of this store are updated in the
  // middle of a step.
  Watch(const WatchRules& rules, Path out_dir, const Store& store, Note note);

  // Learns what a run knew after `step` steps, from its metrics.jsonl and left_out.json.
  void load(int64_t step);

  // The batch of a step (from 0): those that are left out do not count.
  int64_t batch_of(int64_t step) const;

  // Whether the step (from 0) may use the gradients of this loss and norm. With on_spike: warn it
  // always may, and a spike is only noted.
  bool accepts(int64_t step, double loss, double norm);
  // Whether the batch of a step that cannot be made at all is to be left out; notes why.
  bool leaves_out(int64_t step, const std::string& why) const;
  bool rewinds() const { return rules_.on_spike == "rewind"; }
  // After a step was not made: leaves its batch out, and with on_spike:
  // rewind those of the steps before it, down to `first_step` where the run will go on. Throws
  // Error if that has not helped ten times.
  void leave_out(int64_t step, int64_t first_step);

  // After an evaluation, whose loss it puts down in the report with the best so far: whether this
  // is the best.
  bool is_best(formats::StepMetrics& report, double val_loss);
  // Whether the last evaluations were all worse than the best; notes it.
  bool stalls();

 private:
  WatchRules rules_;
  Path out_dir_;
  Cluster& cluster_;
  Note note_;
  SpikeDetector spikes_;
  std::vector<int64_t> left_out_;  // batches, sorted
  int64_t furthest_ = -1;          // step that was not accepted
  int attempts_ = 0;               // to get past it
  std::optional<double> best_loss_;
  int64_t best_step_ = 0;
  int64_t since_best_ = 0;  // evaluations
};

// What is left out goes with a run to another folder; from nowhere: nothing is left out there.
void carry_left_out(const Path& from, const Path& to);

}  // namespace gigagpt::engine
