// What a step is said to move beside what it moves.
#include "engine/plan/forecast.h"

#include "engine/run/file_storage_testing.h"

namespace gigagpt::engine {
namespace {

using Forecast = FileStorageTest;

// All that was read and written by a run of so many steps.
IoCounts moved(const Way& way, const Path& path, int64_t steps) {
  Trainer trainer(way, path, FileStorage::Mode::kCreate);
  while (trainer.store().step() < steps) trainer.step();
  trainer.store().settle();
  return trainer.store().io_since_last_asked();
}

// To the byte: what a run of one more step moves more.
TEST_F(Forecast, CountsEveryByteOfAStep) {
  for (const int64_t window : {0, 1, 2}) {
    for (const StateForm& form : forms(window)) {
      for (const bool recompute : {false, true}) {
        for (const size_t cached : {size_t{0}, size_t{3}, size_t{1000}}) {
          const StateLayout layout(specs_of(make_model()), form, 2048);
          const Way way{
              .form = form,
              .executor = {window, recompute},
              .stream = {.segment_elements = 2048, .cache_bytes = cached * layout.slot_bytes()}};
          SCOPED_TRACE(text_of(way));
          const int64_t windows = window == 0 ? 1 : (3 + window - 1) / window;  // 3 micro-batches
          const size_t kept = std::min(cached, layout.segments().size());
          const StepTraffic traffic = step_traffic(layout, windows, recompute, kept);
          const IoCounts less = moved(way, path_, 3), more = moved(way, path_, 4);
          EXPECT_EQ(double(more.read_bytes - less.read_bytes), traffic.read);
          EXPECT_EQ(double(more.write_bytes - less.write_bytes), traffic.write);
          EXPECT_LE(traffic.update, traffic.read + traffic.write);
        }
      }
    }
  }
}

TEST_F(Forecast, FilesAreAsLargeAsPlanned) {
  for (const StateForm& form : forms(0)) {
    const Way way{.form = form, .executor = {0}};
    const Trainer trainer(way, path_, FileStorage::Mode::kCreate);
    const StateLayout layout(specs_of(make_model()), form, StateLayout::kSegmentElements);
    EXPECT_EQ(std::filesystem::file_size(path_),
              StateFile::planned_bytes(layout, 2 * way.stream.buffers));
  }
}

}  // namespace
}  // namespace gigagpt::engine
