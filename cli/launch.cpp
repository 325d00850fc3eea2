#include "cli/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/system.h"
#include "cli/display.h"
#include "cli/output.h"
#include "cli/signals.h"

namespace gigagpt::cli {
namespace {

constexpr unsigned kEndedByNow_s = 10;  // mpirun takes one or two
constexpr double kRepeated_s = 0.5;     // within that a signal is the same request once more
constexpr unsigned kAborted_s = 5;      // with a host that does not answer mpirun would wait
constexpr int kCutOff = SIGIO;          // ends an mpirun that is cut off, which passes others on

constexpr const char* kGoesOn = ". The same command with --checkpoint_path latest goes on";

std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string name_of(const Rank& rank, int64_t num_systems) {
  return fmt::format("system {} of {} on host {}", rank.rank, num_systems, host_name());
}

// What clears the live line of a terminal.
const char* line_start() {
  return terminal_columns() > 0 ? "\r\x1b[K" : "";
}

Host parse_host(const std::string& text, const std::string& where) {
  const size_t colon = text.find(':');
  Host host{text.substr(0, colon)};
  const bool named = std::all_of(host.name.begin(), host.name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
  });
  if (!named || host.name.empty() || host.name.front() == '-') {
    fail("{}: '{}' is not a valid host; use a list like a,b:2 or a file with one host per line",
         where, text);
  }
  if (colon == std::string::npos) return host;
  host.systems = number(std::string_view(text).substr(colon + 1)).value_or(0);
  if (host.systems < 1) {
    fail("{}: '{}' does not say how many systems run there; two would be {}:2", where, text,
         host.name);
  }
  return host;
}

std::vector<Host> read_hosts(const Path& file) {
  std::vector<Host> hosts;
  std::istringstream lines(read_text(file));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = fmt::format("hosts: {}:{}", file.string(), ++number);
    std::istringstream words(line.substr(0, line.find('#')));
    std::string entry, word;
    if (!(words >> entry)) continue;
    while (words >> word) {
      if (word.starts_with("max_slots=") || word.starts_with("max-slots=")) continue;
      if (!word.starts_with("slots=")) {
        fail("{}: '{}' is not understood; a line is a host and how many systems: b slots=2", where,
             word);
      }
      entry += ":" + word.substr(6);
    }
    hosts.push_back(parse_host(entry, where));
  }
  return hosts;
}

// As --host takes them.
std::string host_list(const std::vector<Host>& hosts) {
  std::vector<std::string> entries;
  entries.reserve(hosts.size());
  for (const Host& host : hosts) entries.push_back(fmt::format("{}:{}", host.name, host.systems));
  return fmt::format("{}", fmt::join(entries, ","));
}

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  return set;
}

// Runs `become`, which executes another program or throws, in a process that `end_signal` ends when
// this one ends. `caught` no longer interrupts this one: it is for wait_for().
pid_t start_process(const sigset_t& caught, int end_signal, const std::function<void()>& become) {
  const pid_t parent = ::getpid();
  sigset_t before;
  ::sigprocmask(SIG_BLOCK, &caught, &before);
  std::signal(SIGCHLD, SIG_DFL);  // where it is ignored there is nothing to wait for
  const pid_t child = ::fork();
  if (child < 0) fail_errno("cannot start another process");
  if (child > 0) return child;
  ::prctl(PR_SET_PDEATHSIG, end_signal);
  if (::getppid() != parent) ::_exit(1);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  become();
  std::abort();  // it does not return
}

// The wait status of the process when it has ended. `caught`, which has SIGCHLD, is what
// start_process() was given; what comes of the others goes to on_signal.
int wait_for(pid_t child, const sigset_t& caught, const std::function<void(int)>& on_signal) {
  for (int status = 0, signal = 0; true;) {
    if (::sigwait(&caught, &signal) != 0) continue;
    if (signal != SIGCHLD) {
      on_signal(signal);
    } else if (::waitpid(child, &status, WNOHANG) == child) {
      return status;
    }
  }
}

void become_mpirun(std::vector<std::string> arguments) {
  ::setsid();                     // Ctrl-C is for the process that waits
  std::signal(SIGUSR1, SIG_IGN);  // until it passes them on
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing >= 0) ::dup2(nothing, STDIN_FILENO);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  if (errno == ENOENT) {
    fail(
        "num_systems: mpirun, which starts the systems, is not installed; apt install openmpi-bin");
  }
  fail_errno("cannot start mpirun");
}

// Ends mpirun or its daemon, if it does not end by itself once a system of it has failed: cut off
// from the others, it has things to tell them that TCP repeats for a quarter of an hour. A process
// of its own sees to that, as the system's has to end, and holds nothing that is waited for.
void end_soon(pid_t daemon) {
  const int handle = int(::syscall(SYS_pidfd_open, daemon, 0));
  if (handle < 0 || ::fork() != 0) return;
  ::setsid();
  ::dup2(handle, STDIN_FILENO);
  ::closefrom(STDIN_FILENO + 1);
  pollfd ended{STDIN_FILENO, POLLIN, 0};
  for (const int signal : {kCutOff, SIGKILL}) {
    if (::poll(&ended, 1, 1000 * int(kEndedByNow_s)) > 0) break;
    ::syscall(SYS_pidfd_send_signal, STDIN_FILENO, signal, nullptr, 0);
  }
  ::_exit(0);
}

}  // namespace

void say(const std::string& text) {
  print_message("{}gigagpt: {}", line_start(), text);
}

std::optional<Rank> find_rank(const Environment& environment) {
  const auto value = [&](const char* name) {
    const char* text = environment(name);
    return text ? number(text) : std::nullopt;
  };
  const auto rank = value("OMPI_COMM_WORLD_RANK"), size = value("OMPI_COMM_WORLD_SIZE");
  if (rank && size) return Rank{*rank, *size, "mpirun"};
  // A batch script has no step.
  const auto task = value("SLURM_PROCID"), tasks = value("SLURM_STEP_NUM_TASKS");
  if (value("SLURM_STEP_ID") && task && tasks) {
    return *tasks > 1 ? std::optional(Rank{*task, *tasks, "srun"}) : std::nullopt;
  }
  if (const auto other = value("PMIX_RANK")) return Rank{*other, 0, "a PMIx launcher"};
  return std::nullopt;
}

void check_size(const Rank& rank, int64_t num_systems) {
  if (rank.size == 0 || rank.size == num_systems) return;
  fail(
      "num_systems: the config says {0}, but {1} started {2} process{3}; they must be as many: "
      "--num_systems {2}, or {1} -n {0}, or run gigagpt without {1}; it starts the systems itself",
      num_systems, rank.starter, rank.size, rank.size == 1 ? "" : "es");
}

std::vector<Host> parse_hosts(const std::string& hosts, int64_t num_systems) {
  std::vector<Host> found;
  std::error_code ignored;
  if (std::filesystem::is_regular_file(hosts, ignored)) {
    found = read_hosts(hosts);
    if (found.empty()) fail("hosts: {} names no host; it needs one a line", hosts);
  } else if (hosts.find('/') != std::string::npos) {
    fail("hosts: there is no file {}; give one with a host a line, or a list: a,b:2", hosts);
  } else {
    for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
      end = hosts.find(',', begin);
      found.push_back(parse_host(hosts.substr(begin, end - begin), "hosts"));
    }
  }
  const int64_t room =
      std::accumulate(found.begin(), found.end(), int64_t{0},
                      [](int64_t n, const Host& host) { return n + host.systems; });
  if (room < num_systems) {
    fail(
        "hosts: {} has room for {} system{}, but num_systems is {}; name more hosts, or several "
        "systems on one, as in {}:2",
        hosts, room, room == 1 ? "" : "s", num_systems, found.front().name);
  }
  return found;
}

std::vector<std::string> forwarded_variables(const char* const* environment) {
  constexpr std::array kPrefixes = {"GIGAGPT_", "OMP_", "ONEDNN_", "DNNL_"};
  constexpr std::array kNames = {"GLIBC_TUNABLES", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"};
  std::vector<std::string> names;
  for (; *environment; ++environment) {
    const std::string entry = *environment;
    const std::string name = entry.substr(0, entry.find('='));
    if (std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
        std::any_of(kPrefixes.begin(), kPrefixes.end(),
                    [&](const char* prefix) { return name.starts_with(prefix); })) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> mpirun_arguments(int64_t num_systems, const std::vector<Host>& hosts,
                                          const std::vector<std::string>& variables, bool root) {
  // Threads may use all cores.
  std::vector<std::string> arguments = {"mpirun", "--bind-to", "none", "--map-by", "slot"};
  if (root) arguments.emplace_back("--allow-run-as-root");
  if (hosts.empty())
    arguments.emplace_back("--oversubscribe");
  else
    arguments.insert(arguments.end(), {"--host", host_list(hosts)});
  for (const std::string& name : variables) arguments.insert(arguments.end(), {"-x", name});
  arguments.insert(arguments.end(), {"-n", std::to_string(num_systems)});
  return arguments;
}

std::string mpirun_text(int status, const std::vector<Host>& hosts, bool training) {
  // An agent without Open MPI there, no program there, no host there.
  if (!hosts.empty() && (status == 127 || status == 132 || status == 255)) {
    return fmt::format(
        "hosts: mpirun could not start a system on each of {}; `ssh HOST mpirun --version` must "
        "work for each without a password, and gigagpt must be in the same place on each",
        host_list(hosts));
  }
  if (status <= 128 + SIGRTMAX) return "";
  return fmt::format("mpirun has lost a system (its status is {}); all systems end{}", status,
                     training ? kGoesOn : "");
}

namespace {

// Parameters of Open MPI, for version 4 and for the launcher of version 5, unless the user has set
// them.
void set_mpi_parameter(const std::string& name, const std::string& value) {
  for (const char* prefix : {"OMPI_MCA_", "PRTE_MCA_"})
    ::setenv((prefix + name).c_str(), value.c_str(), 0);
}

void set_mpi_parameters(bool one_machine, double timeout_s) {
  if (one_machine) {
    // Shared memory alone, so that nobody else can connect.
    set_mpi_parameter("pml", "ob1");
    set_mpi_parameter("btl", "self,vader");
    // Version 5 starts nothing with this interface alone.
    if (std::getenv("OMPI_MCA_oob_tcp_if_exclude") == nullptr)
      ::setenv("OMPI_MCA_oob_tcp_if_include", "lo", 0);
  }
  // What goes wrong is said by us, in one line. Version 5 knows no --quiet, and is not, quite.
  ::setenv("OMPI_MCA_orte_execute_quiet", "1", 0);
  ::setenv("PRTE_MCA_prte_execute_quiet", "1", 0);
  // A host that does not answer an mpirun with nothing to send is given up within the timeout:
  // asked after half of it, and then ten times. For the others see end_soon().
  const auto whole = [](double seconds) {
    return std::to_string(std::max(1LL, std::llround(seconds)));
  };
  set_mpi_parameter("oob_tcp_keepalive_time", whole(timeout_s / 2));
  set_mpi_parameter("oob_tcp_keepalive_intvl", whole(timeout_s / 20));
  set_mpi_parameter("oob_tcp_keepalive_probes", "10");
}

}  // namespace

int launch(const GPTConfig& config, bool training, char** argv) {
  std::vector<Host> hosts;
  if (config.systems.hosts) hosts = parse_hosts(*config.systems.hosts, config.num_systems);
  ::setenv(kLaunchedVariable, "1", 1);
  set_mpi_parameters(hosts.empty(), 60 * config.systems.system_timeout_minutes);
  if (const int columns = terminal_columns(); columns > 0)
    ::setenv(kColumnsVariable, std::to_string(columns).c_str(), 1);
  std::vector<std::string> arguments =
      mpirun_arguments(config.num_systems, hosts, forwarded_variables(environ), ::geteuid() == 0);
  arguments.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  while (*++argv) arguments.emplace_back(*argv);

  sigset_t caught = set_of({SIGTSTP, SIGALRM, SIGCHLD});
  for (const int signal : kRequests) sigaddset(&caught, signal);
  const pid_t mpirun = start_process(caught, SIGTERM, [&] { become_mpirun(std::move(arguments)); });
  int request = 0;  // the first signal that asked
  bool ending = false;
  Stopwatch since_request;
  const int status = wait_for(mpirun, caught, [&](int signal) {
    if (signal == SIGTSTP) {  // Ctrl-Z; `fg` goes on
      ::kill(mpirun, SIGTSTP);
      ::raise(SIGSTOP);
      ::kill(mpirun, SIGCONT);
    } else if (signal == SIGALRM && ending) {
      ::kill(mpirun, SIGKILL);
    } else if (signal == SIGALRM || request == 0) {
      if (request == 0) request = signal, since_request = {};
      ::kill(mpirun, SIGUSR1);
      ::alarm(1);  // again: mpirun passes nothing on before it has started all systems
    } else if ((signal == SIGINT || signal == SIGTERM) && since_request.seconds() > kRepeated_s) {
      ending = true;
      ::kill(mpirun, SIGTERM);
      ::alarm(kAborted_s);
    }
  });
  write_message(line_start());  // what a system that was ended has left
  const bool killed = WIFSIGNALED(status);
  if (killed && WTERMSIG(status) == kCutOff) return 1;  // a system has said why
  const std::string text = killed ? death_text("mpirun", WTERMSIG(status), training)
                                  : mpirun_text(WEXITSTATUS(status), hosts, training);
  // Of a run that is stopped nothing more is said, but if it was not left to save itself. Open MPI
  // 5 passes the request on only some time after its start, before which the request is its end:
  // then no system has begun.
  const bool unbegun = killed && WTERMSIG(status) == SIGUSR1;
  if (!text.empty() && (request == 0 || (killed && !ending && !unbegun))) say(text);
  if (request != 0 && status != 0) return 128 + request;
  return killed ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int supervise(const Rank& rank, int64_t num_systems, bool training,
              const std::function<void()>& compute) {
  const pid_t daemon = ::getppid();
  const bool launched = std::getenv(kLaunchedVariable) != nullptr;  // not by a script of the user's
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);                               // with mpirun
  std::signal(SIGUSR1, SIG_IGN);  // in what computes, until it is ready for requests
  if (rank.starter == "mpirun") ::setenv(kLaunchedVariable, "1", 1);
  ::setenv("OMPI_MCA_opal_signal", "", 0);  // no page from Open MPI about a death either
  // Reading from each other's memory is forbidden in many containers, noisily, and is no faster
  // here.
  ::setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
  const sigset_t caught = set_of({SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGCHLD});
  const pid_t child = start_process(caught, SIGKILL, compute);
  bool ending = false;
  const int status =
      wait_for(child, caught, [&](int signal) { ending = ending || signal != SIGUSR1; });
  if (launched && status != 0) end_soon(daemon);
  if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
  const int signal = WTERMSIG(status);
  // A signal for all of a job may reach the child first.
  const sigset_t ends = set_of({SIGINT, SIGTERM, SIGHUP});
  const timespec moment{0, 100'000'000};
  if (sigismember(&ends, signal) == 1 && ::sigtimedwait(&ends, nullptr, &moment) > 0) ending = true;
  if (!ending && signal != SIGUSR1) {
    say(death_text(name_of(rank, num_systems), signal, training));
  }
  return 128 + signal;
}

std::string death_text(const std::string& who, int signal, bool training) {
  return fmt::format("{} was killed by signal {} ({}); all systems end{}", who, signal,
                     ::strsignal(signal), training ? kGoesOn : "");
}

void report(const std::optional<Rank>& rank, const std::string& message) {
  const bool waits = rank && rank->rank != 0;
  if (waits) ::sleep(kEndedByNow_s);
  say(waits ? fmt::format("{}: {}", name_of(*rank, rank->size), message) : message);
}

}  // namespace gigagpt::cli
