// For tests only: the programs as a user runs them, and the processes that come of it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"

extern char** environ;

namespace gigagpt {

// The programs get signals as from a terminal, though the tests may run under nohup or in the
// background of a script, where some are ignored.
inline const bool kSignalsAreHeard = [] {
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT}) ::signal(signal, SIG_DFL);
  return true;
}();

inline const std::string kProgram = std::string(GIGAGPT_BINARY_DIR) + "/gigagpt";
inline const std::string kSource = GIGAGPT_SOURCE_DIR;

struct Outcome {
  int status;
  std::string text;  // standard output and error
};

inline Outcome shell(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  Outcome outcome{-1, ""};
  char block[4096];
  while (const size_t got = std::fread(block, 1, sizeof(block), pipe))
    outcome.text.append(block, got);
  outcome.status = WEXITSTATUS(::pclose(pipe));
  return outcome;
}

// Whether it becomes true within five minutes, which is for what hangs.
template <class Condition>
bool comes_true(Condition condition) {
  using std::chrono::steady_clock;
  const auto end = steady_clock::now() + std::chrono::minutes(5);
  while (!condition()) {
    if (steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// A run in the background that can be sent signals.
class Background {
 public:
  Background(std::vector<std::string> arguments, const Path& log) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    posix_spawn_file_actions_adddup2(&actions, 2, 1);
    EXPECT_EQ(::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Background() {
    if (ended()) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &status_, 0);
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  pid_t process() const { return pid_; }
  bool ended() {
    ended_ = ended_ || ::waitpid(pid_, &status_, WNOHANG) != 0;
    return ended_;
  }
  // Until `file` holds at least `lines` lines, or the run has ended.
  void wait_for_lines(const Path& file, int lines) {
    EXPECT_TRUE(comes_true([&] { return count_lines(file) >= lines || ended(); })) << file;
  }
  void signal(int signal) {
    if (!ended()) ::kill(pid_, signal);
  }
  // Returns the wait status.
  int wait() {
    EXPECT_TRUE(comes_true([&] { return ended(); })) << "it hangs";
    return status_;
  }
  // Sends the signal once `file` holds at least `lines` lines; returns the wait status.
  int signal_at(int number, const Path& file, int lines) {
    wait_for_lines(file, lines);
    signal(number);
    return wait();
  }

 private:
  static int count_lines(const Path& path) {
    std::ifstream file(path);
    int lines = 0;
    for (std::string line; std::getline(file, line);) ++lines;
    return lines;
  }
  pid_t pid_ = -1;
  int status_ = 0;
  bool ended_ = false;
};

}  // namespace gigagpt
