// `gigagpt-compute`: the commands that need LibTorch. Takes the same command line as `gigagpt`,
// which starts it.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/energy.h"
#include "base/error.h"
#include "base/system.h"
#include "base/trace.h"
#include "cli/arguments.h"
#include "cli/check.h"
#include "cli/compute_parts.h"
#include "cli/coordinates.h"
#include "cli/display.h"
#include "cli/launch.h"
#include "cli/law_watch.h"
#include "cli/output.h"
#include "cli/plan_text.h"
#include "cli/run_settings.h"
#include "cli/sample.h"
#include "cli/signals.h"
#include "cli/systems.h"
#include "engine/run/checkpoint.h"
#include "engine/run/measure.h"
#include "formats/tensorboard.h"
#include "formats/tokenizer.h"
#include "gpt/data.h"
#include "gpt/eval.h"
#include "gpt/model.h"
#include "gpt/train.h"
#include "ops/page_allocator.h"

namespace gigagpt::cli {
namespace {

constexpr double kPatience_s = 60;        // a stopped step that would take longer is dropped
constexpr size_t kTraceSize = 1'000'000;  // so that a long run cannot fill the memory

// Follows a training run on the terminal.
class TrainDisplay {
 public:
  TrainDisplay(const GPTConfig& config, const engine::System& system, int64_t log_steps,
               std::optional<LawWatch> law)
      : law_(std::move(law)),
        display_(system.cluster.leads(), STDOUT_FILENO),
        config_(config),
        machine_(system.machine),
        can_drop_(system.cluster.is_alone()),
        num_steps_(config.num_steps),
        log_steps_(log_steps) {}

  TrainEvents events() {
    return {[this](const formats::StepMetrics& metrics) { step_done(metrics); },
            [this](double share) { return step_share(share); },
            [this](double share) {
              pause_profile(true);
              poll_energy();
              display_.share("evaluation", share);
              return !stop_requested();
            },
            [this](double share) {
              pause_profile(true);
              display_.share("weights", share);
              return true;
            },
            [] { return stop_requested(); },
            [this](const std::string& text) { display_.line(text); },
            [this](const engine::Plan& plan, const std::string& origin) {
              display_.line(plan_text(config_, plan, machine_));
              if (!origin.empty()) display_.line(origin);
              note_tokenizer();
              plan_ = plan;
            },
            [this](formats::StepMetrics& metrics) {
              const auto said = law_ ? law_->measured(metrics) : std::nullopt;
              if (said) display_.line(*said);
            }};
  }

  // What was planned beside what came of it.
  void show_comparison() {
    if (!stepped()) return;
    const double step_s =
        done_ == first_step_ ? first_step_s_ : stepping_s_ / double(done_ - first_step_);
    display_.line(comparison_text(plan_, {step_s, peak_rss_gb(), disk_used_gb(config_, plan_)}));
    const auto joules = energy_.joules();
    std::optional<double> kwh;
    // The counters are this machine's, so of several machines they say nothing.
    if (joules && !config_.systems.hosts) kwh = *joules / 3.6e6;
    const std::string cost = engine::cost_text(
        engine::cost_of(config_.cost, since_start_.seconds(), config_.num_systems, kwh));
    if (!cost.empty()) {
      display_.line(
          fmt::format("this run took {}{}", cost, kwh ? ", by the counters of this machine" : ""));
    }
  }

  bool stepped() const { return first_step_ >= 0; }
  int64_t steps_done() const { return done_; }
  void show_profile() { display_.line(profile_text(profile_)); }

 private:
  void step_done(const formats::StepMetrics& metrics) {
    (first_step_ < 0 ? first_step_s_ : stepping_s_) += metrics.step_ms / 1e3;
    if (first_step_ < 0 || metrics.step < first_step_) first_step_ = metrics.step;
    // The first step warms caches up, so the rate is that of the steps after it.
    const double per_step_s = metrics.step == first_step_
                                  ? metrics.step_ms / 1e3
                                  : since_first_.seconds() / double(metrics.step - first_step_);
    if (metrics.step == first_step_) since_first_ = {};
    unsaid_.tokens += double(config_.batch_size * config_.sequence_length);
    unsaid_.seconds += metrics.step_ms / 1e3;
    unsaid_.peak_seconds += metrics.mfu * metrics.step_ms / 1e3;
    const Pace pace{clock_text(), since_start_.seconds(),
                    per_step_s * double(num_steps_ - metrics.step),
                    unsaid_.tokens / unsaid_.seconds, unsaid_.peak_seconds / unsaid_.seconds};
    const std::string text = step_text(metrics, num_steps_, pace);
    const bool stays = metrics.step % log_steps_ == 0 || metrics.step == first_step_ ||
                       metrics.step == num_steps_ || metrics.val_loss.has_value();
    if (stays) {
      display_.line(text);
      unsaid_ = {};
    } else {
      display_.live(text);
    }
    done_ = metrics.step;
    count_step(metrics);
    if (law_ && done_ == num_steps_ && metrics.val_loss) {
      const double expected = law_->final_loss();
      display_.line(fmt::format("the law expected a val_loss of {:.4f}; this is {:+.2f} % from it",
                                expected, 100 * (*metrics.val_loss / expected - 1)));
    }
  }

  // The profile is of whole steps: not the first, nor one that is dropped, nor what lies between
  // steps. The next step begins here, or after the run has been saved.
  void count_step(const formats::StepMetrics& metrics) {
    if (metrics.step == first_step_) {
      reset_profile();
    } else {
      profile_.steps += 1;
      profile_.seconds += metrics.step_ms / 1e3;
      profile_.rows = profile();
    }
    if (metrics.mfu > 0)
      profile_.peak_flops = metrics.tokens_per_s * plan_.flops_per_token / metrics.mfu;
    pause_profile(false);
  }

  // Without one what was learned cannot be read.
  void note_tokenizer() {
    std::error_code missing;
    const Path data = formats::find_dataset(config_.dataset);
    if (std::filesystem::exists(data / "tokenizer.json", missing)) return;
    display_.line(fmt::format(
        "note: {} has no tokenizer.json, so to sample from this model one must be given "
        "with --tokenizer",
        data.string()));
  }

  bool step_share(double share) {
    poll_energy();
    if (share == 0) {
      in_step_ = {};
      pause_profile(false);
    }
    display_.share(fmt::format("step {}", done_ + 1), share);
    if (!stop_requested()) return true;
    if (!stop_decided_) {
      stop_decided_ = true;
      const double to_go_s = share > 0 ? in_step_.seconds() * (1 - share) / share : 0;
      dropping_ = can_drop_ && to_go_s > kPatience_s;
      display_.message(dropping_   ? "stopping: dropping this step"
                       : can_drop_ ? "stopping after this step"
                                   : "stopping all systems after this step");
      since_stop_ = {};
    } else if (can_drop_ && !dropping_ && since_stop_.seconds() > kPatience_s) {
      dropping_ = true;
      display_.message("stopping: this step takes too long, dropping it");
    }
    return !dropping_;
  }

  // Often enough that no counter begins anew unseen.
  void poll_energy() {
    if (since_energy_.seconds() < 60) return;
    since_energy_ = {};
    energy_.joules();
  }

  std::optional<LawWatch> law_;
  Display display_;
  EnergyMeter energy_;
  Stopwatch since_energy_;
  const GPTConfig& config_;
  const engine::Machine& machine_;
  const bool can_drop_;  // a step
  engine::Plan plan_;
  double first_step_s_ = 0, stepping_s_ = 0;  // the others
  int64_t num_steps_;
  int64_t log_steps_;
  StepProfile profile_;
  int64_t first_step_ = -1;
  int64_t done_ = 0;
  struct {
    double tokens = 0, seconds = 0, peak_seconds = 0;  // the last: at the rate of products alone
  } unsaid_;                                           // since the last line
  bool stop_decided_ = false;
  bool dropping_ = false;
  Stopwatch since_start_, since_first_;
  Stopwatch in_step_;
  Stopwatch since_stop_;
};

void save_trace(const Path& file) {
  const size_t missing = write_trace(file);
  print_message("wrote {}; https://ui.perfetto.dev shows it", file.string());
  if (missing > 0) print_message("it has the last {} ops, not the {} before", kTraceSize, missing);
}

// What this machine can do for one of the systems that share it.
engine::Machine machine_of(const GPTConfig& config, const engine::Cluster& cluster) {
  const bool compact = config.storage.state == "compact";
  const engine::Precision precision = engine::choose_precision(config.precision, compact);
  const Path where = engine::store_file(config.storage.store, config.out_dir);
  if (!engine::machine_is_known(where) && cluster.leads()) {
    print_message("measuring this machine: about five seconds");
  }
  return engine::known_machine(precision, where, cluster.systems_here());
}

// Reads the law that the run is held against, on the system that leads.
std::optional<LawWatch> law_of(const GPTConfig& config, engine::Cluster& cluster) {
  std::optional<LawWatch> law;
  cluster.together([&] {
    if (config.watch.law && cluster.leads()) law.emplace(config);
  });
  return law;
}

// Returns the status to exit with.
int train_on(engine::Cluster& cluster, GPTConfig& config, const Arguments& arguments) {
  set_threads(config.threads, cluster.systems_here());
  catch_stop_signals();
  if (config.saves.checkpoint_path) share_model(cluster, arguments.settings, config);
  check_alike(cluster, config, "train");  // a typo shows before the machine is measured
  auto law = law_of(config, cluster);
  const engine::Machine machine = machine_of(config, cluster);
  const engine::System system{machine, cluster};
  TrainDisplay display(config, system, arguments.log_steps, std::move(law));
  const bool tracing = !arguments.trace_file.empty() && cluster.leads();
  if (arguments.profile || tracing) start_tracing(tracing ? kTraceSize : 0);
  train(config, system, display.events());
  stop_tracing();
  const bool stopped = stop_requested() && display.steps_done() < config.num_steps;
  if (!cluster.leads()) return stopped ? stop_status() : 0;
  if (arguments.profile) display.show_profile();
  if (stopped) {
    print_message("stopped; the same command with --checkpoint_path latest continues");
  } else if (!display.stepped()) {
    print_message("nothing to do: no step is left for the run in {}", config.out_dir);
  }
  if (tracing) save_trace(arguments.trace_file);
  display.show_comparison();
  return stopped ? stop_status() : 0;
}

int run_train(const Arguments& arguments) {
  GPTConfig config;
  apply_run_settings(arguments.settings, config);
  config.check();
  const auto cluster = join_systems(config);
  int status = 0;
  cluster->guard([&] { status = train_on(*cluster, config, arguments); });
  return status;
}

// For the front program's plan.
void run_measure(const Arguments& arguments) {
  GPTConfig config;
  apply_settings(arguments.settings, config);
  set_threads(config.threads);
  engine::write_machine(
      engine::measure_machine(engine::store_file(config.storage.store, config.out_dir)));
}

// What a checkpoint was trained with, and on top of that what is asked for now.
GPTConfig eval_config(const Path& checkpoint, const GPTConfig& asked, const Arguments& arguments) {
  GPTConfig config = GPTConfig::of_checkpoint(checkpoint);
  if (std::filesystem::exists(checkpoint / "trainer_state.json"))
    apply_kept_settings(checkpoint, config);
  config.eval_batches = 0;        // all of it, whatever was enough while training
  config.storage.store = "auto";  // the file of a run is not for others
  config.storage.memory_gb.reset();
  config.num_systems = asked.num_systems;
  config.systems = asked.systems;
  apply_settings(arguments.settings, config);
  config.check();
  return config;
}

// For TensorBoard, if the checkpoint is one of a run. The result is not lost if that cannot be
// kept.
void keep_result(const Path& checkpoint, double loss) {
  if (!std::filesystem::exists(checkpoint / "trainer_state.json")) return;
  try {
    const Path run = std::filesystem::absolute(checkpoint).lexically_normal().parent_path();
    formats::write_eval_event(run / "tensorboard" / "eval",
                              formats::read_trainer_state(checkpoint).step, loss, std::exp(loss));
  } catch (const Error& error) {
    print_message("note: not kept for TensorBoard: {}", error.what());
  }
}

void eval_on(engine::Cluster& cluster, const GPTConfig& asked, const Arguments& arguments) {
  Path checkpoint;
  GPTConfig config;
  cluster.together([&] {
    if (!cluster.leads()) return;
    checkpoint = engine::find_checkpoint(*asked.saves.checkpoint_path, asked.out_dir);
    config = eval_config(checkpoint, asked, arguments);
    formats::check_same_tokens(checkpoint, formats::find_dataset(config.dataset));
  });
  share_config(cluster, config);
  set_threads(config.threads, cluster.systems_here());
  check_alike(cluster, config, "val");
  const TokenData data(config, "val");
  auto gpt = make_gpt(config, /*training=*/false, {{}, cluster});
  Display display(cluster.leads());
  if (!gpt.plan.execution.file.empty()) display.line(gpt.plan.note());
  engine::load_checkpoint(checkpoint, gpt.store, /*optimizer=*/false, 0,
                          follow(display, "loading"));
  const auto result = evaluate(gpt.executor, data, config, follow(display, "evaluation"));
  if (!std::isfinite(result->loss)) {
    throw engine::AgreedError(
        fmt::format("{}: the loss is {}: its weights are not those of a model that learned",
                    checkpoint.string(), result->loss));
  }
  if (!cluster.leads()) return;
  fmt::print("{}: loss {:.4f}, perplexity {:.2f} over {} tokens of {}\n", checkpoint.string(),
             result->loss, std::exp(result->loss), result->tokens, config.dataset);
  keep_result(checkpoint, result->loss);
}

void run_eval(const Arguments& arguments) {
  GPTConfig asked;
  apply_settings(arguments.settings, asked);
  const auto cluster = join_systems(asked);
  cluster->guard([&] { eval_on(*cluster, asked, arguments); });
}

int run(int argc, char** argv) {
  keep_freed_memory();
  ops::use_page_allocator();
  const Arguments arguments = parse_arguments(argc, argv);
  switch (arguments.command) {
    case Arguments::Command::kTrain:
      return run_train(arguments);
    case Arguments::Command::kEval:
      run_eval(arguments);
      return 0;
    case Arguments::Command::kSample:
      sample(arguments.sample);
      return 0;
    case Arguments::Command::kCheck:
      return check(arguments);
    case Arguments::Command::kCoordinates:
      return coordinates(arguments);
    case Arguments::Command::kPlan:
      run_measure(arguments);
      return 0;
    case Arguments::Command::kPrepare:
    case Arguments::Command::kInspect:
    case Arguments::Command::kTokenizer:
    case Arguments::Command::kExport:
    case Arguments::Command::kLaw:
    case Arguments::Command::kPlot:
      fail("this command is run by `gigagpt`, not `gigagpt-compute`");
  }
  return 1;
}

}  // namespace
}  // namespace gigagpt::cli

int main(int argc, char** argv) {
  using namespace gigagpt::cli;
  secure_standard_streams();
  try {
    const int status = run(argc, argv);
    finish_results();
    return status;
  } catch (const c10::Error& error) {
    say(std::string("internal error: ") + error.what());
  } catch (const std::exception& error) {
    say(error.what());
  }
  return 1;
}
