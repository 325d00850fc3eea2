// `gigagpt`: reads the command line and does what needs no LibTorch; the rest is done by
// `gigagpt-compute` beside it, which takes a second to load.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/system.h"
#include "cli/arguments.h"
#include "cli/export.h"
#include "cli/inspect.h"
#include "cli/launch.h"
#include "cli/law.h"
#include "cli/law_choose.h"
#include "cli/output.h"
#include "cli/plan_text.h"
#include "cli/plot.h"
#include "cli/prepare.h"
#include "cli/run_settings.h"
#include "cli/signals.h"
#include "cli/tokenizer.h"
#include "engine/plan/machine.h"

namespace gigagpt::cli {
namespace {

// fp32 weights, gradients and two moments; training in bf16 keeps a copy in bf16 besides.
double state_gb(const GPTConfig& config) {
  return double(engine::parameter_count(config.layers())) * 16 / 1e9;
}

void print_notes(const Arguments& arguments) {
  for (const std::string& note : arguments.notes) print_message("note: {}", note);
}

void print_config(GPTConfig& config) {
  for (const Option& option : config.options()) {
    fmt::print("{}: {}\n", option.name, option_text(option));
  }
  const auto layers = config.layers();
  const double tokens =
      double(config.num_steps) * double(config.batch_size) * double(config.sequence_length);
  fmt::print("# parameters: {}\n# parameters per block: {}\n# tokens: {:.4g}\n",
             engine::parameter_count(layers), engine::parameter_count({layers[1]}), tokens);
  fmt::print("# weights, gradients and optimizer, in RAM or a file: {:.4g} GB, in bf16 {:.4g}\n",
             state_gb(config), state_gb(config) * 18 / 16);
}

// An OpenMP thread that waits for the others of a region looks at a flag for a while before it
// sleeps. By libgomp's own choice it does so for milliseconds, and beside another program that
// wants a core the thread that is waited for gets none: a step took 15 times as long. To sleep at
// once makes small models a quarter slower. 45 us cost nothing that could be measured, and beside
// one busy program two threads keep half of their speed.
void limit_spinning() {
#if defined(__x86_64__)
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  constexpr double kSpin_s = 45e-6;
  constexpr int kPauses = 10'000;
  const Stopwatch watch;
  for (int i = 0; i < kPauses; ++i) __builtin_ia32_pause();
  const double spins = kSpin_s / watch.seconds() * kPauses;
  ::setenv("GOMP_SPINCOUNT", std::to_string(std::llround(spins)).c_str(), 0);
#endif
}

// Replaces this program.
[[noreturn]] void become_compute(char** argv) {
  // Large pages for large arrays: a few per cent, as fewer addresses must be looked up.
  const char* given = std::getenv("GLIBC_TUNABLES");
  const std::string tunables = "glibc.malloc.hugetlb=1";
  ::setenv("GLIBC_TUNABLES", (given ? tunables + ":" + given : tunables).c_str(), 1);
  limit_spinning();
  // UCX, which newer LibTorch brings along by way of MPI, takes SIGHUP for itself, nohup or not.
  ::setenv("UCX_DEBUG_SIGNO", "0", 0);
  const Path compute =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "gigagpt-compute";
  ::execv(compute.c_str(), argv);
  fail_errno("cannot start " + compute.string());
}

// The same command line has the other program measure this machine, and keep that.
void measure(char** argv) {
  print_message("measuring this machine: about five seconds");
  const pid_t child = ::fork();
  if (child < 0) fail_errno("cannot start another process");
  if (child == 0) become_compute(argv);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("this machine could not be measured");
}

// The part of this machine that one of the config's systems has.
engine::Machine known_part(const GPTConfig& config, bool again, char** argv) {
  const Path where = engine::store_file(config.storage.store, config.out_dir);
  if (!engine::machine_is_known(where) || again) measure(argv);
  const auto machine = engine::read_machine();
  if (!machine) fail("what was measured cannot be kept: set XDG_CACHE_HOME to a folder for it");
  const bool one_machine = config.num_systems > 1 && !config.systems.hosts;
  return machine->shared_by(one_machine ? config.num_systems : 1);
}

engine::Plan plan_on(const engine::Machine& machine, const GPTConfig& config) {
  const engine::Precision precision = engine::precision_for(
      config.precision, config.storage.state == "compact", machine.native_bf16);
  return engine::make_plan(config.layers(), precision, config.run_size(/*training=*/true),
                           config.storage, config.out_dir, machine);
}

int plan(const Arguments& arguments, char** argv) {
  GPTConfig config;
  apply_run_settings(arguments.settings, config);
  config.check();
  const engine::Machine machine = known_part(config, arguments.measure, argv);
  const engine::Plan plan = plan_on(machine, config);
  fmt::print("{}\n", plan_text(config, plan, machine));
  return plan.refusal.empty() ? 0 : 1;
}

void run_law(const Arguments& arguments, char** argv) {
  switch (arguments.law.action) {
    case LawArguments::Action::kFit:
      return fit_runs(arguments.law);
    case LawArguments::Action::kRatio:
      return compare_ratios(arguments.law);
    case LawArguments::Action::kPredict:
      return predict_loss(arguments);
    case LawArguments::Action::kChoose: {
      GPTConfig config;
      apply_run_settings(arguments.settings, config);
      const engine::Machine machine = known_part(config, /*again=*/false, argv);
      choose_size(arguments, [&](const GPTConfig& sized) { return plan_on(machine, sized); });
    }
  }
}

// train and eval, on as many systems as they are asked to use.
int run_on_systems(const Arguments& arguments, const std::optional<Rank>& rank, char** argv) {
  const bool training = arguments.command == Arguments::Command::kTrain;
  GPTConfig config;
  (training ? apply_run_settings : apply_settings)(arguments.settings, config);
  if (training) config.check();
  const bool several = config.num_systems > 1;
  if (several && !rank && !arguments.dry_run) return launch(config, training, argv);
  if (rank && !arguments.dry_run) check_size(*rank, config.num_systems);
  if (!rank || rank->rank == 0) {
    print_notes(arguments);
    if (arguments.dry_run) print_config(config);
  }
  if (arguments.dry_run) return 0;
  if (!rank || !several) become_compute(argv);
  return supervise(*rank, config.num_systems, training, [&] { become_compute(argv); });
}

int run(int argc, char** argv, const std::optional<Rank>& rank) {
  const Arguments arguments = parse_arguments(argc, argv);
  switch (arguments.command) {
    case Arguments::Command::kTokenizer:
      run_tokenizer(arguments.tokenizer);
      return 0;
    case Arguments::Command::kPrepare:
      catch_stop_signals();
      prepare(arguments.prepare);
      return 0;
    case Arguments::Command::kInspect:
      inspect(arguments.inspect_path);
      return 0;
    case Arguments::Command::kExport:
      export_model(arguments.exporting);
      return 0;
    case Arguments::Command::kPlot:
      plot(arguments.plot);
      return 0;
    case Arguments::Command::kLaw:
      print_notes(arguments);
      run_law(arguments, argv);
      return 0;
    case Arguments::Command::kPlan:
      print_notes(arguments);
      return plan(arguments, argv);
    case Arguments::Command::kTrain:
    case Arguments::Command::kEval:
      return run_on_systems(arguments, rank, argv);
    case Arguments::Command::kCheck:
    case Arguments::Command::kCoordinates:
      print_notes(arguments);
      become_compute(argv);
    case Arguments::Command::kSample:
      become_compute(argv);
  }
  return 1;
}

// The commands that run on several systems are told apart before the command line is read: it may
// have mistakes, which one of them reports.
std::optional<Rank> rank_of(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command != "train" && command != "eval") return std::nullopt;
  return find_rank([](const char* name) { return std::getenv(name); });
}

}  // namespace
}  // namespace gigagpt::cli

int main(int argc, char** argv) {
  using namespace gigagpt::cli;
  secure_standard_streams();
  const auto rank = rank_of(argc, argv);
  try {
    const int status = run(argc, argv, rank);
    finish_results();
    return status;
  } catch (const std::exception& error) {
    report(rank, error.what());
    return stop_requested() ? stop_status() : 1;
  }
}
