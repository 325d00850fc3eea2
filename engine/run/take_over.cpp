#include "engine/run/take_over.h"

#include <memory>

#include "engine/run/value_counter.h"
#include "engine/storage/file_storage.h"
#include "formats/stored_weights.h"

namespace gigagpt::engine {
namespace {

// What one system kept of a state, to all that keep it now.
void load_file(FileStorage* file, const StateLayout& layout, Store& store, ValueCounter& counter) {
  std::vector<float> values;
  const auto load = [&](const ParamSpec& param, const Segment& part) {
    for (const Array kept : {Array::kMaster, Array::kExpAvg, Array::kExpAvgSq}) {
      // What another optimizer kept in another form is of no use.
      const int64_t count = store.form().kept_count(param, kept);
      if (count == 0 || layout.form().kept_count(param, kept) != count) continue;
      const int64_t here = count == param.count() ? part.count : count;
      formats::in_pieces(here, [&](int64_t first, size_t size) {
        values.resize(size);
        if (file != nullptr) file->read(kept, part.layer, part.begin + first, values);
        store.cluster().broadcast(std::as_writable_bytes(std::span(values)));
        store.storage().write(kept, part.layer, part.begin + first, values);
        counter.add(int64_t(size));
      });
    }
  };
  for (const Segment& segment : layout.segments()) {
    if (layout.is_own(segment)) layout.for_each_parameter(segment, load);
  }
}

std::vector<StateLayout> layouts_of(const ResumePoint& from, Store& store) {
  StateForm form = store.form();
  form.gradient = from.other_gradient;
  const int systems = int(from.other_files.size());
  std::vector<StateLayout> layouts;
  for (int rank = 0; rank < systems; ++rank) {
    // An older version kept all arrays, whatever the optimizer.
    const auto found =
        store.cluster().leads() ? StateFile::peek(from.other_files[size_t(rank)]) : std::nullopt;
    if (store.cluster().any(found && found->is_old())) form.optimizer = &ops::AdamW::kInfo;
    layouts.emplace_back(store.storage().layout().specs(), form, StateLayout::kSegmentElements,
                         Shard{rank, systems});
  }
  return layouts;
}

}  // namespace

void load_files(const ResumePoint& from, Store& store, const Progress& progress) {
  const std::vector<StateLayout> layouts = layouts_of(from, store);
  // Whether all can be read shows before anything is written.
  store.cluster().together([&] {
    for (size_t i = 0; store.cluster().leads() && i < layouts.size(); ++i)
      StateFile::open(from.other_files[i], layouts[i], {});
  });
  ValueCounter counter(store, /*moments=*/true, progress);
  store.storage().begin_writing(from.step);
  for (size_t i = 0; i < layouts.size(); ++i) {
    std::unique_ptr<FileStorage> file;
    store.cluster().together([&] {
      if (!store.cluster().leads()) return;
      StreamOptions options;
      options.direction = &ops::make_direction;
      file = std::make_unique<FileStorage>(layouts[i], from.other_files[i],
                                           FileStorage::Mode::kOpen, options, Cluster::alone());
      if (file->step() == from.other_step + 1) file->take_back_step();
      file->settle();
    });
    load_file(file.get(), layouts[i], store, counter);
  }
  // Only when the new ones are whole on all systems the old ones go.
  store.cluster().together([&] { store.storage().finish_writing(); });
  if (!store.cluster().leads() || store.storage().file_id().empty() || from.keeps_files) return;
  std::error_code ignored;
  for (const Path& file : from.other_files) std::filesystem::remove(file, ignored);
}

}  // namespace gigagpt::engine
