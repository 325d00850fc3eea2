// Runs that are killed over and over, at any moment: what they leave in the end is, bit for bit,
// what a run that nobody kills leaves. The parent computes nothing, so that it can fork.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <sstream>
#include <thread>

#include "base/system.h"
#include "engine/storage/file_storage.h"
#include "formats/json.h"
#include "gpt/testing.h"
#include "gpt/train.h"

namespace gigagpt {
namespace {

enum Phase { kStarting, kInitialising, kTraining, kSaving, kPhases };

// What a life tells its parent.
struct Told {
  std::atomic<int> phase;
  std::atomic<int64_t> step;   // the last one that is done
  std::atomic<int64_t> steps;  // done by all lives
};

class Lives {
 public:
  Lives() {
    void* shared =
        ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) fail_errno("mmap");
    told_ = new (shared) Told{};
  }
  ~Lives() { ::munmap(told_, sizeof(Told)); }
  Told& told() { return *told_; }

  // Starts one that trains; returns its process.
  pid_t start(const GPTConfig& config) {
    told_->phase = kStarting;
    told_->step = -1;
    const pid_t pid = ::fork();
    if (pid < 0) fail_errno("fork");
    if (pid > 0) return pid;
    int status = 0;
    try {
      train(config, {}, events());
    } catch (const std::exception& error) {
      fmt::print(stderr, "{}\n", error.what());
      status = 1;
    }
    ::_exit(status);
  }

 private:
  TrainEvents events() {
    const auto computing = [this](double) { return told_->phase = kTraining, true; };
    const auto moving = [this](double) {
      told_->phase = told_->phase >= kTraining ? kSaving : kInitialising;
      return true;
    };
    const auto done = [this](const formats::StepMetrics& metrics) {
      told_->step = metrics.step;
      ++told_->steps;
    };
    return {done,
            computing,
            computing,
            moving,
            [] { return false; },
            [](const std::string&) {},
            [](const engine::Plan&, const std::string&) {}};
  }

  Told* told_;
};

class Kills : public testing::Test {
 protected:
  Kills() { write_dataset(folder_ / "data", 31, 1000); }

  GPTConfig config(int64_t seed, const std::string& out) const {
    GPTConfig config = tiny_config(folder_.path());
    config.seed = seed;
    config.precision = seed % 2 == 0 ? "fp32" : "bf16";
    config.storage.state = seed % 4 == 3 ? "compact" : "full";
    const auto optimizers = ops::optimizer_names();
    config.optim.optimizer = optimizers[size_t(seed) % optimizers.size()];
    const bool whole = ops::find_optimizer(config.optim.optimizer)->whole != ops::Whole::kNone;
    if (whole) config.storage.state = "full";
    config.dropout = 0.1;
    config.num_steps = 120;
    config.saves.checkpoint_steps = 7;
    config.eval_steps = 5;
    config.eval_batches = 2;
    config.saves.checkpoint_path = "latest";
    config.out_dir = (folder_ / out).string();
    config.storage.store = config.out_dir + "/model.store";
    return config;
  }

  void run_to_the_end(const GPTConfig& config) {
    int status = 0;
    ::waitpid(lives_.start(config), &status, 0);
    ASSERT_EQ(status, 0);
  }

  // Where to kill the next one; the first lives of a run are hit while they make the file.
  Phase choose_aim(const GPTConfig& config) {
    const uint64_t draw = random_() % 8;
    if (!engine::StateFile::peek(config.storage.store)) return draw < 6 ? kStarting : kTraining;
    return draw < 1 ? kStarting : draw < 3 ? kSaving : kTraining;
  }

  // Starts a life and kills it; false if the run was at its end before.
  bool run_a_while(const GPTConfig& config) {
    const Phase aim = choose_aim(config);
    const double share = double(random_() % 1000) / 1000;
    const pid_t pid = lives_.start(config);
    const Stopwatch watch;
    double until_ms = aim == kStarting ? share * start_ms_ : kNever;
    int status = 0;
    for (bool started = false; 1e3 * watch.seconds() < until_ms;) {
      if (::waitpid(pid, &status, WNOHANG) == pid) {
        EXPECT_EQ(status, 0);
        return false;
      }
      const double now_ms = 1e3 * watch.seconds();
      const int phase = lives_.told().phase;
      if (!std::exchange(started, phase >= kTraining) && phase >= kTraining) {
        start_ms_ += 0.2 * (now_ms - start_ms_);
      }
      if (until_ms == kNever && phase >= aim) {
        until_ms = now_ms + share * (aim == kSaving ? kSavingMs : kTrainingMs);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status)) {  // it was faster
      EXPECT_EQ(status, 0);
      return false;
    }
    ++kills_;
    ++in_phase_[size_t(lives_.told().phase)];
    check_left(config);
    return true;
  }

  // A step is in the file when the next one has gradients.
  void check_left(const GPTConfig& config) {
    const int64_t done = lives_.told().step;
    if (done < 1) return;
    const auto left = engine::StateFile::peek(config.storage.store);
    ASSERT_TRUE(left);
    EXPECT_GE(left->step, done - 1);
    const std::string lines = read_text(Path(config.out_dir) / "metrics.jsonl");
    EXPECT_GE(std::count(lines.begin(), lines.end(), '{'), left->step);
  }

  TemporaryDirectory folder_;
  Lives lives_;
  std::mt19937_64 random_{1};
  double start_ms_ = 100;  // from a fork to the first step
  static constexpr double kNever = 1e300, kTrainingMs = 60, kSavingMs = 4;
  int64_t kills_ = 0;
  std::array<int64_t, kPhases> in_phase_ = {};
};

// The numbers of each step, as they are written.
std::vector<std::string> metrics_of(const GPTConfig& config) {
  std::istringstream lines(read_text(Path(config.out_dir) / "metrics.jsonl"));
  std::vector<std::string> all;
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    all.push_back(fmt::format("step {} loss {} grad_norm {} lr {}", row.at("step").dump(),
                              row.at("loss").dump(), row.at("grad_norm").dump(),
                              row.at("lr").dump()));
  }
  return all;
}

// Weights and moments, wherever in the file they are.
std::vector<float> state_of(const GPTConfig& config) {
  using namespace engine;
  const auto precision = config.precision == "bf16" ? Precision::kBf16 : Precision::kFp32;
  const StateForm form{precision, true, config.storage.state == "compact",
                       StateFile::peek(config.storage.store)->gradient,
                       ops::find_optimizer(config.optim.optimizer)};
  StreamOptions options;
  options.direction = &ops::make_direction;
  FileStorage storage(config.layers(), form, config.storage.store, FileStorage::Mode::kOpen,
                      options);
  EXPECT_EQ(storage.step(), config.num_steps);
  storage.settle();
  std::vector<float> all;
  for (const Array kept : {Array::kMaster, Array::kExpAvg, Array::kExpAvgSq}) {
    for (size_t i = 0; i < storage.layout().layer_count(); ++i) {
      for (size_t p = 0; p < storage.layout().spec(i).params.size(); ++p) {
        const ParamSpec& param = storage.layout().spec(i).params[p];
        std::vector<float> values(size_t(form.kept_count(param, kept)));
        if (values.empty()) continue;
        storage.read(kept, i, storage.layout().layer(i).offsets[p], values);
        all.insert(all.end(), values.begin(), values.end());
      }
    }
  }
  return all;
}

void expect_same(const GPTConfig& killed, const GPTConfig& whole) {
  const auto lines = metrics_of(killed), wanted = metrics_of(whole);
  EXPECT_EQ(wanted.size(), size_t(whole.num_steps));
  EXPECT_EQ(lines.size(), wanted.size());
  for (size_t i = 0; i < std::min(lines.size(), wanted.size()); ++i) {
    ASSERT_EQ(lines[i], wanted[i]);
    ASSERT_TRUE(lines[i].starts_with(fmt::format("step {} ", i + 1)));
  }
  const auto weights_of = [](const GPTConfig& config) {
    const Path last = Path(config.out_dir) / fmt::format("checkpoint_{}", config.num_steps);
    return read_text(last / "model.safetensors");
  };
  EXPECT_TRUE(weights_of(killed) == weights_of(whole)) << "weights";
  const auto state = state_of(killed), state_wanted = state_of(whole);
  EXPECT_TRUE(std::memcmp(state.data(), state_wanted.data(), 4 * state_wanted.size()) == 0);
}

TEST_F(Kills, LeaveNoTrace) {
  const char* wish = std::getenv("GIGAGPT_KILLS");
  const int64_t wanted = wish == nullptr ? 200 : std::atoll(wish);
  const Stopwatch watch;
  int64_t runs = 0;
  for (; kills_ < wanted && !HasFailure(); ++runs) {
    const GPTConfig killed = config(runs, fmt::format("killed_{}", runs));
    while (kills_ < wanted && run_a_while(killed) && !HasFailure()) {
    }
    const GPTConfig whole = config(runs, fmt::format("whole_{}", runs));
    run_to_the_end(killed);
    run_to_the_end(whole);
    if (HasFailure()) break;
    expect_same(killed, whole);
    std::filesystem::remove_all(killed.out_dir);
    std::filesystem::remove_all(whole.out_dir);
  }
  fmt::print(
      "{} kills in {} runs: {} while starting, {} initialising or opening, {} training, {} saving; "
      "{} steps, {:.0f} s; a start takes {:.0f} ms\n",
      kills_, runs, in_phase_[kStarting], in_phase_[kInitialising], in_phase_[kTraining],
      in_phase_[kSaving], lives_.told().steps.load(), watch.seconds(), start_ms_);
}

}  // namespace
}  // namespace gigagpt
