// Ctrl-C, SIGTERM, a closed terminal (SIGHUP) and SIGUSR1 as a request.
#pragma once

namespace gigagpt::cli {

// From now on the first of these signals only makes stop_requested() true; a second one ends the
// program at once, which loses the work since the last checkpoint but harms nothing. Of one of
// several systems (GIGAGPT_LAUNCHED is set) only SIGUSR1 is a request: mpirun ends systems by
// SIGTERM.
void catch_stop_signals();
bool stop_requested();

}  // namespace gigagpt::cli
