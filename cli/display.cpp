#include "cli/display.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "cli/output.h"

namespace gigagpt::cli {

std::string duration_text(double seconds) {
  if (!(seconds > 0)) return "0s";  // not a number, too
  const auto s = static_cast<int64_t>(std::llround(std::min(seconds, 1e15)));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{}h", s / 86400, s / 3600 % 24);
}

std::string grouped(int64_t number) {
  std::string text = std::to_string(number);
  for (int64_t i = int64_t(text.size()) - 3; i > 0; i -= 3) text.insert(size_t(i), ",");
  return text;
}

std::string clock_text() {
  const std::time_t now = std::time(nullptr);
  std::tm here{};
  ::localtime_r(&now, &here);
  return fmt::format("{:02}:{:02}:{:02}", here.tm_hour, here.tm_min, here.tm_sec);
}

std::string step_text(const formats::StepMetrics& m, int64_t num_steps, const Pace& pace) {
  const std::string expected =
      m.expected_loss ? fmt::format(" ({:.4f} expected)", *m.expected_loss) : "";
  std::string text = fmt::format(
      "{}  step {:>{}}/{}  loss {:.4f}{}  norm {:.3f}  lr {:.2e}  {:.0f} tok/s  MFU {:.1f} %  "
      "epoch {:.3g}  {}",
      pace.time, m.step, fmt::formatted_size("{}", num_steps), num_steps, m.loss, expected,
      m.grad_norm, m.lr, pace.tokens_per_s, 100 * pace.mfu, m.epoch, duration_text(pace.elapsed_s));
  for (const auto& [name, loss] : m.added_losses) text += fmt::format("  {} {:.4f}", name, loss);
  if (pace.eta_s >= 0) text += "  ETA " + duration_text(pace.eta_s);
  if (!m.val_loss) return text;
  text += fmt::format("  val_loss {:.4f}", *m.val_loss);
  return text + (m.best_step == m.step
                     ? " (the best)"
                     : fmt::format(" (best {:.4f} at step {})", m.best_val_loss, m.best_step));
}

namespace {

// Cells of a table: names to the left, numbers to the right.
std::string table_line(size_t name_width, const std::array<std::string, 7>& cells) {
  std::string line =
      fmt::format("\n{:<{}}  {:>10}  {:>9}  {:>7}  {:>8}  {:>7}  {:>6}", cells[0], name_width,
                  cells[1], cells[2], cells[3], cells[4], cells[5], cells[6]);
  return line.erase(line.find_last_not_of(' ') + 1);
}

// The number with some digits after the point; nothing if it is not known.
std::string known(double number, int digits, const char* unit = "") {
  return number > 0 && std::isfinite(number) ? fmt::format("{:.{}f}{}", number, digits, unit) : "";
}

}  // namespace

std::string profile_text(const StepProfile& profile) {
  if (profile.steps == 0) return "no profile: it leaves out the first step, and there was no other";
  const auto steps = double(profile.steps);
  const double all_ms = profile.seconds * 1e3;
  std::vector<ProfileRow> rows = profile.rows;
  ProfileRow rest{"everything else", 0, all_ms, 0, 0};
  size_t width = rest.name.size();
  for (const ProfileRow& row : rows) {
    rest.self_ms = std::max(0.0, rest.self_ms - row.self_ms);
    width = std::max(width, row.name.size());
  }
  rows.push_back(rest);
  std::string text = fmt::format("a step took {:.4g} ms, the mean of {} without the first",
                                 all_ms / steps, profile.steps);
  text += table_line(width, {"op", "calls/step", "ms/step", "share", "GFLOP/s", "of peak", "GB/s"});
  for (const ProfileRow& row : rows) {
    const double flops_per_s = row.flops / row.self_ms * 1e3;
    const double peak_share = profile.peak_flops > 0 ? flops_per_s / profile.peak_flops : 0;
    const bool whole = row.calls % profile.steps == 0;
    text += table_line(
        width, {row.name, known(double(row.calls) / steps, whole ? 0 : 1),
                fmt::format("{:.3f}", row.self_ms / steps),
                fmt::format("{:.1f} %", 100 * row.self_ms / all_ms), known(flops_per_s / 1e9, 1),
                known(100 * peak_share, 1, " %"), known(row.bytes / row.self_ms / 1e6, 1)});
  }
  return text;
}

int terminal_columns() {
  constexpr int kUnknown = 1 << 16;
  if (isatty(STDERR_FILENO) != 0) {
    winsize window{};
    const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
    return known ? window.ws_col : kUnknown;
  }
  const char* given = std::getenv(kColumnsVariable);
  return given ? std::max(0, std::atoi(given)) : 0;
}

// What mpirun brings by way of two pipes would not come in order.
Display::Display(bool talks, int lines)
    : talks_(talks),
      terminal_(terminal_columns() > 0),
      lines_(lines == STDOUT_FILENO && (::isatty(STDERR_FILENO) != 0 || !terminal_)
                 ? STDOUT_FILENO
                 : STDERR_FILENO) {}

Display::~Display() {
  clear();
}

void Display::line(const std::string& text) {
  if (!talks_) return;
  clear();
  write_message(text + "\n", lines_);
}

void Display::message(const std::string& text) {
  if (!talks_) return;
  clear();
  print_message("{}", text);
}

void Display::live(const std::string& text) {
  if (!terminal_ || !talks_) return;
  // A line that wraps could not be rewritten.
  const std::string shown = text.substr(0, size_t(terminal_columns()) - 1);
  // Shorter lines are padded over the longer one before; nothing flickers.
  write_message(fmt::format("\r{:<{}}", shown, live_size_));
  live_size_ = shown.size();
}

void Display::share(const std::string& what, double share) {
  if (share <= 0) {
    since_start_ = {};
    next_share_s_ = terminal_ ? 2 : 30;
    return;
  }
  const double elapsed_s = since_start_.seconds();
  if (elapsed_s < next_share_s_) return;
  const double to_go_s = elapsed_s * (1 - share) / share;
  const std::string text =
      fmt::format("{} {:.0f} %, {} to go", what, 100 * share, duration_text(to_go_s));
  if (terminal_)
    live(text);
  else
    line(text);
  next_share_s_ = elapsed_s + (terminal_ ? 0.2 : 30);
}

std::function<void(double)> count_up(Display& display, const char* what, double all) {
  display.share(what, 0);
  return [&display, what, all, done = 0.0](double more) mutable {
    done += more;
    display.share(what, done / all);
  };
}

void Display::clear() {
  if (live_size_ == 0) return;
  write_message(fmt::format("\r{:<{}}\r", "", live_size_));
  live_size_ = 0;
}

}  // namespace gigagpt::cli
