// `gigagpt-compute`: the commands that need LibTorch. Takes the same command line as `gigagpt`,
// which starts it.
#include <ATen/Parallel.h>
#include <malloc.h>

#include <cmath>
#include <cstdio>
#include <iostream>

#include "base/error.h"
#include "base/system.h"
#include "cli/arguments.h"
#include "cli/display.h"
#include "cli/signals.h"
#include "gpt/data.h"
#include "gpt/eval.h"
#include "gpt/model.h"
#include "gpt/sample.h"
#include "gpt/train.h"

namespace gigagpt::cli {
namespace {

constexpr double kPatience_s = 60;  // a stopped step that would take longer is dropped

void set_threads(int64_t wanted) {
  // Also pulls up the number of OpenMP threads that oneDNN uses.
  at::set_num_threads(wanted > 0 ? int(wanted) : core_count());
}

// A run's out_dir stands for its newest checkpoint.
Path checkpoint_at(const std::string& given, const std::string& out_dir) {
  const Path folder = given == "latest" ? Path(out_dir) : Path(given);
  if (std::filesystem::exists(folder / "config.json")) return folder;
  const auto steps = engine::checkpoint_steps(folder);
  if (steps.empty()) fail("checkpoint_path: there is no checkpoint in {}", folder.string());
  return engine::checkpoint_directory(folder, steps.back());
}

// Follows a training run on the terminal.
class TrainDisplay {
 public:
  TrainDisplay(const GPTConfig& config, int64_t log_steps)
      : num_steps_(config.num_steps), log_steps_(log_steps) {}

  TrainEvents events() {
    return {[this](const formats::StepMetrics& metrics) { step_done(metrics); },
            [this](double share) { return step_share(share); },
            [this](double share) {
              display_.share("evaluation", share);
              return !stop_requested();
            },
            [this] { return stop_requested(); },
            [this](const std::string& text) { display_.line(text); }};
  }

 private:
  void step_done(const formats::StepMetrics& metrics) {
    if (first_step_ < 0) first_step_ = metrics.step;
    // The first step warms caches up, so the rate is that of the steps after it.
    const double per_step_s = metrics.step == first_step_
                                  ? metrics.step_ms / 1e3
                                  : since_first_.seconds() / double(metrics.step - first_step_);
    if (metrics.step == first_step_) since_first_ = {};
    const double eta_s = per_step_s * double(num_steps_ - metrics.step);
    const std::string text = step_text(metrics, num_steps_, eta_s);
    const bool stays = metrics.step % log_steps_ == 0 || metrics.step == first_step_ ||
                       metrics.step == num_steps_ || metrics.val_loss.has_value();
    if (stays)
      display_.line(text);
    else
      display_.live(text);
    done_ = metrics.step;
    in_step_ = {};
    display_.restart_share();
  }

  bool step_share(double share) {
    display_.share(fmt::format("step {}", done_ + 1), share);
    if (!stop_requested()) return true;
    const double to_go_s = in_step_.seconds() * (1 - share) / share;
    if (!told_) {
      told_ = true;
      display_.line(to_go_s > kPatience_s ? "stopping: dropping this step"
                                          : "stopping after this step");
    }
    return to_go_s <= kPatience_s;
  }

  Display display_;
  int64_t num_steps_;
  int64_t log_steps_;
  int64_t first_step_ = -1;
  int64_t done_ = 0;
  bool told_ = false;
  Stopwatch since_first_;
  Stopwatch in_step_;
};

void run_train(const Arguments& arguments) {
  GPTConfig config;
  apply_settings(arguments.settings, config);
  config.check();
  set_threads(config.threads);
  catch_stop_signals();
  TrainDisplay display(config, arguments.log_steps);
  train(config, display.events());
  if (stop_requested()) {
    fmt::print(stderr, "stopped; the same command with --checkpoint_path latest continues\n");
  }
}

void run_eval(const Arguments& arguments) {
  GPTConfig asked;
  apply_settings(arguments.settings, asked);
  const Path checkpoint = checkpoint_at(*asked.checkpoint_path, asked.out_dir);
  GPTConfig config = config_of_checkpoint(checkpoint);
  if (std::filesystem::exists(checkpoint / "trainer_state.json")) {
    std::vector<Setting> kept;
    for (const auto& [key, value] : formats::read_trainer_state(checkpoint).config) {
      kept.push_back({key, value, (checkpoint / "trainer_state.json").string()});
    }
    apply_settings(kept, config);
  }
  config.eval_batches = 0;  // all of it, whatever was enough while training
  apply_settings(arguments.settings, config);
  config.check();
  set_threads(config.threads);
  const TokenData data(config, "val");
  GPT gpt(config, /*training=*/false);
  engine::load_weights(checkpoint, gpt.store, gpt.layout);
  Display display;
  const auto progress = [&](double share) {
    display.share("evaluation", share);
    return true;
  };
  const auto result = evaluate(gpt.executor, data, config, config.eval_batches, progress);
  fmt::print("{}: loss {:.4f}, perplexity {:.2f} over {} tokens of {}\n", checkpoint.string(),
             result->loss, std::exp(result->loss), result->tokens, config.dataset);
}

void run_sample(const SampleArguments& arguments) {
  set_threads(arguments.threads);
  const Path checkpoint = checkpoint_at(arguments.checkpoint_path, "out");
  GPTConfig config = config_of_checkpoint(checkpoint);
  config.precision = arguments.precision;
  Sampler sampler(checkpoint, config);
  const int64_t ngram =
      arguments.no_repeat_ngram_size.value_or(sampler.tokenizer().is_character_level() ? 0 : 3);
  const auto answer = [&](const std::string& prompt) {
    for (int64_t i = 0; i < arguments.num_samples; ++i) {
      fmt::print("{}", prompt);
      const SampleOptions options{{arguments.temperature, arguments.top_k, ngram},
                                  arguments.max_length,
                                  uint64_t(arguments.seed + i)};
      sampler.generate(prompt, options, [](const std::string& text) {
        fmt::print("{}", text);
        std::fflush(stdout);
        return true;
      });
      fmt::print("{}", i + 1 < arguments.num_samples ? "\n---\n" : "\n");
    }
  };
  if (arguments.prompt) return answer(*arguments.prompt);
  for (std::string prompt; true;) {
    fmt::print("Enter a prompt (RETURN to exit): ");
    std::fflush(stdout);
    if (!std::getline(std::cin, prompt) || prompt.empty()) return;
    try {
      answer(prompt);
    } catch (const Error& error) {
      fmt::print(stderr, "{}\n", error.what());
    }
  }
}

void run(int argc, char** argv) {
  // Large buffers are kept for the next step instead of going back to the system each time.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  const Arguments arguments = parse_arguments(argc, argv);
  switch (arguments.command) {
    case Arguments::Command::kTrain:
      return run_train(arguments);
    case Arguments::Command::kEval:
      return run_eval(arguments);
    case Arguments::Command::kSample:
      return run_sample(arguments.sample);
    case Arguments::Command::kPrepare:
      fail("prepare is done by gigagpt itself");
  }
}

}  // namespace
}  // namespace gigagpt::cli

int main(int argc, char** argv) {
  try {
    gigagpt::cli::run(argc, argv);
    return 0;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "gigagpt: internal error: %s\n", error.what());
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gigagpt: %s\n", error.what());
    return 1;
  }
}
