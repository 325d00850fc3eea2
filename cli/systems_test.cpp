// Training on several systems as a user runs it: the programs, mpirun, signals and hosts.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <sstream>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/testing.h"
#include "cli/programs_testing.h"

namespace gigagpt {
namespace {

// The micro-batches are alike on all numbers of systems. Rounding is passed on least with an
// epsilon like this: see EqualOneSystem.
constexpr const char* kConfig = R"(
width: 64
depth: 2
heads: 4
max_position_embeddings: 32
sequence_length: 32
init_std: 0.08
batch_size: 8
micro_batch_size: 1
num_steps: 8
learning_rate: 1.0e-3
adam_epsilon: 1.0e-2
warmup_steps: 0
precision: fp32
threads: 1
)";

const std::string kMpirun = "mpirun --allow-run-as-root --oversubscribe --bind-to none ";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// How many lines begin like this, after the time of the day if there is one.
int64_t count(const std::string& text, const std::string& beginning) {
  const auto lines = lines_of(text);
  constexpr size_t kTime = 10;  // "21:40:12  "
  return std::count_if(lines.begin(), lines.end(), [&](const std::string& line) {
    const bool timed = line.size() > kTime && line[2] == ':' && line[5] == ':';
    return line.substr(timed ? kTime : 0).starts_with(beginning);
  });
}

// Whether the programs, of which mpirun may talk besides, have exactly one message, with this part.
testing::AssertionResult one_message(const std::string& text, const std::string& part) {
  for (const std::string& line : lines_of(text)) {
    if (line.starts_with("gigagpt: ") && line.find(part) != std::string::npos &&
        count(text, "gigagpt: ") == 1)
      return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "not one message with '" << part << "':\n" << text;
}

std::vector<nlohmann::json> metrics_of(const std::string& out) {
  std::vector<nlohmann::json> rows;
  for (const std::string& line : lines_of(read_text(out + "/metrics.jsonl")))
    rows.push_back(nlohmann::json::parse(line));
  return rows;
}

// Whether all of these variables, "NAME=value", were set when the process began.
bool was_given(const Path& process, const std::vector<std::string>& variables) {
  std::ifstream file(process / "environ", std::ios::binary);
  std::stringstream text;
  text << '\0' << file.rdbuf();
  return std::all_of(variables.begin(), variables.end(), [&](const std::string& variable) {
    const std::string entry = '\0' + variable + '\0';
    return text.str().find(entry) != std::string::npos;
  });
}

class SystemPrograms : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (folder_) return;  // another suite has been here
    folder_ = std::make_unique<TemporaryDirectory>();
    ::setenv("XDG_CACHE_HOME", folder_->path().c_str(), 1);
    write_data("data", 7);
    write_data("other/data", 8);
    folder_->write("run.yaml", kConfig + std::string("vocab_size: 18\n"));
    // The machine is measured once, so that no run begins by saying so.
    const Outcome plan = shell(kProgram + " plan " + path("run.yaml") + " --out_dir " + path("x"));
    ASSERT_EQ(plan.status, 0) << plan.text;
  }

  // All processes of a test inherit this variable, on all hosts.
  SystemPrograms() : mark_(fmt::format("{}-{}", ::getpid(), ++tests_)) {
    ::setenv("GIGAGPT_TEST", mark_.c_str(), 1);
  }
  void TearDown() override {
    EXPECT_TRUE(comes_true([&] { return processes({}).empty(); })) << "processes are left";
    for (const pid_t process : processes({})) ::kill(process, SIGKILL);
  }

  // Letters of a few words at random.
  static void write_data(const std::string& name, uint64_t seed) {
    const std::vector<std::string> words = lines_of(
        "the\nlord\nsaid\nunto\nmoses\nand\naaron\nin\nland\nof\negypt\nlet\npeople\ngo\nme");
    std::mt19937_64 random(seed);
    std::string text;
    while (text.size() < 100'000) text += words[random() % words.size()] + " ";
    const Path input = folder_->write(name + ".txt", text);
    const Outcome prepared = shell(kProgram + " prepare --input " + input.string() + " --out " +
                                   path(name) + " --tokenizer char");
    ASSERT_EQ(prepared.status, 0) << prepared.text;
    ASSERT_NE(prepared.text.find("set vocab_size: 18"), std::string::npos) << prepared.text;
  }

  static std::string path(const std::string& name) { return (folder_->path() / name).string(); }
  static std::vector<std::string> train(const std::string& out, int systems,
                                        const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {kProgram,    "train",         path("run.yaml"),
                                          "--dataset", path("data"),    "--out_dir",
                                          path(out),   "--num_systems", std::to_string(systems)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static std::string train_command(const std::string& out, int systems,
                                   const std::vector<std::string>& more = {}) {
    return fmt::format("{}", fmt::join(train(out, systems, more), " "));
  }
  // What hangs is ended. Open MPI 5 cannot be asked to say nothing of an exit status, between
  // lines of dashes.
  static Outcome run(const std::string& command) {
    static const bool talks =
        shell("mpirun --version").text.find("(Open MPI) 5") != std::string::npos;
    Outcome outcome = shell("timeout -k 20 300 " + command);
    const std::string line = std::string(74, '-');
    for (size_t begin; talks && (begin = outcome.text.find(line)) != std::string::npos;) {
      const size_t end = outcome.text.find(line, begin + line.size());
      outcome.text.erase(begin, end == std::string::npos ? end : end + line.size() + 3 - begin);
    }
    return outcome;
  }
  static Outcome run_train(const std::string& out, int systems,
                           const std::vector<std::string>& more = {}) {
    return run(train_command(out, systems, more));
  }
  // The name of a whole run on two systems.
  static std::string trained_by_two() {
    if (!std::filesystem::exists(path("two"))) {
      const Outcome trained = run_train("two", 2);
      EXPECT_EQ(trained.status, 0) << trained.text;
    }
    return "two";
  }
  static std::string weights(const std::string& out, int step) {
    return read_text(fmt::format("{}/checkpoint_{}/model.safetensors", path(out), step));
  }

  // Of this test, with these variables.
  std::vector<pid_t> processes(std::vector<std::string> variables) const {
    variables.push_back("GIGAGPT_TEST=" + mark_);
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const pid_t process = std::atoi(entry.path().filename().c_str());
      if (process > 0 && process != ::getpid() && was_given(entry.path(), variables))
        found.push_back(process);
    }
    return found;
  }
  // The one that computes for this system; waits until it is there.
  pid_t computing(int system, Background& run) const {
    pid_t found = 0;
    EXPECT_TRUE(comes_true([&] {
      for (const pid_t process : processes({fmt::format("OMPI_COMM_WORLD_RANK={}", system)})) {
        std::error_code ignored;  // it may end, and its file be built again
        const Path program =
            std::filesystem::read_symlink(fmt::format("/proc/{}/exe", process), ignored).filename();
        if (program.string().starts_with("gigagpt-compute")) found = process;
      }
      return found != 0 || run.ended();
    }));
    EXPECT_NE(found, 0) << "it has ended";
    return found;
  }
  // Sends the signal to the process of system 1 at a step that is not the first.
  int signal_system_1(Background& run, int signal, const std::string& out) const {
    const pid_t process = computing(1, run);  // looked for first, as that takes a while
    run.wait_for_lines(path(out) + "/metrics.jsonl", 20);
    if (process != 0 && !run.ended()) ::kill(process, signal);
    return run.wait();
  }

  static std::unique_ptr<TemporaryDirectory> folder_;
  static int tests_;
  const std::string mark_;
};
std::unique_ptr<TemporaryDirectory> SystemPrograms::folder_;
int SystemPrograms::tests_ = 0;

// How far losses may differ from those of one system: N add the M = 8 micro-batches' gradients in
// another order. Either sum is off, in each element, by at most M eps times the sum of the parts'
// magnitudes, eps = 2^-24; so the mean, as a vector, by M eps R, where R is the mean norm of the
// parts. Clipping divides by the norm where it is above 1, as it is here, and R is below 4 norms:
// 2 * 8 * eps * 4 = 3.8e-6. AdamW passes on at most 2 lr / epsilon = 0.2 of it a step (see
// gpt/systems_test.cpp). After 7 steps the weights are 5.3e-6 apart; twice that is allowed for
// what they change in later gradients. The loss moves by its gradient's norm, below 5, times that.
TEST_F(SystemPrograms, EqualOneSystem) {
  ASSERT_EQ(run_train("one", 1).status, 0);
  const auto expected = metrics_of(path("one"));
  ASSERT_EQ(expected.size(), 8U);
  for (const int systems : {2, 4}) {
    const std::string out = fmt::format("like{}", systems);
    const Outcome trained = run_train(out, systems);
    ASSERT_EQ(trained.status, 0) << trained.text;
    EXPECT_EQ(count(trained.text, "step "), 8) << trained.text;
    for (const char* beginning : {"model ", "step 3/8  loss ", "saved "})
      EXPECT_EQ(count(trained.text, beginning), 1) << beginning << " in\n" << trained.text;
    EXPECT_EQ(count(trained.text, "gigagpt: "), 0) << trained.text;
    const auto rows = metrics_of(path(out));
    ASSERT_EQ(rows.size(), expected.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_NEAR(rows[i]["loss"], expected[i]["loss"], 5.4e-5);
      EXPECT_GT(expected[i]["grad_norm"], 1);
      EXPECT_LT(expected[i]["grad_norm"], 5);
      EXPECT_EQ(rows[i]["tokens"], expected[i]["tokens"]);
      EXPECT_GT(rows[i]["sent_bytes"], 0);
    }
  }
  const Outcome sample = run(kProgram + " sample --checkpoint_path " + path("like4") +
                             " --prompt 'the ' --max_length 20");
  EXPECT_EQ(sample.status, 0) << sample.text;
  EXPECT_TRUE(sample.text.starts_with("the ")) << sample.text;
  const std::string eval = kProgram + " eval --checkpoint_path " + path("like4");
  const Outcome alone = run(eval), together = run(eval + " --num_systems 2");
  EXPECT_NE(alone.text.find("checkpoint_8: loss "), std::string::npos) << alone.text;
  EXPECT_EQ(together.status, 0);
  EXPECT_EQ(together.text, alone.text);
}

// All systems meet them.
TEST_F(SystemPrograms, MistakesAreOneLineAndExitWithOne) {
  const std::string taken = trained_by_two();
  const std::string before = read_text(path(taken) + "/metrics.jsonl");
  struct Mistake {
    std::string command, message;
  };
  for (const auto& [command, message] : std::vector<Mistake>{
           {train_command("new", 3, {"--batch_size", "2"}), "batch_size"},
           {train_command("new", 2, {"--dataset", "/no/such"}), "dataset: no folder /no/such"},
           {train_command(taken, 2), taken + " already holds a run up to step 8"},
           {kProgram + " eval --num_systems 2 --checkpoint_path /no/such", "no checkpoint in"}}) {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.status, 1) << command;
    EXPECT_TRUE(one_message(outcome.text, message)) << command;
    EXPECT_EQ(lines_of(outcome.text).size(), 1U) << outcome.text;
  }
  EXPECT_FALSE(std::filesystem::exists(path("new")));
  EXPECT_EQ(read_text(path(taken) + "/metrics.jsonl"), before);
}

std::vector<std::string> long_run(const std::string& store) {
  return {"--num_steps", "200", "--batch_size", "4",   "--checkpoint_steps", "50",
          "--log_steps", "50",  "--store",      store, "--checkpoint_path",  "latest"};
}

TEST_F(SystemPrograms, AKilledSystemEndsAllAndTheRunGoesOnBitForBit) {
  ASSERT_EQ(run_train("calm", 2, long_run(path("calm.store"))).status, 0);
  const auto arguments = train("killed", 2, long_run(path("killed.store")));
  {
    Background run(arguments, path("log"));
    const int status = signal_system_1(run, SIGKILL, "killed");
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 0);
  }
  const std::string log = read_text(path("log"));
  EXPECT_TRUE(one_message(log, "system 1 of 2 on host "));
  EXPECT_TRUE(one_message(log, " was killed by signal 9"));
  EXPECT_TRUE(comes_true([&] { return processes({}).empty(); }));
  EXPECT_LT(metrics_of(path("killed")).size(), 200U);
  const Outcome rest = run_train("killed", 2, long_run(path("killed.store")));
  ASSERT_EQ(rest.status, 0) << rest.text;
  EXPECT_NE(rest.text.find("continuing from "), std::string::npos) << rest.text;
  EXPECT_TRUE(weights("killed", 200) == weights("calm", 200));
}

// mpirun wakes what is stopped, and a second later ends it. With a shorter time than this it could
// still find the others silent.
TEST_F(SystemPrograms, ASilentSystemEndsAll) {
  auto more = long_run(path("silent.store"));
  more.insert(more.end(), {"--system_timeout_minutes", "0.06"});
  Background run(train("silent", 2, more), path("log"));
  const int status = signal_system_1(run, SIGSTOP, "silent");
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  const std::string log = read_text(path("log"));
  EXPECT_TRUE(one_message(log, "system 1 of 2 on host "));
  EXPECT_TRUE(one_message(log, " has been silent for 0.06 minutes"));
}

TEST_F(SystemPrograms, NoneOutlivesTheProgramThatStartedThem) {
  Background run(train("orphans", 2, long_run(path("orphans.store"))), path("log"));
  computing(1, run);
  const int status = run.signal_at(SIGKILL, path("orphans") + "/metrics.jsonl", 20);
  EXPECT_TRUE(WIFSIGNALED(status));  // TearDown() looks whether they are gone
}

// On another number of systems the last bits of the weights are others. That changes a loss by far
// less than a step more or less would: hundredths here. A step has a great many micro-batches, so
// that the signal comes in the middle of one.
TEST_F(SystemPrograms, CtrlCSavesAndAnotherNumberGoesOn) {
  const std::vector<std::string> more = {"--num_steps",       "6",     "--batch_size", "256",
                                         "--checkpoint_path", "latest"};
  ASSERT_EQ(run_train("whole", 1, more).status, 0);
  {
    Background run(train("stopped", 2, more), path("log"));
    run.wait_for_lines(path("stopped") + "/metrics.jsonl", 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    run.signal(SIGINT);
    const int status = run.wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT) << status;
  }
  const std::string log = read_text(path("log"));
  EXPECT_EQ(count(log, "stopping all systems after this step"), 1) << log;
  ASSERT_EQ(count(log, "stopped; the same command with --checkpoint_path latest continues"), 1)
      << log;
  const size_t steps = metrics_of(path("stopped")).size();
  ASSERT_LT(steps, 6U);
  EXPECT_FALSE(weights("stopped", int(steps)).empty()) << "saved at the last step";
  const Outcome rest = run_train("stopped", 4, more);
  ASSERT_EQ(rest.status, 0) << rest.text;
  const auto rows = metrics_of(path("stopped")), expected = metrics_of(path("whole"));
  ASSERT_EQ(rows.size(), 6U);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]["step"], int64_t(i + 1));
    EXPECT_NEAR(rows[i]["loss"], expected[i]["loss"], 1e-3);
  }
}

// While mpirun starts, while systems join, before and in the first steps.
TEST_F(SystemPrograms, CtrlCAtAnyMomentIsOneCleanEnd) {
  for (const int delay_ms : {20, 150, 400, 800, 1200, 1800, 2500}) {
    const std::string out = fmt::format("early{}", delay_ms);
    Background run(train(out, 2, {"--num_steps", "1000000", "--eval_steps", "0"}), path("log"));
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    run.signal(SIGINT);
    const int status = run.wait();
    const std::string log = read_text(path("log"));
    // On a busy machine it may not have begun yet: then the signal itself ends it.
    const bool begun = !log.empty() || std::filesystem::exists(path(out));
    EXPECT_TRUE((WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGINT) ||
                (WIFSIGNALED(status) && WTERMSIG(status) == SIGINT && !begun))
        << status << log;
    EXPECT_EQ(count(log, "gigagpt: "), 0) << delay_ms << log;
    if (!std::filesystem::exists(path(out) + "/metrics.jsonl")) continue;
    const int steps = int(metrics_of(path(out)).size());
    EXPECT_TRUE(steps == 0 || !weights(out, steps).empty()) << "saved at the last step";
  }
}

TEST_F(SystemPrograms, RunUnderTheUsersMpirun) {
  const Outcome trained = run(kMpirun + "-n 2 " + train_command("theirs", 2));
  ASSERT_EQ(trained.status, 0) << trained.text;
  EXPECT_EQ(count(trained.text, "step "), 8) << trained.text;
  EXPECT_TRUE(weights("theirs", 8) == weights(trained_by_two(), 8));
  const Outcome mismatch = run(kMpirun + "-n 3 " + train_command("new", 2));
  EXPECT_NE(mismatch.status, 0);
  EXPECT_TRUE(one_message(mismatch.text, "the config says 2, but mpirun started 3 processes"));
  EXPECT_FALSE(std::filesystem::exists(path("new")));
}

// Two hosts, each with a name, an address and a network of its own.
class TwoHosts : public SystemPrograms {
 protected:
  TwoHosts() : name_("gigagpt-test-" + std::to_string(::getpid())) {
    ::setenv("GIGAGPT_HOSTS", name_.c_str(), 1);
  }
  void SetUp() override {
    const Outcome up = shell(kSource + "/tools/hosts.sh up");
    if (up.status != 0) GTEST_SKIP() << "no network namespaces here: " << up.text;
  }
  void TearDown() override {
    SystemPrograms::TearDown();
    shell(kSource + "/tools/hosts.sh down");
  }
  // On the first host.
  static std::vector<std::string> there(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {kSource + "/tools/hosts.sh", "run"});
    return arguments;
  }
  static std::vector<std::string> on_both(std::vector<std::string> more) {
    more.insert(more.end(), {"--hosts", "10.77.0.1,10.77.0.2"});
    return more;
  }
  // With a command line for the system on each.
  static Outcome run_each(const std::string& first, const std::string& second) {
    return run(fmt::format("{}/tools/hosts.sh run {} --host 10.77.0.1,10.77.0.2 -n 1 {} : -n 1 {}",
                           kSource, kMpirun, first, second));
  }
  const std::string name_;
};

TEST_F(TwoHosts, TrainToTheBitsOfOne) {
  const auto far = there(train("far", 2, on_both({"--store", path("far.store")})));
  const Outcome trained = run(fmt::format("{}", fmt::join(far, " ")));
  ASSERT_EQ(trained.status, 0) << trained.text;
  EXPECT_EQ(count(trained.text, "step "), 8) << trained.text;
  EXPECT_TRUE(weights("far", 8) == weights(trained_by_two(), 8));
  for (const char* store : {"far.0-of-2.store", "far.1-of-2.store"})
    EXPECT_TRUE(std::filesystem::exists(path(store))) << store;
}

TEST_F(TwoHosts, AKilledSystemIsNamedWithItsHost) {
  Background run(there(train("lost", 2, on_both(long_run("memory")))), path("log"));
  const int status = signal_system_1(run, SIGKILL, "lost");
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) != 0) << status;
  EXPECT_TRUE(one_message(read_text(path("log")),
                          fmt::format("system 1 of 2 on host {}-2 was killed by signal 9", name_)));
}

// Each host's mpirun or daemon has to notice by itself that nobody answers; TearDown() looks
// whether both have. TCP alone would wait for a quarter of an hour.
TEST_F(TwoHosts, ACutNetworkEndsAllOnBoth) {
  auto more = long_run("memory");
  more.insert(more.end(), {"--num_steps", "1000000", "--system_timeout_minutes", "0.1"});
  Background run(there(train("cut", 2, on_both(more))), path("log"));
  run.wait_for_lines(path("cut") + "/metrics.jsonl", 20);
  ASSERT_EQ(shell(kSource + "/tools/hosts.sh cut").status, 0);
  const int status = run.wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  EXPECT_TRUE(one_message(read_text(path("log")), " has been silent for 0.1 minutes"));
}

TEST_F(TwoHosts, MustHaveOneConfigAndTheSameData) {
  const auto disagreement = [&](const std::string& of_1, const std::string& of_0) {
    return fmt::format(
        "system 1 of 2 on host {0}-2 disagrees: it has {1}, but system 0 of 2 on host {0}-1 has "
        "{2}",
        name_, of_1, of_0);
  };
  const Outcome configs =
      run_each(train_command("new", 2), train_command("new", 2, {"--learning_rate", "2e-3"}));
  EXPECT_EQ(configs.status, 1);
  EXPECT_TRUE(
      one_message(configs.text, disagreement("learning_rate: 0.002", "learning_rate: 0.001")));
  // The same path, from where each of them is.
  const std::string command = train_command("new", 2, {"--dataset", "data"});
  const Outcome data =
      run_each("--wdir " + path("") + " " + command, "--wdir " + path("other") + " " + command);
  EXPECT_EQ(data.status, 1);
  EXPECT_TRUE(one_message(data.text, fmt::format("system 1 of 2 on host {}-2 disagrees", name_)));
  EXPECT_NE(data.text.find("train.bin: "), std::string::npos) << data.text;
  EXPECT_FALSE(std::filesystem::exists(path("new")));
}

}  // namespace
}  // namespace gigagpt
