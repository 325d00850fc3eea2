#include "engine/runtime.h"

#include "base/error.h"
#include "base/system.h"
#include "engine/file_storage.h"
#include "engine/memory_storage.h"
#include "ops/page_allocator.h"

namespace gigagpt::engine {
namespace {

// The file of a model that is not trained is scratch: its name is gone once it is open.
std::unique_ptr<Storage> open_storage(const std::vector<LayerSpec>& specs, const RunSize& size,
                                      const Plan& plan, bool reopen) {
  if (!plan.refusal.empty()) fail("{}", plan.refusal);
  const auto& [file, form, window, recompute] = plan.way;
  if (file.empty()) return std::make_unique<MemoryStorage>(specs, form);
  const auto mode = reopen ? FileStorage::Mode::kOpen : FileStorage::Mode::kCreate;
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
  StreamOptions options;
  options.memory_bytes = plan.layer_bytes;
  options.cache_bytes = plan.cache_bytes;
  options.step_tokens = size.step_tokens();
  auto storage = std::make_unique<FileStorage>(specs, form, file, mode, options);
  if (!size.training) std::filesystem::remove(file);
  return storage;
}

}  // namespace

Runtime::Runtime(Model model_, std::vector<formats::StoredTensor> layout_,
                 const std::string& wanted, const RunSize& size_, const StoreRules& rules,
                 const Path& out_dir, const Machine& machine, bool reopen)
    : size(size_),
      model(std::move(model_)),
      layout(std::move(layout_)),
      plan(make_plan(specs_of(model),
                     choose_precision(wanted, size.training && rules.state == "compact"), size,
                     rules, out_dir, machine)),
      store(open_storage(specs_of(model), size, plan, reopen)),
      executor(model, store, {plan.way.window, plan.way.recompute}),
      peak_flops(machine.flops(store.precision())) {
  ops::limit_pages(plan.activation_bytes);
}

std::optional<formats::StepMetrics> Runtime::run_step(std::span<const MicroBatch> batches,
                                                      uint64_t key, const OptimizerStep& step,
                                                      const Progress& progress) {
  const Stopwatch watch;
  const auto result = engine::run_step(executor, store, batches, key, step, progress);
  if (!result) return std::nullopt;
  const double seconds = watch.seconds();
  const double tokens_per_s = double(size.step_tokens()) / seconds;
  const double flops_per_s = tokens_per_s * size.flops_per_token;
  return formats::StepMetrics{.step = step.step,
                              .tokens = step.step * size.step_tokens(),
                              .loss = result->loss,
                              .grad_norm = result->grad_norm,
                              .lr = step.lr,
                              .tokens_per_s = tokens_per_s,
                              .mfu = peak_flops > 0 ? flops_per_s / peak_flops : 0,
                              .step_ms = seconds * 1e3,
                              .rss_gb = peak_rss_gb(),
                              .io = store.io_since_last_asked()};
}

}  // namespace gigagpt::engine
