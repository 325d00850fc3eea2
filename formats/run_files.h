// What a run writes beside its weights: trainer_state.json in a checkpoint, metrics.jsonl and
// tensorboard/ in out_dir.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "formats/tensorboard.h"

namespace gigagpt::formats {

using TextPairs = std::vector<std::pair<std::string, std::string>>;
// The value of a key, "" if there is none.
std::string find_text(const TextPairs& pairs, const std::string& key);

inline constexpr const char* kOptimizerFile = "optimizer.safetensors";

// What a whole file is known by.
struct FileSum {
  std::string name;
  uint64_t bytes = 0;
  uint32_t crc32c = 0;
  bool operator==(const FileSum&) const = default;
};

FileSum sum_of_file(const Path& path);

// trainer_state.json: how far the run is, its resolved configuration, a manifest of what computed
// it (version, CPU, threads, precision), and the sums of the files beside it. It has a sum of its
// own, too.
struct TrainerState {
  int64_t step = 0;  // steps completed
  int64_t tokens = 0;
  TextPairs config;
  TextPairs manifest;
  std::vector<FileSum> files = {};  // empty in checkpoints from before there were sums
};
// Written last: files that `state` does not have the sums of are read for them.
void write_trainer_state(const Path& directory, TrainerState state);
TrainerState read_trainer_state(const Path& directory);  // throws Error

// The keys that decide what a run learns and have other values now than when the checkpoint was
// written, as "learning_rate 0.001 (was 0.0003), ..."; "" if there are none. A data set of the same
// name whose fingerprint is `data` now may have other content.
std::string differences(const TrainerState& was, const TextPairs& config, const std::string& data);

// Compares the files that a checkpoint's trainer_state.json names with the sizes and checksums that
// it has of them. Throws Error naming the first that differs. A checkpoint without
// trainer_state.json, or from before there were checksums, passes. Without `moments` the file with
// the optimizer's is left out.
void verify_files(const Path& checkpoint, bool moments = true);
// Compares the sizes, and the checksums of what is read in a moment.
void verify_quickly(const Path& checkpoint);

// What is known when a step is done: a line of metrics.jsonl, with these names as keys.
struct StepMetrics {
  int64_t step = 0;    // steps completed
  int64_t tokens = 0;  // since the start of the run
  double loss = 0;
  double grad_norm = 0;  // before clipping
  double lr = 0;
  double tokens_per_s = 0;
  double mfu = 0;  // share of the GEMM rate measured at the start
  double step_ms = 0;
  double rss_gb = 0;  // peak
  IoCounts io = {};   // of a state that is in a file, in this step
  std::optional<double> val_loss = {};
  std::optional<double> expected_loss = {};  // by a law, at this place of the run
  double best_val_loss = 0;                  // so far; these two are not logged
  int64_t best_step = 0;
  double epoch = 0;                                 // how often the training data was seen
  std::map<std::string, double> added_losses = {};  // that layers add to the loss, by name
};

// Calls use(row) for each step that out_dir/metrics.jsonl has, up to `last_step`, with what is said
// there of step, tokens, loss, grad_norm, step_ms and val_loss.
void for_each_logged(const Path& out_dir, int64_t last_step,
                     const std::function<void(const StepMetrics&)>& use);
// The last step that is there; 0 if there is none.
int64_t last_logged_step(const Path& out_dir);

// out_dir/metrics.jsonl: one JSON object a step. Continuing a run first drops the lines of steps
// that will be run again, and a line that a crash cut short; one that was begun is ended. The same
// numbers go to out_dir/tensorboard, and at the start the configuration. Where several processes
// take part one writes, and the others do nothing here. What cannot be written, as on a full disk,
// ends no run: `warn` is told once, and later lines are tried again.
class MetricsLog {
 public:
  using Warn = std::function<void(const std::string&)>;
  MetricsLog(const Path& out_dir, int64_t completed_steps, const TextPairs& config,
             bool writes = true, Warn warn = {});
  void write(const StepMetrics& metrics) { begin(metrics), end(metrics.val_loss); }
  // The same in two: first all but val_loss.
  void begin(const StepMetrics& metrics);
  void end(std::optional<double> val_loss);
  void sync();  // before a checkpoint that counts on the lines so far

 private:
  void write_line(const std::string& text);
  void write_events(const std::vector<Scalar>& scalars);
  template <class Write>
  bool attempt(const Write& write);

  std::optional<File> file_;
  std::optional<EventWriter> board_;
  Path board_directory_;
  Warn warn_;
  bool warned_ = false;
  bool cut_ = false;  // the last line may be
  int64_t step_ = 0;  // that was begun
};

}  // namespace gigagpt::formats
