// Runs whose terminal, pipe or parent goes, and that get signals of all kinds.
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>

#include <csignal>
#include <random>
#include <thread>

#include "cli/surroundings_testing.h"

namespace gigagpt {
namespace {

// What people start runs in, each ended as it ends in life.
struct Frame {
  const char* name;
  const char* program;  // that it needs, or ""
  std::string start;    // {0}: the command, {1}: a name for this run, {2}: a random number
  std::string end;      // {0}: the process that was started, {1}: the name
  int status;           // that the run then exits with; 0: not known, as it is not our child
};

const Frame kFrames[] = {
    {"terminal", "", "", "", 128 + SIGHUP},  // see Terminal
    {"pipe", "", "exec {0} > >(head -c {2} >/dev/null) 2>&1", "kill -INT {0}", 128 + SIGINT},
    {"nohup", "nohup", "exec nohup {0}", "kill -HUP {0}; kill -HUP {0}; kill -TERM {0}",
     128 + SIGTERM},
    {"script", "script", "exec script -qec \"exec {0}\" /dev/null", "kill -KILL {0}", 0},
    {"tmux", "tmux", "exec tmux -L {1} new-session -d \"exec {0}\"", "tmux -L {1} kill-server", 0},
};

// A run in a terminal of its own, which a thread reads as the user's program does; a full one would
// halt the run.
class Terminal {
 public:
  explicit Terminal(const std::string& command) {
    child_ = ::forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (child_ == 0) {
      ::execl("/bin/bash", "bash", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    reader_ = std::jthread([this](const std::stop_token& stop) {
      char text[4096];
      pollfd readable{terminal_, POLLIN, 0};
      while (!stop.stop_requested())
        if (::poll(&readable, 1, 1) > 0 && ::read(terminal_, text, sizeof text) <= 0) return;
    });
  }
  int close() {  // the run's wait status
    reader_.request_stop();
    reader_.join();
    ::close(terminal_);
    int status = 0;
    EXPECT_EQ(::waitpid(child_, &status, 0), child_);
    return status;
  }

 private:
  int terminal_ = -1;
  pid_t child_ = -1;
  std::jthread reader_;
};

bool is_running(const std::string& out) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string command((std::istreambuf_iterator<char>(file)), {});
    if (command.find(out + '\0') != std::string::npos) return true;
  }
  return false;
}

// At random moments from the start of the program on, in the last round from the first step on.
// GIGAGPT_TEST_ROUNDS=20 tries more of them.
TEST_F(Surroundings, AnEndFromOutsideLosesNoStep) {
  const char* rounds_wanted = std::getenv("GIGAGPT_TEST_ROUNDS");
  const int rounds = rounds_wanted ? std::atoi(rounds_wanted) : 3;
  std::mt19937_64 random(20);
  for (const Frame& frame : kFrames) {
    if (*frame.program && shell(fmt::format("command -v {}", frame.program)).status != 0) continue;
    int with_steps = 0;
    for (int round = 0; round < rounds; ++round) {
      const std::string out = fmt::format("{}{}", frame.name, round);
      const std::string name = fmt::format("gigagpt-test-{}-{}", ::getpid(), round);
      const auto command = [&](const std::string& form, const auto& first) {
        return fmt::format(fmt::runtime(form), first, name, 200 + random() % 3000);
      };
      const std::string run = train(out, 1'000'000);
      const auto wait = [&] {
        if (round + 1 == rounds) comes_true([&] { return steps_in(out) > 0; });
        std::this_thread::sleep_for(std::chrono::milliseconds(random() % 2000));
      };
      int status = 0;
      if (frame.start.empty()) {
        Terminal terminal("exec " + run);
        wait();
        status = terminal.close();
      } else {
        Background program({"/bin/bash", "-c", command(frame.start, run)}, path("log"));
        wait();
        shell(command(frame.end, program.process()));
        status = program.wait();
      }
      EXPECT_TRUE(comes_true([&] { return !is_running(path(out)); })) << out;
      if (frame.status != 0 && steps_in(out) > 0) {
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == frame.status) << out << status;
      }
      if (steps_in(out) > 0) expect_saved(out), ++with_steps;
    }
    EXPECT_GT(with_steps, 0) << frame.name << ": no run came to its first step";
  }
}

TEST_F(Surroundings, CtrlCSavesWhenTheReaderOfThePipeEndsFirst) {
  const std::string command = "exec " + train("tee", 1'000'000) + " 2> >(head -c 300 >/dev/null)";
  Background run({"/bin/bash", "-c", command}, path("log"));
  run.wait_for_lines(path("tee") + "/metrics.jsonl", 20);
  run.signal(SIGINT);
  const int status = run.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT) << status;
  expect_saved("tee");
}

TEST_F(Surroundings, SignalsThatWereIgnoredStayIgnored) {
  Background run({"/usr/bin/nohup", "/bin/bash", "-c", "exec " + train("nohup", 400)}, path("log"));
  run.wait_for_lines(path("nohup") + "/metrics.jsonl", 3);
  for (int i = 0; i < 3; ++i) run.signal(SIGHUP);
  EXPECT_EQ(run.wait(), 0);
  EXPECT_EQ(saved("nohup"), std::vector<int64_t>{400});
}

TEST_F(Surroundings, RepeatedHangUpsAndAnotherSignalStillSave) {
  Background run({"/bin/bash", "-c", "exec " + train("hup", 1'000'000)}, path("log"));
  run.wait_for_lines(path("hup") + "/metrics.jsonl", 3);
  run.signal(SIGHUP);
  run.signal(SIGHUP);
  run.signal(SIGTERM);
  const int status = run.wait();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  // Two threads may take signals that come at once, and either may be the first.
  const int first = WEXITSTATUS(status) - 128;
  EXPECT_TRUE(first == SIGHUP || first == SIGTERM) << status;
  expect_saved("hup");
}

}  // namespace
}  // namespace gigagpt
