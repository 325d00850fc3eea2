// Systems: who starts them, where, and what is said when that cannot be.
#include "cli/launch.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <array>
#include <csignal>
#include <map>

#include "base/testing.h"
#include "cli/signals.h"

namespace gigagpt::cli {
namespace {

using Variables = std::map<std::string, std::string>;

// "RANK/SIZE STARTER", or "none".
std::string rank_in(const Variables& variables) {
  const auto rank = find_rank([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
  return rank ? fmt::format("{}/{} {}", rank->rank, rank->size, rank->starter) : "none";
}

TEST(FindRank, KnowsWhoStartedThisProcess) {
  EXPECT_EQ(rank_in({}), "none");
  const Variables mpirun = {
      {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"PMIX_RANK", "1"}};
  EXPECT_EQ(rank_in(mpirun), "1/4 mpirun");
  const Variables srun = {{"SLURM_PROCID", "2"},
                          {"SLURM_NTASKS", "8"},
                          {"SLURM_STEP_NUM_TASKS", "3"},
                          {"SLURM_STEP_ID", "0"},
                          {"PMIX_RANK", "2"}};
  EXPECT_EQ(rank_in(srun), "2/3 srun");
  Variables both = mpirun;  // mpirun starts its daemons by srun
  both.insert(srun.begin(), srun.end());
  EXPECT_EQ(rank_in(both), "1/4 mpirun");
  EXPECT_EQ(rank_in({{"PMIX_RANK", "3"}}), "3/0 a PMIx launcher");
}

TEST(FindRank, ABatchScriptOrAShellOfSlurmIsNoSystem) {
  EXPECT_EQ(rank_in({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "7"}}), "none");
  EXPECT_EQ(rank_in({{"SLURM_PROCID", "0"},
                     {"SLURM_STEP_NUM_TASKS", "1"},
                     {"SLURM_STEP_ID", "0"},
                     {"PMIX_RANK", "0"}}),
            "none");
}

TEST(FindRank, IgnoresWhatIsNoNumber) {
  EXPECT_EQ(rank_in({{"OMPI_COMM_WORLD_RANK", "x"}, {"OMPI_COMM_WORLD_SIZE", "4"}}), "none");
  EXPECT_EQ(rank_in({{"OMPI_COMM_WORLD_RANK", ""}, {"OMPI_COMM_WORLD_SIZE", ""}}), "none");
}

TEST(CheckSize, WantsAsManyProcessesAsSystems) {
  EXPECT_NO_THROW(check_size({0, 2, "mpirun"}, 2));
  EXPECT_NO_THROW(check_size({0, 1, "mpirun"}, 1));
  EXPECT_NO_THROW(check_size({0, 0, "a PMIx launcher"}, 2)) << "not known";
  EXPECT_ERROR(check_size({0, 4, "mpirun"}, 2),
               "num_systems: the config says 2, but mpirun started 4 processes; they must be as "
               "many: --num_systems 4, or mpirun -n 2, or run gigagpt without mpirun");
  EXPECT_ERROR(check_size({0, 1, "srun"}, 2), "but srun started 1 process; ");
  EXPECT_ERROR(check_size({0, 2, "mpirun"}, 1), "the config says 1");
}

// "name*systems" of each.
std::string hosts_in(const std::string& hosts, int64_t num_systems = 1) {
  std::string text;
  for (const Host& host : parse_hosts(hosts, num_systems)) {
    text += fmt::format("{}*{} ", host.name, host.systems);
  }
  return text;
}

TEST(Hosts, AreAList) {
  EXPECT_EQ(hosts_in("a"), "a*1 ");
  EXPECT_EQ(hosts_in("a,b:2"), "a*1 b*2 ");
  EXPECT_EQ(hosts_in("node-1.cluster_x,10.0.0.2:16", 17), "node-1.cluster_x*1 10.0.0.2*16 ");
}

TEST(Hosts, MistakesInAListAreRefused) {
  for (const char* bad : {"", ",a", "a,", "a,,b", ":2", "a b", "-x", "a;b", "user@a", "a, b"}) {
    EXPECT_ERROR(parse_hosts(bad, 1), "is not a valid host; use a list like a,b:2") << bad;
  }
  for (const char* bad : {"a:", "a:0", "a:-1", "a:x", "a:2x", "a:1:2", "a:99999999999999999999"}) {
    EXPECT_ERROR(parse_hosts(bad, 1), "does not say how many systems run there; two would be a:2")
        << bad;
  }
  EXPECT_ERROR(parse_hosts("/no/such", 1), "hosts: there is no file /no/such");
}

TEST(Hosts, MustHaveRoomForAllSystems) {
  EXPECT_EQ(hosts_in("a,b:2", 3), "a*1 b*2 ");
  EXPECT_ERROR(parse_hosts("a,b:2", 4),
               "hosts: a,b:2 has room for 3 systems, but num_systems is 4; name more hosts, or "
               "several systems on one, as in a:2");
  EXPECT_ERROR(parse_hosts("a", 2), "room for 1 system, but");
}

TEST(Hosts, AreInAFile) {
  const TemporaryDirectory folder;
  const Path file = folder.path() / "hosts";
  const auto write = [&](const std::string& text) { File::create(file).write(text); };
  write("# ours\n\na\n  b:2  # the large one\nc slots=3 max_slots=4\nd slots=1");
  EXPECT_EQ(hosts_in(file.string(), 7), "a*1 b*2 c*3 d*1 ");
  EXPECT_ERROR(parse_hosts(file.string(), 8), "has room for 7 systems");
  write("a\n\nb sluts=2\n");
  EXPECT_ERROR(parse_hosts(file.string(), 1), "hosts:3: 'sluts=2' is not understood");
  write("a slots=\n");
  EXPECT_ERROR(parse_hosts(file.string(), 1), "hosts:1: 'a:' does not say how many");
  write("a,b\n");
  EXPECT_ERROR(parse_hosts(file.string(), 1), "hosts:1: 'a,b' is not a valid host");
  write("# none\n\n");
  EXPECT_ERROR(parse_hosts(file.string(), 1), "names no host");
}

std::string command(int64_t num_systems, const std::vector<Host>& hosts,
                    const std::vector<std::string>& variables, bool root) {
  return fmt::format("{}", fmt::join(mpirun_arguments(num_systems, hosts, variables, root), " "));
}

TEST(Mpirun, HasAllThatItNeeds) {
  EXPECT_EQ(command(2, {}, {}, false), "mpirun --bind-to none --map-by slot --oversubscribe -n 2");
  EXPECT_EQ(command(4, {}, {"GIGAGPT_LAUNCHED", "OMP_X"}, true),
            "mpirun --bind-to none --map-by slot --allow-run-as-root --oversubscribe "
            "-x GIGAGPT_LAUNCHED -x OMP_X -n 4");
  EXPECT_EQ(command(3, {{"a", 1}, {"b", 2}}, {}, false),
            "mpirun --bind-to none --map-by slot --host a:1,b:2 -n 3");
}

TEST(Mpirun, ForwardsWhatSystemsNeed) {
  const std::array<const char*, 8> environment = {
      "PATH=/bin",  "OMP_NUM_THREADS=1", "LD_LIBRARY_PATH=/x", "GIGAGPT_MAX_CPU=avx2",
      "HOME=/root", "XGIGAGPT_=",        "SSH_AUTH_SOCK=y",    nullptr};
  EXPECT_EQ(forwarded_variables(environment.data()),
            (std::vector<std::string>{"GIGAGPT_MAX_CPU", "LD_LIBRARY_PATH", "OMP_NUM_THREADS"}));
}

TEST(Mpirun, IsExplainedWhenNoSystemCouldSpeak) {
  const std::vector<Host> hosts = {{"a", 1}, {"b", 2}};
  for (const int status : {127, 132, 255}) {
    EXPECT_NE(mpirun_text(status, hosts, true).find("could not start a system on each of a:1,b:2"),
              std::string::npos)
        << status;
  }
  EXPECT_EQ(mpirun_text(205, hosts, true),
            "mpirun has lost a system (its status is 205); all systems end. The same command with "
            "--checkpoint_path latest goes on");
  EXPECT_EQ(mpirun_text(205, {}, false),
            "mpirun has lost a system (its status is 205); all systems end");
  for (const int status : {0, 1, 128 + SIGUSR1, 128 + SIGKILL, 128 + SIGSEGV}) {
    EXPECT_EQ(mpirun_text(status, hosts, true), "") << status;
  }
  EXPECT_EQ(mpirun_text(128 + SIGILL, {}, true), "");
}

TEST(Supervise, TellsHowASystemDied) {
  EXPECT_EQ(
      death_text("system 1 of 2 on host b", SIGKILL, true),
      "system 1 of 2 on host b was killed by signal 9 (Killed); all systems end. The same command "
      "with --checkpoint_path latest goes on");
  EXPECT_EQ(
      death_text("system 1 of 2 on host b", SIGSEGV, false),
      "system 1 of 2 on host b was killed by signal 11 (Segmentation fault); all systems end");
}

// Exits as the supervisor of a process that does `work`.
[[noreturn]] void supervise_and_exit(const std::function<void()>& work) {
  std::exit(supervise({1, 2, "mpirun"}, 2, /*training=*/false, work));
}

TEST(SuperviseDeathTest, PassesOnHowTheProcessEnded) {
  EXPECT_EXIT(supervise_and_exit([] { ::_exit(0); }), testing::ExitedWithCode(0), "^$");
  EXPECT_EXIT(supervise_and_exit([] { ::_exit(3); }), testing::ExitedWithCode(3), "^$");
  EXPECT_EXIT(
      supervise_and_exit([] { ::raise(SIGKILL); }), testing::ExitedWithCode(137),
      "gigagpt: system 1 of 2 on host .* was killed by signal 9 .Killed.; all systems end\n");
}

TEST(SuperviseDeathTest, IsSilentWhenAllSystemsAreToEnd) {
  const auto end_all = [] {
    ::kill(::getppid(), SIGTERM);
    ::raise(SIGTERM);
  };
  EXPECT_EXIT(supervise_and_exit(end_all), testing::ExitedWithCode(143), "^$");
  const auto child_first = [] {
    const pid_t parent = ::getppid();
    if (::fork() == 0) {
      ::usleep(20'000);
      ::kill(parent, SIGTERM);
      ::_exit(0);
    }
    ::raise(SIGTERM);
  };
  EXPECT_EXIT(supervise_and_exit(child_first), testing::ExitedWithCode(143), "^$");
  EXPECT_EXIT(supervise_and_exit([] { ::raise(SIGTERM); }), testing::ExitedWithCode(143),
              "was killed by signal 15");
  // A request to stop that came before the program could take it.
  EXPECT_EXIT(supervise_and_exit([] {
                std::signal(SIGUSR1, SIG_DFL);
                ::raise(SIGUSR1);
              }),
              testing::ExitedWithCode(138), "^$");
}

TEST(SuperviseDeathTest, OutlivesSignalsForTheOther) {
  const auto request = [] {
    for (const int signal : {SIGUSR1, SIGINT, SIGHUP, SIGTERM}) ::kill(::getppid(), signal);
    ::usleep(50'000);
    ::_exit(0);
  };
  EXPECT_EXIT(supervise_and_exit(request), testing::ExitedWithCode(0), "^$");
}

[[noreturn]] void take_signal(bool launched, int signal) {
  launched ? ::setenv(kLaunchedVariable, "1", 1) : ::unsetenv(kLaunchedVariable);
  catch_stop_signals();
  ::raise(signal);
  std::exit(stop_requested() ? 7 : 8);
}

TEST(SignalsDeathTest, OneOfSeveralSystemsStopsBySigusr1) {
  EXPECT_EXIT(take_signal(true, SIGUSR1), testing::ExitedWithCode(7), "");
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    EXPECT_EXIT(take_signal(true, signal), testing::KilledBySignal(signal), "") << signal;
  }
}

TEST(SignalsDeathTest, AloneEverySignalIsARequest) {
  for (const int signal : kRequests) {
    EXPECT_EXIT(take_signal(false, signal), testing::ExitedWithCode(7), "") << signal;
  }
}

}  // namespace
}  // namespace gigagpt::cli
