// One command, many processes: `gigagpt` starts mpirun, mpirun starts a `gigagpt` for each system,
// and that one starts and watches the `gigagpt-compute` which does the work.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gpt/config.h"

namespace gigagpt::cli {

// Set for the processes of systems, which mpirun ends by SIGTERM: see cli/signals.h.
inline constexpr const char* kLaunchedVariable = "GIGAGPT_LAUNCHED";

// The value of an environment variable, null if it is not set: std::getenv, but for tests.
using Environment = std::function<const char*(const char* name)>;

// This process as one of those that were started together.
struct Rank {
  int64_t rank = 0;
  int64_t size = 0;     // 0: not known
  std::string starter;  // "mpirun", "srun"
};

// What Open MPI's mpirun, srun or another PMIx launcher tells; nothing if none of them started this
// process. A step of one process of Slurm is none either: people work in such a shell.
std::optional<Rank> find_rank(const Environment& environment);

// Throws Error if another number of processes was started than num_systems.
void check_size(const Rank& rank, int64_t num_systems);

struct Host {
  std::string name;
  int64_t systems = 1;
};

// Reads the config key `hosts`: a list like "a,b:2", or the path of a file that has such an entry a
// line, or `name slots=2` as in Open MPI's hostfiles. Throws Error for anything else, and for hosts
// with room for fewer than num_systems.
std::vector<Host> parse_hosts(const std::string& hosts, int64_t num_systems);

// Which variables of this environment ("NAME=value", a null at the end) systems on other hosts
// need: the names.
std::vector<std::string> forwarded_variables(const char* const* environment);

// The command that starts the systems, up to their program; without hosts all start here.
std::vector<std::string> mpirun_arguments(int64_t num_systems, const std::vector<Host>& hosts,
                                          const std::vector<std::string>& variables, bool root);

// What to say when mpirun ends with this exit status; "" if one of the systems, whose status it is,
// has said it.
std::string mpirun_text(int status, const std::vector<Host>& hosts, bool training);

// Runs this command line on config.num_systems systems and returns the exit status. SIGINT, SIGTERM
// or SIGHUP asks them to stop, a second one ends them at once; SIGTSTP halts them. Nothing on this
// machine outlives this process.
// Throws Error.
int launch(const GPTConfig& config, bool training, char** argv);

// What one of several systems does: runs `compute`, which executes the program that computes, in a
// process of its own and returns its exit status. If a signal ends it unasked, says so.
int supervise(const Rank& rank, int64_t num_systems, bool training,
              const std::function<void()>& compute);

// "system 1 of 2 on host b was killed by signal 9 (Killed); ..."
std::string death_text(const std::string& who, int signal, bool training);

// Prints a line that a person must see, over a live line that another process may have left.
void say(const std::string& text);

// Prints why this process ends. Of several, the first does; the others, which mpirun ends then,
// do if they are still there after ten seconds.
void report(const std::optional<Rank>& rank, const std::string& message);

}  // namespace gigagpt::cli
