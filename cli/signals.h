// Signals that ask a program to end: Ctrl-C (SIGINT), SIGTERM, a closed terminal (SIGHUP), those
// that batch systems send before the time is over, and that of a power supply which fails.
#pragma once

#include <csignal>

namespace gigagpt::cli {

inline constexpr int kRequests[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU, SIGPWR};

// From now on these signals are requests. A second SIGINT or SIGTERM that comes half a second or
// more after the first request ends the program at once, which loses the work since the last
// checkpoint but harms nothing; others only repeat the request. A signal that was ignored when the
// program started, as under nohup, stays ignored. In one of several systems (GIGAGPT_LAUNCHED is
// set) only SIGUSR1 is a request: mpirun ends systems by SIGTERM.
void catch_stop_signals();
bool stop_requested();
// The exit status that tells that the program was stopped: 128 and the number of the first signal.
int stop_status();

}  // namespace gigagpt::cli
