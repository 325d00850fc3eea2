// `gigagpt`: reads the command line and does what needs no LibTorch; the rest is done by
// `gigagpt-compute` beside it, which takes a second to load.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/system.h"
#include "cli/arguments.h"
#include "cli/inspect.h"
#include "cli/plan_text.h"
#include "cli/prepare.h"
#include "engine/machine.h"

namespace gigagpt::cli {
namespace {

// fp32 weights, gradients and two moments; training in bf16 keeps a copy in bf16 besides.
double state_gb(const GPTConfig& config) {
  return double(engine::parameter_count(config.layers())) * 16 / 1e9;
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

// Replaces this program.
[[noreturn]] void become_compute(char** argv) {
  // Large pages for large arrays: a few per cent, as fewer addresses must be looked up.
  const char* given = std::getenv("GLIBC_TUNABLES");
  const std::string tunables = "glibc.malloc.hugetlb=1";
  ::setenv("GLIBC_TUNABLES", (given ? tunables + ":" + given : tunables).c_str(), 1);
  const Path compute =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "gigagpt-compute";
  ::execv(compute.c_str(), argv);
  fail_errno("cannot start " + compute.string());
}

// The same command line has the other program measure this machine, and keep that.
void measure(char** argv) {
  fmt::print(stderr, "measuring this machine: some five seconds\n");
  const pid_t child = ::fork();
  if (child < 0) fail_errno("cannot start another process");
  if (child == 0) become_compute(argv);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("this machine could not be measured");
}

int plan(const Arguments& arguments, char** argv) {
  GPTConfig config;
  apply_settings(arguments.settings, config);
  config.check();
  const Path where = engine::store_file(config.storage.store, config.out_dir);
  if (!engine::machine_is_known(where) || arguments.measure) measure(argv);
  const auto machine = engine::read_machine();
  if (!machine) fail("what was measured could not be kept: set HOME, or XDG_CACHE_HOME");
  const engine::Precision precision = engine::precision_for(
      config.precision, config.storage.state == "compact", machine->native_bf16);
  const engine::Plan plan =
      engine::make_plan(config.layers(), precision, config.run_size(/*training=*/true),
                        config.storage, config.out_dir, *machine);
  fmt::print("{}\n", plan_text(config, plan, *machine));
  return plan.refusal.empty() ? 0 : 1;
}

int run(int argc, char** argv) {
  const Arguments arguments = parse_arguments(argc, argv);
  using Command = Arguments::Command;
  if (arguments.command == Command::kPrepare) {
    prepare(arguments.prepare);
    return 0;
  }
  if (arguments.command == Command::kInspect) {
    inspect(arguments.inspect_path);
    return 0;
  }
  for (const std::string& note : arguments.notes) fmt::print(stderr, "note: {}\n", note);
  if (arguments.command == Command::kTrain) {
    GPTConfig config;
    apply_settings(arguments.settings, config);
    config.check();
    if (arguments.dry_run) {
      print_config(config);
      return 0;
    }
    if (config.num_systems > 1) {
      fail("num_systems: {} is more than the one system this version trains on",
           config.num_systems);
    }
  }
  if (arguments.command == Command::kPlan) return plan(arguments, argv);
  become_compute(argv);
}

}  // namespace
}  // namespace gigagpt::cli

int main(int argc, char** argv) {
  try {
    return gigagpt::cli::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gigagpt: %s\n", error.what());
    return 1;
  }
}
