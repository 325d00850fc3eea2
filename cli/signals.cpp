#include "cli/signals.h"

#include <csignal>
#include <cstdlib>

#include "cli/launch.h"

namespace gigagpt::cli {
namespace {

volatile std::sig_atomic_t requested = 0;
constexpr int kSignals[] = {SIGUSR1, SIGINT, SIGTERM, SIGHUP};

void on_signal(int) {
  requested = 1;
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  const bool launched = std::getenv(kLaunchedVariable) != nullptr;
  for (const int signal : kSignals) {
    if (signal == SIGUSR1 || !launched) sigaction(signal, &action, nullptr);
  }
}

bool stop_requested() {
  return requested != 0;
}

}  // namespace gigagpt::cli
