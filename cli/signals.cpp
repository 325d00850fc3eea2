#include "cli/signals.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <ctime>

#include "cli/launch.h"

namespace gigagpt::cli {
namespace {

constexpr int64_t kRepeated_ms = 500;  // a process group may get one signal twice at once

std::atomic<int> requested = 0;  // the first signal
std::atomic<int64_t> requested_ms = 0;
static_assert(std::atomic<int64_t>::is_always_lock_free);

void on_signal(int signal) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t now_ms = now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
  int none = 0;
  if (requested.compare_exchange_strong(none, signal)) {
    requested_ms = now_ms;
  } else if ((signal == SIGINT || signal == SIGTERM) && now_ms - requested_ms >= kRepeated_ms) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);  // delivered when this handler returns
  }
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigfillset(&action.sa_mask);  // of several that wait the first is handled first
  const bool launched = std::getenv(kLaunchedVariable) != nullptr;
  if (launched) {
    sigaction(SIGUSR1, &action, nullptr);
    return;
  }
  for (const int signal : kRequests) {
    struct sigaction before {};
    sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

bool stop_requested() {
  return requested != 0;
}

int stop_status() {
  return 128 + requested;
}

}  // namespace gigagpt::cli
