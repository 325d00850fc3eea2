#include "engine/open_storage.h"

#include "engine/file_storage.h"
#include "engine/memory_storage.h"

namespace gigagpt::engine {

std::unique_ptr<Storage> open_storage(const std::vector<LayerSpec>& specs, Precision precision,
                                      const RunSize& size, const MemoryPlan& plan, bool reopen) {
  if (plan.file.empty()) {
    return std::make_unique<MemoryStorage>(specs, precision, size.training);
  }
  const auto mode = reopen ? FileStorage::Mode::kOpen : FileStorage::Mode::kCreate;
  if (!reopen && plan.file.has_parent_path()) {
    std::filesystem::create_directories(plan.file.parent_path());
  }
  StreamOptions options;
  options.memory_bytes = plan.layer_bytes;
  options.step_tokens = size.micro_batch_tokens * size.micro_batches;
  auto storage =
      std::make_unique<FileStorage>(specs, precision, size.training, plan.file, mode, options);
  if (!size.training) std::filesystem::remove(plan.file);
  return storage;
}

}  // namespace gigagpt::engine
