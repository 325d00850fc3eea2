#include "engine/plan/plan.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/system.h"
#include "engine/plan/forecast.h"
#include "engine/state/state_file.h"

namespace gigagpt::engine {
namespace {

// What is asked for, and what is there already.
struct Request {
  const std::vector<LayerSpec>& specs;
  Precision precision;
  RunSize size;
  StoreRules rules;
  Path out_dir;
  const Machine& machine;
  const FreeBytes& free;
  Shard shard;
  std::optional<StateFile::Summary> existing;  // of the run's store file
  double budget = 0;                           // of memory, in bytes

  bool by_layer() const { return size.training && rules.clip == "layer"; }
  StateForm form(GradientForm gradient) const {
    return {precision, size.training, size.training && rules.state == "compact", gradient,
            size.optimizer};
  }
  std::vector<bool> recompute_choices() const {
    if (!size.training || rules.recompute == "on") return {true};
    if (rules.recompute == "off") return {false};
    return {false, true};
  }
};

// The first way that fits, and the least that any needs.
struct Choice {
  Plan plan;
  bool fits = false;
  double least = 1e300;  // bytes
  // True if it is to be taken.
  bool offer(Plan candidate, double peak, double budget) {
    candidate.peak_gb = peak / 1e9;
    if (peak <= budget || peak < least) plan = std::move(candidate);
    least = std::min(least, peak);
    return fits = peak <= budget;
  }
};

Choice choose_ram(const Request& r) {
  const MemoryEstimate estimate(
      r.specs, r.form(r.by_layer() ? GradientForm::kNone : GradientForm::kFp32), r.size, r.shard);
  Choice choice;
  for (const bool recompute : r.recompute_choices()) {
    Plan plan;
    // With all weights at hand one micro-batch after the other needs least.
    const int64_t window = r.by_layer() ? r.size.micro_batches() : 1;
    plan.execution = {window, recompute && r.size.training, estimate.layout().form()};
    const double state =
        estimate.state_bytes() + estimate.transient_gradient_bytes() + estimate.exchange_bytes();
    plan.state_gb = estimate.state_bytes() / 1e9;
    const double peak = program_bytes(r.machine) + state + estimate.direction_bytes() +
                        estimate.activation_bytes(window, recompute);
    plan.activation_bytes = uint64_t(std::max(0.0, r.budget - program_bytes(r.machine) - state));
    if (choice.offer(plan, peak, r.budget)) break;
  }
  return choice;
}

Choice choose_file(const Request& r) {
  Choice choice;
  std::vector<GradientForm> forms = {GradientForm::kFp32};
  if (r.rules.state == "compact") forms.insert(forms.begin(), GradientForm::kBf16);
  if (!r.size.training) forms = {GradientForm::kFp32};
  if (r.by_layer()) forms = {GradientForm::kNone};
  if (r.existing) forms = {r.existing->gradient};
  for (const GradientForm form : forms) {
    const MemoryEstimate estimate(r.specs, r.form(form), r.size, r.shard);
    for (const bool recompute : r.recompute_choices()) {
      const int64_t all = r.size.micro_batches();
      const bool any_window =
          form == GradientForm::kFp32 && (recompute || r.rules.recompute == "off");
      for (int64_t window = all; window >= (any_window ? 1 : all); --window) {
        Plan plan;
        plan.execution = {window, recompute && r.size.training, estimate.layout().form(),
                          store_file(r.rules.store, r.out_dir, r.shard)};
        const double fixed = program_bytes(r.machine) + estimate.buffer_bytes() +
                             estimate.exchange_bytes() + estimate.direction_bytes() +
                             estimate.activation_bytes(window, recompute);
        const double layers = estimate.streamed_layer_bytes(recompute);
        const double in_file =
            double(estimate.layout().segments().size()) * double(estimate.layout().slot_bytes());
        const double spare = std::max(0.0, r.budget - fixed - layers);
        plan.layer_bytes = uint64_t(layers + std::min(layers, spare));
        const double more = std::max(0.0, r.budget - fixed - double(plan.layer_bytes));
        plan.cache_bytes = r.size.training ? uint64_t(std::min(0.9 * more, in_file)) : 0;
        const double held = double(plan.layer_bytes + plan.cache_bytes);
        plan.activation_bytes = uint64_t(
            std::max(0.0, r.budget - program_bytes(r.machine) - estimate.buffer_bytes() - held));
        const double peak = fixed + (spare > 0 ? held : layers);
        if (choice.offer(plan, peak, r.budget)) return choice;
      }
    }
  }
  return choice;
}

std::string memory_refusal(const Request& r, double least) {
  if (r.rules.store == "memory") {
    return fmt::format(
        "store: in RAM this run needs about {:.1f} GB, but memory_gb is {:.1f}; leave store out "
        "to stream from a file",
        least / 1e9, r.budget / 1e9);
  }
  return fmt::format(
      "memory_gb: {:.2f} is not enough: streamed{} this run needs about {:.2f} GB", r.budget / 1e9,
      r.by_layer() ? ", the whole step at once," : " one micro-batch at a time", least / 1e9);
}

// What is on the disk in the end, and how much of that is new.
void plan_disk(const Request& r, const MemoryEstimate& estimate, Plan& plan) {
  const bool in_file = !plan.execution.file.empty();
  const double store = in_file ? double(StateFile::planned_bytes(
                                     estimate.layout(), 2 * estimate.layout().update_buffers()))
                               : 0;
  if (in_file) plan.state_gb = store / 1e9;
  plan.disk_gb = plan.most_disk_gb = store / 1e9;
  plan.free_gb = double(r.free(r.out_dir)) / 1e9;
  if (!r.size.training) return;
  double weights = 0, others = 0;
  for (const LayerSpec& spec : r.specs) {
    for (const ParamSpec& param : spec.params) {
      const bool rounded = param.is_matrix() && plan.execution.form.compact;
      weights += double(param.count()) * (rounded ? 2 : 4);
      if (in_file && !r.size.checkpoint_moments) continue;
      for (const Array kept : {Array::kExpAvg, Array::kExpAvgSq})
        others += 4 * double(plan.execution.form.kept_count(param, kept));
    }
  }
  plan.snapshot_gb = (weights + others) / 1e9;
  const auto steps = double(r.size.num_steps);
  const double by_steps =
      r.size.checkpoint_steps > 0 ? std::ceil(steps / double(r.size.checkpoint_steps)) : 1;
  const double by_time = r.size.checkpoint_minutes > 0
                             ? std::floor(steps * plan.step_s / 60 / r.size.checkpoint_minutes)
                             : 0;
  const double saves = std::max(by_steps, by_time);
  const double keep = r.size.keep_checkpoints > 0 ? double(r.size.keep_checkpoints) : saves;
  plan.snapshots = int64_t(std::min(saves, keep));
  plan.disk_gb += double(plan.snapshots) * plan.snapshot_gb;
  plan.most_disk_gb = plan.disk_gb + (saves > keep ? plan.snapshot_gb : 0);
  plan.all_write_gb = steps * plan.write_gb + saves * plan.snapshot_gb + store / 1e9;
  plan.freed_gb = double(used_bytes(r.out_dir)) / 1e9;
  const bool elsewhere = in_file && plan.execution.file.parent_path() != r.out_dir;
  if (elsewhere) plan.freed_gb += double(used_bytes(plan.execution.file)) / 1e9;
  // What is taken over goes when the new file is whole.
  const Path store_path = store_file(r.rules.store, r.out_dir, r.shard);
  const Path older = StateFile::place_of_older(store_path);
  if (r.existing && r.existing->is_old())
    plan.freed_gb -= double(used_bytes(std::filesystem::exists(older) ? older : store_path)) / 1e9;
}

std::string disk_refusal(const Request& r, const Plan& plan) {
  const bool in_file = !plan.execution.file.empty();
  const bool one_disk = !in_file || disk_name(plan.execution.file) == disk_name(r.out_dir);
  const double store_gb = in_file ? plan.state_gb : 0;
  const auto refuse = [](const Path& where, double needed_gb, const std::string& what,
                         double left_gb) {
    return fmt::format("disk: this run needs {:.1f} GB more at {} ({}), but {:.1f} GB are free",
                       needed_gb, where.string(), what, left_gb);
  };
  const std::string snapshots = fmt::format("checkpoints of {:.1f} GB", plan.snapshot_gb);
  if (one_disk) {
    const double needed_gb = plan.most_disk_gb - plan.freed_gb;
    const std::string store = fmt::format("{:.1f} GB of state", store_gb);
    const std::string what = !in_file          ? snapshots
                             : r.size.training ? store + " and " + snapshots
                                               : store;
    return needed_gb > plan.free_gb ? refuse(r.out_dir, needed_gb, what, plan.free_gb) : "";
  }
  const double store_free_gb =
      double(r.free(plan.execution.file) + used_bytes(plan.execution.file)) / 1e9;
  if (store_gb > store_free_gb) {
    return refuse(plan.execution.file, store_gb, "the state", store_free_gb);
  }
  const double needed_gb = plan.most_disk_gb - store_gb - double(used_bytes(r.out_dir)) / 1e9;
  return needed_gb > plan.free_gb ? refuse(r.out_dir, needed_gb, snapshots, plan.free_gb) : "";
}

Plan attempt(const Request& r) {
  const bool ram = r.rules.store == "memory" || (r.rules.store == "auto" && !r.existing);
  const bool file = r.rules.store != "memory";
  Choice choice = ram ? choose_ram(r) : choose_file(r);
  if (ram && file && !choice.fits) choice = choose_file(r);
  Plan& plan = choice.plan;
  if (!choice.fits) plan.refusal = memory_refusal(r, choice.least);
  if (!r.size.training && !plan.execution.file.empty()) {
    plan.execution.file = r.out_dir / fmt::format(".scratch-{}.store", ::getpid());
  }
  const MemoryEstimate estimate(r.specs, plan.execution.form, r.size, r.shard);
  StepTraffic traffic;
  if (r.size.training && !plan.execution.file.empty()) {
    const int64_t all = r.size.micro_batches();
    traffic = step_traffic(
        estimate.layout(), (all + plan.execution.window - 1) / plan.execution.window,
        plan.execution.recompute, plan.cache_bytes / estimate.layout().most_slot_bytes());
  }
  plan.read_gb = traffic.read / 1e9;
  plan.write_gb = traffic.write / 1e9;
  plan.network_gbit = r.size.network_gbit;
  const Path where = plan.execution.file.empty() ? r.out_dir : plan.execution.file;
  const DiskRates disk = r.machine.disk_of(where);
  forecast_step(estimate, r.size, traffic, r.machine, disk, plan);
  for (int64_t n = 2; r.size.systems == 1 && n <= 1024 && n <= r.size.batch_size; n *= 4) {
    RunSize many = r.size;
    many.systems = n;
    many.micro_batch_size = std::min(many.micro_batch_size, many.batch_size / n);
    const MemoryEstimate each = many.micro_batch_size == r.size.micro_batch_size
                                    ? estimate
                                    : MemoryEstimate(r.specs, plan.execution.form, many, r.shard);
    Plan shared = plan;
    forecast_step(each, many, shared_traffic(traffic, many, plan.execution.window), r.machine, disk,
                  shared);
    plan.on_systems.emplace_back(n, shared.step_s);
  }
  plan_disk(r, estimate, plan);
  if (plan.refusal.empty()) plan.refusal = disk_refusal(r, plan);
  return plan;
}

// Changes of the config, each by itself, with which the run would fit.
std::string what_fits(const Request& r) {
  std::vector<std::string> changes;
  const auto offer = [&](const std::string& text, const auto& change) {
    Request other = r;
    change(other);
    if (attempt(other).refusal.empty()) changes.push_back(text);
  };
  const bool may_be_compact = r.size.training && r.precision == Precision::kBf16 && !r.existing &&
                              r.size.optimizer->whole == ops::Whole::kNone;
  if (may_be_compact && r.rules.state == "full") {
    offer("state: compact", [](Request& o) { o.rules.state = "compact"; });
  }
  if (r.size.training && r.size.keep_checkpoints != 1) {
    offer("keep_checkpoints: 1", [](Request& o) { o.size.keep_checkpoints = 1; });
  }
  if (r.size.micro_batch_size > 1) {
    offer("micro_batch_size: 1", [](Request& o) { o.size.micro_batch_size = 1; });
  }
  if (r.rules.recompute == "off") {
    offer("recompute: auto", [](Request& o) { o.rules.recompute = "auto"; });
  }
  if (r.by_layer() && r.size.batch_size > 1) {
    offer("batch_size: 1", [](Request& o) { o.size.batch_size = o.size.micro_batch_size = 1; });
  }
  return changes.empty() ? "" : fmt::format("; what would fit: {}", fmt::join(changes, ", or "));
}

void check_rules(const Request& r) {
  if (!r.size.training) return;
  if (r.rules.state == "compact" && r.precision != Precision::kBf16) {
    fail("state: compact keeps weights in bf16; it needs precision: bf16");
  }
  if (r.rules.state == "compact" && r.size.optimizer->whole != ops::Whole::kNone) {
    fail(
        "state: compact codes what is kept in 8 bits, block by block as it is updated; optimizer: "
        "{} needs whole matrices at once, so it needs state: full",
        r.size.optimizer->name);
  }
  const Path file = store_file(r.rules.store, r.out_dir, r.shard);
  if (StateFile::is_foreign(file)) {
    fail("store: {} exists and is not a gigaGPT store; choose another path", file.string());
  }
  if (!r.existing) return;
  if (r.rules.store == "memory") {
    fail("store: the state of this run is in {}, not in memory", file.string());
  }
  if ((r.existing->gradient == GradientForm::kNone) != r.by_layer()) {
    fail("clip: {} is of a run with clip: {}", file.string(), r.by_layer() ? "global" : "layer");
  }
}

}  // namespace

std::vector<Option> StoreRules::options() {
  return {
      {"store", &store, "of weights and optimizer: auto, memory, or a file's path"},
      {"state", &state, "what is kept of them: 18 bytes a parameter, or 6 to 8 (approximate)",
       one_of({"full", "compact"})},
      {"clip", &clip, "gradients by their global norm, or layer by layer (another algorithm)",
       one_of({"global", "layer"})},
      {"recompute", &recompute, "run layers twice to save RAM", one_of({"auto", "on", "off"})},
      {"memory_gb", &memory_gb, "RAM to use, in 1e9 bytes; null: most of what is free", above(0)},
  };
}

std::vector<Option> ScaleRules::options() {
  return {
      {"hosts", &hosts, "where systems run: a,b:2 or a file of them; null: all here"},
      {"system_timeout_minutes", &system_timeout_minutes,
       "a system that is silent for so long ends the run", above(0)},
      {"network_gbit", &network_gbit,
       "Gbit/s between systems, for the plan; null: 10, on one machine 30", above(0)},
  };
}

std::vector<Option> SaveRules::options() {
  return {
      {"checkpoint_steps", &checkpoint_steps, "steps between checkpoints; 0: any", at_least(0)},
      {"checkpoint_path", &checkpoint_path, "to continue from; latest: the newest in out_dir"},
      {"load_weights_only", &load_weights_only, "begin a new run with them; auto: on other data",
       one_of({"auto", "true", "false"})},
      {"checkpoint_minutes", &checkpoint_minutes, "the same in minutes; 0: any", at_least(0)},
      {"keep_checkpoints", &keep_checkpoints, "newest checkpoints to keep; 0: all", at_least(0)},
      {"checkpoint_moments", &checkpoint_moments,
       "save the optimizer's moments even if a store holds them"},
  };
}

std::vector<Option> WatchRules::options() {
  return {
      {"on_spike", &on_spike, "a loss far above those before it: say so, skip its batch, or rewind",
       one_of({"warn", "skip", "rewind"})},
      {"spike_threshold", &spike_threshold,
       "standard deviations above what is expected that are a spike", above(0)},
      {"keep_best", &keep_best, "save and keep the best checkpoint by val_loss: out_dir/best"},
      {"early_stopping", &early_stopping,
       "end after so many evaluations without a better val_loss; 0: never", at_least(0)},
      {"law", &law, "file of `law fit`, whose curve the run is held against; null: none"},
  };
}

Path store_file(const std::string& store, const Path& out_dir, const Shard& shard) {
  const Path file = store == "auto" || store == "memory" ? out_dir / "model.store" : Path(store);
  if (shard.systems == 1) return file;
  const std::string name = fmt::format("{}.{}-of-{}{}", file.stem().string(), shard.rank,
                                       shard.systems, file.extension().string());
  return file.parent_path() / name;
}

Precision precision_for(const std::string& wanted, bool compact, bool native_bf16) {
  const bool bf16 = wanted == "bf16" || (wanted == "auto" && (compact || native_bf16));
  return bf16 ? Precision::kBf16 : Precision::kFp32;
}

std::string Plan::note() const {
  const std::string twice = execution.recompute ? ", layers run again in the backward pass" : "";
  if (execution.file.empty()) return fmt::format("in RAM: about {:.1f} GB{}", peak_gb, twice);
  return fmt::format("streaming {:.1f} GB of state from {} through {:.1f} GB of RAM{}", state_gb,
                     execution.file.string(), peak_gb, twice);
}

Plan make_plan(const std::vector<LayerSpec>& specs, Precision precision, const RunSize& size,
               const StoreRules& rules, const Path& out_dir, const Machine& machine, int rank,
               const FreeBytes& free) {
  const Shard shard = size.training ? Shard{rank, int(size.systems)} : Shard{};
  Request request{specs, precision, size, rules, out_dir, machine, free, shard, std::nullopt, 0};
  if (size.training)
    request.existing = StateFile::peek_or_older(store_file(rules.store, out_dir, shard));
  request.budget = 1e9 * rules.memory_gb.value_or(0.9 * available_memory_gb());
  check_rules(request);
  Plan plan = attempt(request);
  if (!plan.refusal.empty()) plan.refusal += what_fits(request);
  return plan;
}

}  // namespace gigagpt::engine
