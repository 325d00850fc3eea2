// A state that streams from a file against one in RAM and against the oracle, whatever the
// segments, windows and memory.
#include <chrono>
#include <fstream>
#include <thread>

#include "engine/run/file_storage_testing.h"

namespace gigagpt::engine {
namespace {

using ops::expect_same_bits;

std::vector<Way> all_ways() {
  const EngineMaker threads = [](int fd) { return make_threaded_engine(fd); };
  std::vector<Way> ways;
  for (const auto& [window, recompute] : std::vector<std::pair<int64_t, bool>>{
           {1, false}, {2, false}, {0, false}, {1, true}, {2, true}, {0, true}}) {
    for (const int64_t segment : {2048, 1 << 20}) {
      for (const auto& [buffers, ahead] :
           std::vector<std::pair<size_t, size_t>>{{1, 1}, {3, 2}, {2, 9}}) {
        for (const uint64_t memory : {uint64_t{1}, ~uint64_t{0}}) {
          const bool uring = (ways.size() + size_t(window)) % 2 == 0;
          ways.push_back({.executor = {window, recompute},
                          .stream = {.segment_elements = segment,
                                     .buffers = buffers,
                                     .ahead = ahead,
                                     .memory_bytes = memory,
                                     .cache_bytes = ways.size() % 3 * 150'000,
                                     .engine = uring ? EngineMaker() : threads}});
        }
      }
    }
  }
  return ways;
}

TEST_F(FileStorageTest, EveryWayOfStreamingEqualsTheOracle) {
  for (const Way& way : all_ways()) {
    SCOPED_TRACE(text_of(way));
    Trainer trainer(way, path_, FileStorage::Mode::kCreate);
    for (int64_t step = 0; step < 3; ++step) {
      const uint64_t key = mix(9, uint64_t(step));
      const auto oracle =
          run_oracle(trainer.model(), copy_values(trainer.store()), make_batches(step), key);
      const Update update{.lr = 0.01, .max_norm = 0.5, .step = step + 1};
      const auto gradients =
          trainer.executor().compute_gradients(make_batches(step), key, update, {});
      EXPECT_EQ(gradients->loss, oracle.loss);
      for (const auto& [name, grad] : oracle.grads) {
        SCOPED_TRACE(name);
        expect_same_bits(tensor_of(trainer.store(), Array::kGradient, name), grad);
      }
      trainer.store().commit(update, gradients->norm);
    }
    ASSERT_NO_FATAL_FAILURE(expect_same(all_state(trainer.store()), resident_after(3, kFull)));
    if (HasFailure()) return;
  }
}

// Updates stay pending from step to step, as nobody looks at values in between.
TEST_F(FileStorageTest, EveryFormHasTheSameBitsInAFileAndInRam) {
  for (Way way : all_ways()) {
    for (const StateForm& form : forms(way.executor.window)) {
      way.form = form;
      SCOPED_TRACE(text_of(way));
      Trainer trainer(way, path_, FileStorage::Mode::kCreate);
      for (int64_t step = 0; step < 4; ++step) trainer.step();
      ASSERT_NO_FATAL_FAILURE(expect_same(all_state(trainer.store()), resident_after(4, form)));
      if (HasFailure()) return;
    }
  }
}

// Also stopped and gone on with, while an update is pending or not.
TEST_F(FileStorageTest, EveryOptimizerHasTheSameBitsInAFileAndInRam) {
  for (const ops::Optimizer* optimizer : ops::optimizers()) {
    for (Way way : all_ways()) {
      const bool plain = way.stream.buffers == 3 && way.stream.segment_elements == 2048;
      if (!plain || way.executor.window == 2 || way.stream.memory_bytes == 1) continue;
      for (StateForm form : forms(way.executor.window)) {
        form.optimizer = optimizer;
        if (form.compact && optimizer->whole != ops::Whole::kNone) continue;
        way.form = form;
        SCOPED_TRACE(text_of(way));
        {
          Trainer trainer(way, path_, FileStorage::Mode::kCreate);
          for (int64_t step = 0; step < 2; ++step) trainer.step();
          if (way.executor.recompute || form.gradient == GradientForm::kNone)
            trainer.store().settle();
        }
        Trainer trainer(way, path_, FileStorage::Mode::kOpen);
        while (trainer.store().step() < 4) trainer.step();  // from step 1 or 2
        ASSERT_NO_FATAL_FAILURE(expect_same(all_state(trainer.store()), resident_after(4, form)));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(FileStorageTest, EvaluationAndDroppedStepsInBetweenChangeNothing) {
  for (const bool recompute : {false, true}) {
    Trainer trainer({.executor = {2, recompute}, .stream = {.segment_elements = 2048}}, path_,
                    FileStorage::Mode::kCreate);
    Trainer resident({.file = false}, "", FileStorage::Mode::kCreate);
    for (int64_t step = 0; step < 4; ++step) {
      for (const int ticks : {1, 4, 9, 17}) {
        int told = 0;
        const auto dropped = trainer.executor().compute_gradients(
            make_batches(5), 1, {}, [&](double) { return ++told < ticks; });
        EXPECT_FALSE(dropped);
        if (ticks != 9) continue;
        EXPECT_EQ(trainer.executor().evaluate(make_batches(6), {}),
                  resident.executor().evaluate(make_batches(6), {}));
        const auto cut_short = [](double share) { return share < 0.5; };
        EXPECT_TRUE(trainer.executor().evaluate(make_batches(6), cut_short).empty());
      }
      EXPECT_EQ(trainer.step(), resident.step());
    }
    ASSERT_NO_FATAL_FAILURE(expect_same(all_state(trainer.store()), resident_after(4, kFull)));
  }
}

// Layers 0 (tied to the last), 1 to 3, and 4, which has no forward visit of its own.
TEST_F(FileStorageTest, ReadsEachLayerOnceAPass) {
  using Counts = std::vector<int64_t>;
  const auto counts_of = [&](Execution options) {
    Trainer trainer({.executor = options, .stream = {.segment_elements = 2048}}, path_,
                    FileStorage::Mode::kCreate);
    trainer.step();
    const Counts before = trainer.file().weight_reads();
    trainer.step();
    Counts counts = trainer.file().weight_reads();
    for (size_t i = 0; i < counts.size(); ++i) counts[i] -= before[i];
    return counts;
  };
  EXPECT_EQ(counts_of({0, false}), (Counts{1, 1, 1, 1, 1}));
  EXPECT_EQ(counts_of({0, true}), (Counts{3, 2, 2, 2, 1})) << "the first is used by the last too";
  EXPECT_EQ(counts_of({2, true}), (Counts{6, 4, 4, 4, 2})) << "two windows";
}

TEST_F(FileStorageTest, MovesTheBytesItShould) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    Trainer trainer({.form = {precision, true}, .executor = {0, false}}, path_,
                    FileStorage::Mode::kCreate);
    trainer.step();
    trainer.store().settle();
    trainer.store().io_since_last_asked();
    trainer.step();
    trainer.store().settle();
    const IoCounts io = trainer.store().io_since_last_asked();
    double elements = 0, working = 0, segments = 0;
    const StateLayout& layout = trainer.file().layout();
    for (size_t i = 0; i < layout.layer_count(); ++i) {
      elements += double(layout.layer(i).size);
      working += double((layout.working_bytes(i) + 4095) / 4096 * 4096);
      segments += double(layout.segment_count(i));
    }
    const double info = 4096 * segments, headers = 2 * 4096;
    const double copy = precision == Precision::kBf16 ? working : 0;
    // The step's weights after settle(), then its gradients; state and gradients for the update.
    EXPECT_EQ(double(io.read_bytes), (working + info) + (16 * elements + 2 * info));
    EXPECT_EQ(double(io.write_bytes),
              (4 * elements + info) + (12 * elements + copy + info) + headers);
  }
}

TEST_F(FileStorageTest, GoesOnFromTheFileWithOrWithoutPendingUpdates) {
  for (const StateForm& form : forms(0)) {
    const Way way{.form = form, .executor = {0}, .stream = {.segment_elements = 2048}};
    for (const bool settled : {false, true}) {
      if (!settled && form.gradient == GradientForm::kNone) continue;
      SCOPED_TRACE(text_of(way));
      for (const int64_t stop : {1, 2, 3}) {
        {
          Trainer trainer(way, path_, FileStorage::Mode::kCreate);
          for (int64_t step = 0; step < stop; ++step) trainer.step();
          trainer.store().settle();
          if (!settled) {
            trainer.step();
            trainer.executor().evaluate({}, {});
            while (StateFile::peek(path_)->step != stop + 1) std::this_thread::yield();
          }
        }
        Trainer trainer(way, path_, FileStorage::Mode::kOpen);
        EXPECT_EQ(trainer.store().step(), settled ? stop : stop + 1);
        while (trainer.store().step() < 5) trainer.step();
        ASSERT_NO_FATAL_FAILURE(expect_same(all_state(trainer.store()), resident_after(5, form)));
      }
    }
  }
}

// Between its first update and settle() such a file is of two steps at once.
TEST_F(FileStorageTest, UpdatesInVisitsAreAllOrNothing) {
  const Way way{.form = {Precision::kBf16, true, true, GradientForm::kNone},
                .executor = {0},
                .stream = {.segment_elements = 2048}};
  {
    Trainer trainer(way, path_, FileStorage::Mode::kCreate);
    trainer.step();
    trainer.store().settle();
  }
  EXPECT_EQ(StateFile::peek(path_)->step, 1);
  {
    Trainer trainer(way, path_, FileStorage::Mode::kOpen);
    // Asking a step to end, once layers have been updated, comes too late.
    int told = 0;
    const auto stop_at = [&](int last) { return [&, last](double) { return ++told < last; }; };
    EXPECT_FALSE(train_step(trainer.executor(), trainer.store(), make_batches(1), mix(9, 1),
                            update_to(2), stop_at(5)));
    told = 0;
    EXPECT_TRUE(train_step(trainer.executor(), trainer.store(), make_batches(1), mix(9, 1),
                           update_to(2), stop_at(20)));
    EXPECT_FALSE(StateFile::peek(path_));
    expect_same(all_state(trainer.store()), resident_after(2, way.form));
    EXPECT_EQ(StateFile::peek(path_)->step, 2);
    trainer.step();
  }
  EXPECT_FALSE(StateFile::peek(path_)) << "not settled";
  EXPECT_ERROR(Trainer(way, path_, FileStorage::Mode::kOpen), "was never completed");
}

TEST_F(FileStorageTest, RefusesFilesThatAreNotItsOwn) {
  const Way way{.stream = {.segment_elements = 2048}};
  EXPECT_ERROR(Trainer(way, path_, FileStorage::Mode::kOpen), "No such file");
  std::ofstream(path_) << std::string(100000, 'x');
  EXPECT_ERROR(Trainer(way, path_, FileStorage::Mode::kOpen), "is not a gigaGPT store");
  EXPECT_FALSE(StateFile::peek(path_));
  { Trainer trainer(way, path_, FileStorage::Mode::kCreate); }
  EXPECT_EQ(StateFile::peek(path_)->step, 0);
  Way other = way;
  other.form.precision = Precision::kBf16;
  EXPECT_ERROR(Trainer(other, path_, FileStorage::Mode::kOpen), "holds another model, precision");
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) - 1);
  EXPECT_ERROR(Trainer(way, path_, FileStorage::Mode::kOpen), "is cut off");
}

// Weights only, for a model that is not trained.
TEST_F(FileStorageTest, HoldsWeightsAloneForInference) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const Model model = make_model();
    StreamOptions options{.segment_elements = 2048};
    Store streamed(std::make_unique<FileStorage>(specs_of(model), StateForm{precision}, path_,
                                                 FileStorage::Mode::kCreate, options));
    Store resident(specs_of(model), StateForm{precision});
    streamed.initialise(kSeed, {});
    resident.initialise(kSeed, {});
    EXPECT_EQ(Executor(model, streamed, {2, true}).evaluate(make_batches(1), {}),
              Executor(model, resident, {}).evaluate(make_batches(1), {}));
    expect_same(copy_values(streamed), copy_values(resident));
  }
}

}  // namespace
}  // namespace gigagpt::engine
