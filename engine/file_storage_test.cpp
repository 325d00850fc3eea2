// A state that streams from a file against one in RAM and against the oracle, whatever the
// segments, windows and memory; and what is left of it when the disk fails or lies.
#include "engine/file_storage.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

#include "base/testing.h"
#include "engine/autoencoder.h"
#include "engine/executor.h"
#include "engine/memory_storage.h"
#include "engine/oracle.h"
#include "engine/update.h"
#include "ops/testing.h"

namespace gigagpt::engine {
namespace {

using ops::expect_same_bits;

constexpr int64_t kIn = 96, kHidden = 80;  // layers of two to five segments of 2048
constexpr uint64_t kSeed = 7;

Model make_model() {
  return make_autoencoder(kIn, kHidden, 3);
}

std::vector<MicroBatch> make_batches(int64_t step) {
  at::manual_seed(uint64_t(step));
  std::vector<MicroBatch> batches;
  for (const int64_t rows : {4, 4, 3}) {
    const at::Tensor x = at::randn({rows, kIn});
    batches.push_back({x, x + 1});
  }
  return batches;
}

struct Way {
  bool file = true;
  Precision precision = Precision::kFp32;
  ExecutorOptions executor = {};
  StreamOptions stream = {};
};

std::string text_of(const Way& s) {
  return fmt::format("window {} recompute {} segment {} buffers {} ahead {} memory {} cache {} {}",
                     s.executor.window, s.executor.recompute, s.stream.segment_elements,
                     s.stream.buffers, s.stream.ahead, s.stream.memory_bytes, s.stream.cache_bytes,
                     precision_name(s.precision));
}

// A model that trains on a file in a folder of its own, or in RAM.
class Trainer {
 public:
  Trainer(const Way& way, const Path& path, FileStorage::Mode mode)
      : model_(make_model()),
        store_(storage(way, path, mode)),
        executor_(model_, store_, way.executor) {
    if (mode == FileStorage::Mode::kCreate) store_.initialise(kSeed, {});
  }

  double step() {
    const int64_t step = store_.step();
    const auto loss = executor_.train_step(make_batches(step), mix(9, uint64_t(step)), {});
    apply_gradients(store_, {}, 0.01, 0.5, step + 1);
    return *loss;
  }
  Store& store() { return store_; }
  Executor& executor() { return executor_; }
  const Model& model() const { return model_; }
  FileStorage& file() { return static_cast<FileStorage&>(store_.storage()); }

 private:
  std::unique_ptr<Storage> storage(const Way& way, const Path& path, FileStorage::Mode mode) {
    const auto specs = specs_of(model_);
    if (!way.file) return std::make_unique<MemoryStorage>(specs, way.precision, true);
    StreamOptions options = way.stream;
    options.poison = true;
    return std::make_unique<FileStorage>(specs, way.precision, true, path, mode, options);
  }

  Model model_;
  Store store_;
  Executor executor_;
};

using Values = std::map<std::string, at::Tensor>;

Values all_state(Store& store) {
  Values all;
  for (const auto& [name, _] : copy_values(store)) {
    for (const Kept kept : {Kept::kMaster, Kept::kExpAvg, Kept::kExpAvgSq}) {
      all[name + std::to_string(int(kept))] = tensor_of(store, kept, name);
    }
  }
  return all;
}

void expect_same(const Values& actual, const Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, value] : expected) {
    SCOPED_TRACE(name);
    expect_same_bits(actual.at(name), value);
  }
}

// The state in RAM after some steps, in the plainest way of running them.
const Values& resident_after(int64_t steps, Precision precision) {
  static std::map<std::pair<int64_t, Precision>, Values> known;
  auto& values = known[{steps, precision}];
  if (!values.empty()) return values;
  Trainer trainer({.file = false, .precision = precision}, "", FileStorage::Mode::kCreate);
  for (int64_t i = 0; i < steps; ++i) trainer.step();
  return values = all_state(trainer.store());
}

class FileStorageTest : public testing::Test {
 protected:
  TemporaryDirectory directory_;
  Path path_ = directory_.path() / "model.store";
};

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
      const auto loss = trainer.executor().train_step(make_batches(step), key, {});
      EXPECT_EQ(*loss, oracle.loss);
      for (const auto& [name, grad] : oracle.grads) {
        SCOPED_TRACE(name);
        expect_same_bits(tensor_of(trainer.store(), Kept::kGradient, name), grad);
      }
      apply_gradients(trainer.store(), {}, 0.01, 0.5, step + 1);
    }
    ASSERT_NO_FATAL_FAILURE(
        expect_same(all_state(trainer.store()), resident_after(3, Precision::kFp32)));
    if (HasFailure()) return;
  }
}

// Updates stay pending from step to step, as nobody looks at values in between.
TEST_F(FileStorageTest, DeferredUpdatesGiveTheSameBitsInBothPrecisions) {
  for (Way way : all_ways()) {
    for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
      way.precision = precision;
      SCOPED_TRACE(text_of(way));
      Trainer trainer(way, path_, FileStorage::Mode::kCreate);
      for (int64_t step = 0; step < 4; ++step) trainer.step();
      ASSERT_NO_FATAL_FAILURE(
          expect_same(all_state(trainer.store()), resident_after(4, precision)));
      if (HasFailure()) return;
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
        const auto dropped = trainer.executor().train_step(make_batches(5), 1,
                                                           [&](double) { return ++told < ticks; });
        EXPECT_FALSE(dropped);
        if (ticks != 9) continue;
        EXPECT_EQ(trainer.executor().evaluate(make_batches(6), {}),
                  resident.executor().evaluate(make_batches(6), {}));
        const auto cut_short = [](double share) { return share < 0.5; };
        EXPECT_TRUE(trainer.executor().evaluate(make_batches(6), cut_short).empty());
      }
      EXPECT_EQ(trainer.step(), resident.step());
    }
    ASSERT_NO_FATAL_FAILURE(
        expect_same(all_state(trainer.store()), resident_after(4, Precision::kFp32)));
  }
}

// Layers 0 (tied to the last), 1 to 3, and 4, which has no forward visit of its own.
TEST_F(FileStorageTest, ReadsEachLayerOnceAPass) {
  using Counts = std::vector<int64_t>;
  const auto counts_of = [&](ExecutorOptions options) {
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
    Trainer trainer({.precision = precision, .executor = {0, false}}, path_,
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
  for (const bool settled : {false, true}) {
    for (const int64_t stop : {1, 2, 3}) {
      {
        Trainer trainer({.stream = {.segment_elements = 2048}}, path_, FileStorage::Mode::kCreate);
        for (int64_t step = 0; step < stop; ++step) trainer.step();
        trainer.store().settle();
        if (!settled) {
          trainer.step();
          trainer.executor().evaluate({}, {});
          std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the header gets written
        }
      }
      Trainer trainer({.stream = {.segment_elements = 2048}}, path_, FileStorage::Mode::kOpen);
      EXPECT_EQ(trainer.store().step(), settled ? stop : stop + 1);
      while (trainer.store().step() < 5) trainer.step();
      ASSERT_NO_FATAL_FAILURE(
          expect_same(all_state(trainer.store()), resident_after(5, Precision::kFp32)));
    }
  }
}

TEST_F(FileStorageTest, RefusesFilesThatAreNotItsOwn) {
  const Way way{.stream = {.segment_elements = 2048}};
  EXPECT_ERROR(Trainer(way, path_, FileStorage::Mode::kOpen), "No such file");
  std::ofstream(path_) << std::string(100000, 'x');
  EXPECT_ERROR(Trainer(way, path_, FileStorage::Mode::kOpen), "is no store");
  EXPECT_FALSE(StateFile::peek(path_));
  { Trainer trainer(way, path_, FileStorage::Mode::kCreate); }
  EXPECT_EQ(StateFile::peek(path_)->step, 0);
  Way other = way;
  other.precision = Precision::kBf16;
  EXPECT_ERROR(Trainer(other, path_, FileStorage::Mode::kOpen), "holds another model, precision");
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) - 1);
  EXPECT_ERROR(Trainer(way, path_, FileStorage::Mode::kOpen), "is cut off");
}

void flip_bit(const Path& path, uint64_t byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(std::streamoff(byte));
  const char old = char(file.get());
  file.seekp(std::streamoff(byte));
  file.put(char(old ^ 4));
}

// Of all blocks that hold something at that point: each is found, by its segment or the header.
TEST_F(FileStorageTest, AFlippedBitAnywhereStopsTheRun) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const Way way{.precision = precision, .stream = {.segment_elements = 2048, .buffers = 2}};
    std::vector<uint64_t> places;
    {
      Trainer trainer(way, path_, FileStorage::Mode::kCreate);
      trainer.step();
      trainer.store().settle();
      const StateLayout& layout = trainer.file().layout();
      for (size_t i = 0; i < layout.segments().size(); ++i) {
        const SlotParts parts = layout.slot_parts(layout.segments()[i]);
        for (const uint64_t at : {parts.exp_avg + 5, parts.exp_avg_sq + 4 * 77, parts.master + 3,
                                  parts.info + 20, parts.working + 9}) {
          places.push_back(trainer.file().slot_offset(i) + at);
        }
      }
    }
    const std::string whole = read_text(path_);
    for (const uint64_t place : places) {
      flip_bit(path_, place);
      try {
        Trainer trainer(way, path_, FileStorage::Mode::kOpen);
        trainer.step();
        trainer.step();
        trainer.store().settle();
        ADD_FAILURE() << "nobody noticed byte " << place;
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("segment "), std::string::npos) << error.what();
      }
      std::ofstream(path_, std::ios::binary) << whole;
    }
  }
}

// What a file does from its n-th call of a kind on.
struct Fault {
  enum Kind { kRead, kWrite, kSync } kind;
  int error;     // 0: the call moves half of its bytes and then fails with EIO
  int64_t from;  // counted from 0
};

EngineMaker faulty_engine(const Fault& fault, std::shared_ptr<std::atomic<int64_t>> calls) {
  FileCalls faulty;
  const auto broken = [=](Fault::Kind kind) {
    return kind == fault.kind && (*calls)++ >= fault.from;
  };
  const auto refuse = [=] { return errno = fault.error == 0 ? EIO : fault.error, -1; };
  const auto halve = [=](auto call, int fd, const iovec* memory, off_t offset) {
    const iovec half = {memory->iov_base, memory->iov_len / 2 / kBlockBytes * kBlockBytes};
    if (half.iov_len > 0) call(fd, &half, 1, offset);
  };
  faulty.read = [=](int fd, const iovec* memory, int count, off_t offset) -> ssize_t {
    if (!broken(Fault::kRead)) return ::preadv(fd, memory, count, offset);
    return refuse();
  };
  faulty.write = [=](int fd, const iovec* memory, int count, off_t offset) -> ssize_t {
    if (!broken(Fault::kWrite)) return ::pwritev(fd, memory, count, offset);
    if (fault.error == 0) halve(::pwritev, fd, memory, offset);
    return refuse();
  };
  faulty.sync = [=](int fd) { return broken(Fault::kSync) ? refuse() : ::fdatasync(fd); };
  return [=](int fd) { return make_threaded_engine(fd, faulty); };
}

// The disk fails at every call in turn: one clear error, and the file goes on from the last step
// that was completed, to the same bits.
TEST_F(FileStorageTest, AFailingDiskLeavesTheLastCompletedStep) {
  Way way{.executor = {2, true}, .stream = {.segment_elements = 4096, .buffers = 2}};
  { Trainer trainer(way, path_, FileStorage::Mode::kCreate); }
  const std::string fresh = read_text(path_);
  for (const auto& [kind, error, text] :
       std::vector<std::tuple<Fault::Kind, int, std::string>>{{Fault::kRead, EIO, "cannot read"},
                                                              {Fault::kWrite, EIO, "cannot write"},
                                                              {Fault::kWrite, ENOSPC, "No space"},
                                                              {Fault::kWrite, 0, "cannot write"},
                                                              {Fault::kSync, EIO, "cannot sync"}}) {
    const int64_t stride = kind == Fault::kSync ? 1 : 7;
    for (int64_t from = error % 7, failed = 1; failed; from += stride) {
      SCOPED_TRACE(fmt::format("{} {} from {}", int(kind), error, from));
      std::ofstream(path_, std::ios::binary) << fresh;
      Way faulty = way;
      const auto calls = std::make_shared<std::atomic<int64_t>>(0);
      faulty.stream.engine = faulty_engine({kind, error, from}, calls);
      failed = 0;
      int64_t completed = 0;
      try {
        Trainer trainer(faulty, path_, FileStorage::Mode::kOpen);
        while (completed < 3) {
          trainer.step();
          completed = trainer.store().step();
        }
        trainer.store().settle();
      } catch (const Error& thrown) {
        failed = 1;
        EXPECT_NE(std::string(thrown.what()).find(text), std::string::npos) << thrown.what();
        EXPECT_NE(std::string(thrown.what()).find(path_.string()), std::string::npos);
      }
      Trainer trainer(way, path_, FileStorage::Mode::kOpen);
      // A step is completed when its header is on the disk, a moment after step() returned.
      EXPECT_GE(trainer.store().step(), completed - 1);
      EXPECT_LE(trainer.store().step(), 3);
      while (trainer.store().step() < 4) trainer.step();
      ASSERT_NO_FATAL_FAILURE(
          expect_same(all_state(trainer.store()), resident_after(4, Precision::kFp32)));
      if (HasFailure()) return;
    }
  }
}

// Weights only, for a model that is not trained.
TEST_F(FileStorageTest, HoldsWeightsAloneForInference) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const Model model = make_model();
    StreamOptions options{.segment_elements = 2048};
    Store streamed(std::make_unique<FileStorage>(specs_of(model), precision, /*training=*/false,
                                                 path_, FileStorage::Mode::kCreate, options));
    Store resident(specs_of(model), precision, /*training=*/false);
    streamed.initialise(kSeed, {});
    resident.initialise(kSeed, {});
    EXPECT_EQ(Executor(model, streamed, {2, true}).evaluate(make_batches(1), {}),
              Executor(model, resident, {}).evaluate(make_batches(1), {}));
    expect_same(copy_values(streamed), copy_values(resident));
  }
}

}  // namespace
}  // namespace gigagpt::engine
