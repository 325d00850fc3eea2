// Ctrl-C, SIGTERM and a closed terminal (SIGHUP) as a request.
#pragma once

namespace gigagpt::cli {

// From now on the first of these signals only makes stop_requested() true; a second one ends the
// program at once, which loses the work since the last checkpoint but harms nothing.
void catch_stop_signals();
bool stop_requested();

}  // namespace gigagpt::cli
