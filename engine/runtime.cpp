#include "engine/runtime.h"

#include "engine/file_storage.h"
#include "engine/memory_storage.h"
#include "ops/page_allocator.h"

namespace gigagpt::engine {
namespace {

// The file of a model that is not trained is scratch: its name is gone once it is open.
std::unique_ptr<Storage> open_storage(const std::vector<LayerSpec>& specs, Precision precision,
                                      const RunSize& size, const MemoryPlan& plan, bool reopen) {
  if (plan.file.empty()) {
    return std::make_unique<MemoryStorage>(specs, precision, size.training);
  }
  const auto mode = reopen ? FileStorage::Mode::kOpen : FileStorage::Mode::kCreate;
  if (plan.file.has_parent_path()) std::filesystem::create_directories(plan.file.parent_path());
  StreamOptions options;
  options.memory_bytes = plan.layer_bytes;
  options.cache_bytes = plan.cache_bytes;
  options.step_tokens = size.step_tokens();
  auto storage =
      std::make_unique<FileStorage>(specs, precision, size.training, plan.file, mode, options);
  if (!size.training) std::filesystem::remove(plan.file);
  return storage;
}

}  // namespace

Runtime::Runtime(Model model_, std::vector<formats::StoredTensor> layout_,
                 const std::string& precision, const RunSize& size, const MemoryRules& rules,
                 bool reopen)
    : model(std::move(model_)),
      layout(std::move(layout_)),
      plan(plan_memory(specs_of(model), choose_precision(precision), size, rules)),
      store(open_storage(specs_of(model), choose_precision(precision), size, plan, reopen)),
      executor(model, store, {plan.window, plan.recompute}) {
  ops::limit_pages(plan.activation_bytes);
}

}  // namespace gigagpt::engine
