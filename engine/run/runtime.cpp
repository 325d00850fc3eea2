#include "engine/run/runtime.h"

#include <algorithm>

#include "base/error.h"
#include "base/system.h"
#include "engine/run/measure.h"
#include "engine/storage/file_storage.h"
#include "engine/storage/memory_storage.h"
#include "ops/page_allocator.h"

namespace gigagpt::engine {
namespace {

// What the least of all systems has is what each counts with, so that they plan alike.
Plan plan_together(const std::vector<LayerSpec>& specs, const std::string& wanted,
                   const RunSize& size, StoreRules rules, const Path& out_dir,
                   const System& system) {
  Cluster& cluster = system.cluster;
  cluster.together([&] { stored_tensors(specs); });  // whether it can be saved shows now
  const auto memory_gb = cluster.gather(
      rules.memory_gb.value_or(0.9 * available_memory_gb() / cluster.systems_here()));
  rules.memory_gb = *std::min_element(memory_gb.begin(), memory_gb.end());
  const bool compact = size.training && rules.state == "compact";
  return cluster.together([&] {
    return make_plan(specs, choose_precision(wanted, compact), size, rules, out_dir, system.machine,
                     cluster.rank());
  });
}

// Makes way for a new store, which takes over what one of an older version holds; whether there was
// one.
bool put_older_aside(const Path& store) {
  const auto found = StateFile::peek(store);
  if (!found || !found->is_old()) return false;
  const Path aside = StateFile::place_of_older(store);
  std::error_code error;
  std::filesystem::rename(store, aside, error);
  if (error) fail("cannot rename {} to {}: {}", store.string(), aside.string(), error.message());
  sync_parent_directory(store);
  return true;
}

// The file of a model that is not trained is scratch: its name is gone once it is open.
std::unique_ptr<Storage> open_together(const std::vector<LayerSpec>& specs, const RunSize& size,
                                       const Plan& plan, const std::optional<ResumePoint>& from,
                                       Cluster& cluster) {
  const bool reopen = from && from->in_store;
  // A new file is for the run that it goes on with, else for a new one.
  const uint64_t run_id =
      from && from->run_id != 0 ? from->run_id : cluster.gather(draw_run_id())[0];
  auto storage = cluster.together([&]() -> std::unique_ptr<Storage> {
    if (!plan.refusal.empty()) fail("{}", plan.refusal);
    const Path& file = plan.execution.file;
    const StateForm& form = plan.execution.form;
    if (file.empty()) return std::make_unique<MemoryStorage>(specs, form, cluster);
    if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
    const bool takes_over = from && !from->other_files.empty() && !from->keeps_files;
    const bool made_way = takes_over && put_older_aside(file);
    StreamOptions options;
    options.memory_bytes = plan.layer_bytes;
    options.cache_bytes = plan.cache_bytes;
    options.step_tokens = size.step_tokens();
    options.run_id = run_id;
    options.direction = &ops::make_direction;
    const auto mode = reopen ? FileStorage::Mode::kOpen : FileStorage::Mode::kCreate;
    try {
      auto opened = std::make_unique<FileStorage>(specs, form, file, mode, options, cluster);
      if (!size.training) std::filesystem::remove(file);
      return opened;
    } catch (const Error&) {  // for lack of room, say: the older one can still be used where it was
      std::error_code ignored;
      if (made_way) std::filesystem::rename(StateFile::place_of_older(file), file, ignored);
      throw;
    }
  });
  if (reopen) dynamic_cast<FileStorage&>(*storage).meet_at_one_step();
  std::error_code ignored;  // what an interrupted run had taken over, and not removed
  if (reopen) std::filesystem::remove(StateFile::place_of_older(plan.execution.file), ignored);
  return storage;
}

}  // namespace

Runtime::Runtime(Model model_, const std::string& wanted, const RunSize& size_,
                 const StoreRules& rules, const Path& out_dir, const System& system,
                 const std::optional<ResumePoint>& from)
    : size(size_),
      model(std::move(model_)),
      plan(plan_together(specs_of(model), wanted, size, rules, out_dir, system)),
      store(open_together(specs_of(model), size, plan, from, system.cluster)),
      executor(model, store, plan.execution),
      cluster(system.cluster),
      peak_flops(cluster.sum(system.machine.flops(store.precision()))) {
  ops::limit_pages(plan.activation_bytes);
}

formats::StepMetrics Runtime::measure(const Gradients& gradients, const Update& update) {
  const double tokens_per_s = double(size.step_tokens()) / gradients.seconds;
  const double flops_per_s = tokens_per_s * plan.flops_per_token;
  formats::StepMetrics metrics{.step = update.step,
                               .tokens = update.step * size.step_tokens(),
                               .loss = gradients.loss,
                               .grad_norm = gradients.norm,
                               .lr = update.lr,
                               .tokens_per_s = tokens_per_s,
                               .mfu = peak_flops > 0 ? flops_per_s / peak_flops : 0,
                               .step_ms = gradients.seconds * 1e3,
                               .rss_gb = peak_rss_gb(),
                               .io = store.io_since_last_asked(),
                               .added_losses = gradients.added_losses};
  struct Own {
    IoCounts io;
    double rss_gb;
  };
  const auto all = cluster.gather(Own{metrics.io, metrics.rss_gb});
  metrics.io = {};
  for (const auto& [io, rss_gb] : all) {
    metrics.io.read_bytes += io.read_bytes;
    metrics.io.write_bytes += io.write_bytes;
    metrics.io.sent_bytes += io.sent_bytes;
    metrics.io.stall_ms = std::max(metrics.io.stall_ms, io.stall_ms);
    metrics.rss_gb = std::max(metrics.rss_gb, rss_gb);
  }
  return metrics;
}

}  // namespace gigagpt::engine
