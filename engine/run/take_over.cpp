#include "engine/run/take_over.h"

#include <memory>

#include "engine/storage/file_storage.h"

namespace gigagpt::engine {
namespace {

// What one system kept of a state, to all that keep it now.
void load_file(FileStorage* file, const StateLayout& layout, Store& store, ValueCounter& counter) {
  std::vector<float> values;
  const auto load = [&](const ParamSpec&, const Segment& piece) {
    values.resize(size_t(piece.count));
    for (const Array kept : {Array::kMaster, Array::kExpAvg, Array::kExpAvgSq}) {
      if (!store.form().keeps(kept)) continue;
      if (file != nullptr) file->read(kept, piece.layer, piece.begin, values);
      store.cluster().broadcast(std::as_writable_bytes(std::span(values)));
      store.storage().write(kept, piece.layer, piece.begin, values);
      counter.add(piece.count);
    }
  };
  for (const Segment& segment : layout.segments()) {
    if (layout.is_own(segment)) layout.for_each_parameter(segment, load);
  }
}

}  // namespace

void load_files(const ResumePoint& from, Store& store, const Progress& progress) {
  StateForm form = store.form();
  form.gradient = from.other_gradient;
  const std::vector<LayerSpec>& specs = store.storage().layout().specs();
  ValueCounter counter(store, arrays_of(store), progress);
  store.storage().begin_writing(from.step);
  for (size_t i = 0; i < from.other_files.size(); ++i) {
    const Shard shard{int(i), int(from.other_files.size())};
    // An older version kept all arrays, whatever the optimizer.
    const auto found =
        store.cluster().leads() ? StateFile::peek(from.other_files[i]) : std::nullopt;
    if (store.cluster().any(found && found->is_old())) form.optimizer = &ops::AdamW::kInfo;
    const StateLayout layout(specs, form, StateLayout::kSegmentElements, shard);
    std::unique_ptr<FileStorage> file;
    store.cluster().together([&] {
      if (!store.cluster().leads()) return;
      file = std::make_unique<FileStorage>(layout, from.other_files[i], FileStorage::Mode::kOpen,
                                           StreamOptions(), Cluster::alone());
      if (file->step() == from.other_step + 1) file->take_back_step();
      file->settle();
    });
    load_file(file.get(), layout, store, counter);
  }
  store.storage().finish_writing();
  if (!store.cluster().leads() || store.storage().file_id().empty() || from.keeps_files) return;
  // The state is in the new files now.
  for (const Path& file : from.other_files) std::filesystem::remove(file);
}

}  // namespace gigagpt::engine
