#include "cli/plan_text.h"

#include <fmt/format.h>
#include <algorithm>

#include "base/disk_rate.h"
#include "base/system.h"
#include "cli/display.h"
#include "cli/law.h"

namespace gigagpt::cli {
namespace {

using engine::Plan;

std::string time_text(double seconds) {
  return seconds < 60 ? fmt::format("{:.3g} s", seconds) : duration_text(seconds);
}

void add(std::string& text, const char* name, const std::string& value) {
  text += fmt::format("{}{:<13}{}", text.empty() ? "" : "\n", name, value);
}

std::string precision_text(const GPTConfig& config, const Plan& plan) {
  const engine::Precision precision = plan.execution.form.precision;
  const std::string name = engine::precision_name(precision);
  if (config.precision != "auto") return name + ", as asked for";
  if (config.storage.state == "compact") return name + ", which is what state: compact keeps";
  const bool bf16 = precision == engine::Precision::kBf16;
  return name + (bf16 ? ", which this CPU multiplies" : ": this CPU has no products of bf16");
}

std::string memory_text(const GPTConfig& config, const Plan& plan) {
  const auto& execution = plan.execution;
  const engine::RunSize size = config.run_size(true);
  std::string text = gb_text(plan.peak_gb);
  if (size.micro_batches() > 1) {
    text += fmt::format(", {} of {} micro-batches at once", execution.window, size.micro_batches());
  }
  if (execution.recompute) text += ", layers run again in the backward pass";
  return text;
}

std::string disk_text(const Plan& plan) {
  const bool in_file = !plan.execution.file.empty();
  std::string text = gb_text(plan.most_disk_gb);
  if (plan.most_disk_gb > plan.disk_gb) text += " at most";
  const std::string checkpoints =
      fmt::format("{} checkpoint{} of {}", plan.snapshots, plan.snapshots == 1 ? "" : "s",
                  gb_text(plan.snapshot_gb));
  text += in_file ? fmt::format(": {} of state, {}", gb_text(plan.state_gb), checkpoints)
                  : ": " + checkpoints;
  if (plan.freed_gb > 0.005) text += fmt::format("; {} of it are there", gb_text(plan.freed_gb));
  return text + fmt::format("; {} are free", gb_text(plan.free_gb));
}

std::string step_text(const GPTConfig& config, const Plan& plan) {
  std::string text = fmt::format("{:.3g} TFLOP", plan.step_flops / 1e12);
  if (!plan.execution.file.empty()) {
    text += fmt::format("; reads {}, writes {}", gb_text(plan.read_gb), gb_text(plan.write_gb));
  }
  if (plan.step_s <= 0) return text;
  const double wait_s = plan.step_s - plan.compute_s - plan.network_s;
  text += fmt::format("; about {}", time_text(plan.step_s));
  if (wait_s > 0.005 * plan.step_s) {
    text += fmt::format(", {} of them waiting for the disk", time_text(wait_s));
  }
  const double tokens = double(config.run_size(true).step_tokens());
  return text + fmt::format(": {:.4g} tokens/s", tokens / plan.step_s);
}

// Each system has its part of the batch and of the state.
std::string systems_text(const GPTConfig& config, const Plan& plan) {
  std::string text;
  for (const auto& [n, step_s] : plan.on_systems) {
    text += fmt::format("{}{}: {} ({:.0f} %)", text.empty() ? "" : ", ", n,
                        duration_text(step_s * double(config.num_steps)),
                        100 * plan.step_s / (double(n) * step_s));
  }
  return text.empty() ? "" : text + fmt::format(" with {:.3g} Gbit/s", plan.network_gbit);
}

std::string network_text(const GPTConfig& config, const Plan& plan) {
  std::string text = fmt::format("{} systems; each sends {} a step, and is sent as much",
                                 config.num_systems, gb_text(plan.sent_gb));
  if (plan.step_s <= 0) return text;
  return text +
         fmt::format(": {} with {:.3g} Gbit/s, of which {} are waited for ({:.0f} % of a step)",
                     time_text(plan.sending_s), plan.network_gbit, time_text(plan.network_s),
                     100 * plan.network_s / plan.step_s);
}

std::string machine_text(const engine::Machine& machine, const engine::Plan& plan) {
  if (machine.cores == 0) return "not measured";
  const DiskRates disk =
      machine.disk_of(plan.execution.file.empty() ? Path(".") : plan.execution.file);
  std::string text = fmt::format(
      "{} cores of {}; {} products {:.0f} GFLOP/s; memory {:.0f} GB/s", machine.cores, machine.cpu,
      engine::precision_name(plan.execution.form.precision),
      machine.flops(plan.execution.form.precision) / 1e9, machine.memory_bytes_per_s / 1e9);
  if (disk.mixed > 0) {
    text += fmt::format("; disk reads {:.2f}, writes {:.2f}, both {:.2f} GB/s", disk.read / 1e9,
                        disk.write / 1e9, disk.mixed / 1e9);
  }
  return text;
}

}  // namespace

std::string gb_text(double gb) {
  if (gb >= 1000) return fmt::format("{:.4g} TB", gb / 1000);
  return gb >= 10 ? fmt::format("{:.1f} GB", gb) : fmt::format("{:.2f} GB", gb);
}

std::string plan_text(const GPTConfig& config, const Plan& plan, const engine::Machine& machine) {
  const int64_t parameters = engine::parameter_count(config.layers());
  const double tokens = double(config.num_steps) * double(config.run_size(true).step_tokens());
  std::string text;
  add(text, "model",
      fmt::format("{} parameters; {:.3g} tokens in {} steps of {}", grouped(parameters), tokens,
                  grouped(config.num_steps), grouped(config.run_size(true).step_tokens())));
  add(text, "state",
      fmt::format("{}, {:.3g} bytes a parameter, {}", gb_text(plan.state_gb),
                  plan.state_gb * 1e9 / double(parameters),
                  plan.execution.file.empty() ? "in RAM"
                                              : "streamed from " + plan.execution.file.string()));
  add(text, "precision", precision_text(config, plan));
  add(text, "memory", memory_text(config, plan));
  add(text, "disk", disk_text(plan));
  add(text, "a step", step_text(config, plan));
  std::string run = fmt::format("writes {} to the disk", gb_text(plan.all_write_gb));
  if (plan.step_s > 0) {
    run = fmt::format("about {}; {}", duration_text(plan.step_s * double(config.num_steps)), run);
  }
  add(text, "the run", run);
  add(text, "budget", budget_text(config));
  const auto cost =
      engine::cost_of(config.cost, plan.step_s * double(config.num_steps), config.num_systems);
  if (plan.step_s > 0 && config.cost.price_kwh && !config.cost.watts)
    add(text, "cost", "price_kwh needs watts, the power that this machine draws");
  else if (plan.step_s > 0 && config.cost.any())
    add(text, "cost", engine::cost_text(cost));
  if (config.num_systems > 1) add(text, "network", network_text(config, plan));
  const std::string systems = plan.step_s > 0 ? systems_text(config, plan) : "";
  if (!systems.empty()) add(text, "on systems", systems);
  add(text, "this machine", machine_text(machine, plan));
  if (!plan.refusal.empty()) add(text, "DOES NOT FIT", plan.refusal);
  return text;
}

std::string comparison_text(const Plan& plan, const Measured& measured) {
  std::string text = fmt::format("{:<10}{:>12}{:>12}", "", "planned", "measured");
  // Seconds, or GB. Smaller ones are mostly what no plan counts: the program's own parts.
  constexpr double kLeast = 0.05;
  const auto row = [&](const char* name, double planned, double found, auto show) {
    if (std::min(planned, found) < kLeast) return;
    text += fmt::format("\n{:<10}{:>12}{:>12}  {:+.1f} %", name, show(planned), show(found),
                        100 * (found / planned - 1));
  };
  row("a step", plan.step_s, measured.step_s, time_text);
  row("memory", plan.peak_gb, measured.peak_gb, gb_text);
  row("disk", plan.disk_gb, measured.disk_gb, gb_text);
  return text;
}

double disk_used_gb(const GPTConfig& config, const Plan& plan) {
  double bytes = double(used_bytes(config.out_dir));
  const bool elsewhere =
      !plan.execution.file.empty() && plan.execution.file.parent_path() != config.out_dir;
  if (elsewhere) bytes += double(used_bytes(plan.execution.file));
  return bytes / 1e9;
}

}  // namespace gigagpt::cli
