// What is left of a state in a file when the disk fails or lies.
#include <atomic>
#include <fstream>

#include "engine/run/file_storage_testing.h"

namespace gigagpt::engine {
namespace {

using FileStorageFaults = FileStorageTest;

void flip_bit(const Path& path, uint64_t byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(std::streamoff(byte));
  const char old = char(file.get());
  file.seekp(std::streamoff(byte));
  file.put(char(old ^ 4));
}

// Of all blocks that hold something at that point: each is found, by its segment or the header.
TEST_F(FileStorageFaults, AFlippedBitAnywhereStopsTheRun) {
  for (const StateForm& form : forms(0)) {
    const Way way{
        .form = form, .executor = {0}, .stream = {.segment_elements = 2048, .buffers = 2}};
    std::vector<uint64_t> places;
    {
      Trainer trainer(way, path_, FileStorage::Mode::kCreate);
      trainer.step();
      trainer.store().settle();
      const StateLayout& layout = trainer.file().layout();
      for (size_t i = 0; i < layout.segments().size(); ++i) {
        const SlotParts parts = layout.slot_parts(layout.segments()[i]);
        for (const uint64_t at : {parts.exp_avg.at + 5, parts.exp_avg_sq.at + 4 * 77,
                                  parts.master.at + 3, parts.info + 20, parts.working.at + 9}) {
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
TEST_F(FileStorageFaults, AFailingDiskLeavesTheLastCompletedStep) {
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
      ASSERT_NO_FATAL_FAILURE(expect_same(all_state(trainer.store()), resident_after(4, kFull)));
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace gigagpt::engine
