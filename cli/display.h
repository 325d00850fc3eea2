// What a person sees while something runs: one line that is rewritten on a terminal, plain lines in
// a log.
#pragma once

#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "base/system.h"
#include "base/trace.h"
#include "formats/run_files.h"

namespace gigagpt::cli {

// Seconds as "45s", "3m20s", "5h07m" or "12d4h".
std::string duration_text(double seconds);

// "123,456,789"
std::string grouped(int64_t number);

// How a run gets on.
struct Pace {
  std::string time;         // of the day, "21:40:12"
  double elapsed_s = 0;     // since the start
  double eta_s = -1;        // to go; below 0: not known
  double tokens_per_s = 0;  // mean since the line before
  double mfu = 0;           // likewise
};
// A step as a line of progress.
std::string step_text(const formats::StepMetrics& metrics, int64_t num_steps, const Pace& pace);

// The time of the day here, as "21:40:12".
std::string clock_text();

// What some steps of a run took, op by op.
struct StepProfile {
  int64_t steps = 0;
  double seconds = 0;     // of these steps
  double peak_flops = 0;  // of matrix products, a second; 0: not known
  std::vector<ProfileRow> rows;
};

// The profile as a table, a line per op, with means over the steps. What is in no op comes last, so
// that the shares add up to 100 %. Rates are of an op's own time.
std::string profile_text(const StepProfile& profile);

// What tells a process that mpirun started how wide the terminal is on which its output ends up.
inline constexpr const char* kColumnsVariable = "GIGAGPT_TERMINAL_COLUMNS";

// Columns of the terminal that shows standard error, by way of mpirun too; 0 if none does.
int terminal_columns();

// The live line goes to standard error, so that output can be piped, and so do lines, unless they
// are to go to standard output, as a log of their own. Use from one thread.
class Display {
 public:
  // One that does not talk shows nothing.
  explicit Display(bool talks = true, int lines = STDERR_FILENO);
  ~Display();  // clears what is left of the live line
  // A line for the person who watches, on standard error.
  void message(const std::string& text);
  void line(const std::string& text);  // stays
  void live(const std::string& text);  // replaced by the next; terminals only
  // "what 37 %, 12s to go" once it has taken two seconds; in a log, a line every half minute. A
  // share of 0 begins a new piece of work.
  void share(const std::string& what, double share);

 private:
  void clear();
  bool talks_;
  bool terminal_;
  int lines_;  // stream
  size_t live_size_ = 0;
  Stopwatch since_start_;
  double next_share_s_ = 2;
};

// Begins a piece of work on `all`, of bytes say, and is to be told each amount that was done.
std::function<void(double)> count_up(Display& display, const char* what, double all);

}  // namespace gigagpt::cli
