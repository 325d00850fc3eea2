// Transfers behind the caller's back, by both engines and with faults; memory in pages; checksums.
#include "base/async_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <set>
#include <thread>

#include "base/crc32c.h"
#include "base/testing.h"

namespace gigagpt {
namespace {

using Ids = std::multiset<uint64_t>;
using Mode = AsyncFile::Mode;
using Call = ssize_t(int, const iovec*, int, off_t);

constexpr auto kMoment = std::chrono::milliseconds(20);  // until another thread has come to a wait

PageBuffer random_blocks(size_t blocks, unsigned seed) {
  PageBuffer memory(blocks * kBlockBytes);
  std::mt19937 random(seed);
  for (std::byte& byte : memory.bytes()) byte = std::byte(random() & 0xFF);
  return memory;
}

std::span<std::byte> blocks_of(const PageBuffer& memory, size_t first, size_t count) {
  return memory.bytes().subspan(first * kBlockBytes, count * kBlockBytes);
}

bool same(const PageBuffer& a, const PageBuffer& b) {
  return std::ranges::equal(a.bytes(), b.bytes());
}

EngineMaker threads_with(std::function<Call> read, std::function<Call> write = ::pwritev,
                         std::function<int(int)> sync = ::fdatasync) {
  return [=](int fd) { return make_threaded_engine(fd, {read, write, sync}); };
}

// The first `times` calls fail.
template <class Function>
auto failing(int error, int times, Function* call) {
  return [=](auto... arguments) mutable {
    if (times-- <= 0) return call(arguments...);
    errno = error;
    return decltype(call(arguments...)){-1};
  };
}
constexpr int kAlways = 1 << 30;

// Says that it moved up to `most` bytes, but of a block that they end in it moved nothing.
ssize_t at_most(size_t most, Call* call, int fd, const iovec* pieces, int count, off_t offset) {
  std::array<iovec, 2> cut = {};
  size_t whole = most / kBlockBytes * kBlockBytes, wanted = 0;
  for (int i = 0; i < count; ++i) {
    wanted += pieces[i].iov_len;
    cut[i] = {pieces[i].iov_base, std::min(pieces[i].iov_len, whole)};
    whole -= cut[i].iov_len;
  }
  const ssize_t moved = call(fd, cut.data(), count, offset);
  return moved < 0 ? moved : ssize_t(std::min(wanted, most));
}

class AsyncFileTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (uring() && make_uring_engine(-1) == nullptr) GTEST_SKIP() << "the kernel has no io_uring";
  }
  bool uring() const { return std::string_view(GetParam()) == "uring"; }
  EngineMaker engine() const { return uring() ? make_uring_engine : threads_with(::preadv); }
  // For a pipe, which has no offsets.
  EngineMaker pipe_engine() const {
    const auto read = [](int fd, const iovec* pieces, int count, off_t) {
      return ::readv(fd, pieces, count);
    };
    return uring() ? make_uring_engine : threads_with(read);
  }
  // Reading it lasts until something is written to it.
  Path make_pipe() const {
    EXPECT_EQ(::mkfifo((directory_ / "pipe").c_str(), 0600), 0);
    return directory_ / "pipe";
  }

  const TemporaryDirectory directory_;
  const Path path_ = directory_ / "x";
};

INSTANTIATE_TEST_SUITE_P(Engines, AsyncFileTest, testing::Values("uring", "threads"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(AsyncFileTest, ReadsBackWhatItWroteThroughManyWakes) {
  constexpr size_t kTransfers = 200;
  const PageBuffer written = random_blocks(3 * kTransfers, 1);
  const PageBuffer read(written.size_bytes());
  Ids all;
  std::string text;
  for (const bool write : {true, false}) {
    AsyncFile file(path_, write ? Mode::kCreate : Mode::kOpen, engine());
    const std::jthread other([&] {
      for (int i = 0; i < 2000; ++i) file.wake();
    });
    for (size_t i = 0; i < kTransfers; ++i) {
      // Three blocks: in one piece, or in two, of which the first lies behind the second in memory.
      const auto blocks = blocks_of(write ? written : read, 3 * i, 3);
      const size_t cut = i % 3 * kBlockBytes;
      file.start(i, {write, 3 * i * kBlockBytes, {blocks.subspan(cut), blocks.first(cut)}});
      if (!write) continue;
      all.insert(i);
      text += text_of(blocks.subspan(cut)) + text_of(blocks.first(cut));
    }
    Ids ids;
    while (file.under_way() > 0) {
      if (const auto id = file.wait()) ids.insert(*id);
    }
    EXPECT_EQ(ids, all);
    file.sync();
    EXPECT_EQ(write ? file.written_bytes() : file.read_bytes(), written.size_bytes());
  }
  EXPECT_TRUE(same(read, written));
  EXPECT_TRUE(read_text(path_) == text);
}

TEST_P(AsyncFileTest, WakeEndsAWaitButNoTransfer) {
  const Path pipe = make_pipe();
  const PageBuffer content = random_blocks(1, 2), memory(kBlockBytes);
  AsyncFile file(pipe, Mode::kOpen, pipe_engine());
  file.start(7, {false, 0, {memory.bytes()}});
  for (int i = 0; i < 3; ++i) {
    const std::jthread other([&] {
      std::this_thread::sleep_for(kMoment);
      file.wake();
    });
    EXPECT_EQ(file.wait(), std::nullopt);
    EXPECT_EQ(file.under_way(), 1U);
  }
  File::open_append(pipe).write(text_of(content.bytes()));
  EXPECT_EQ(file.wait(), 7U);
  EXPECT_TRUE(same(memory, content));
}

TEST_P(AsyncFileTest, TheEndWaitsForTransfers) {
  const Path pipe = make_pipe();
  const PageBuffer content = random_blocks(1, 3), memory(kBlockBytes);
  auto file = std::make_unique<AsyncFile>(pipe, Mode::kOpen, pipe_engine());
  file->start(1, {false, 0, {memory.bytes()}});
  const File other_reader = File::open_read(pipe);  // or writing without `file` would be a signal
  File writer = File::open_append(pipe);
  const std::jthread other([&] {
    std::this_thread::sleep_for(kMoment);
    writer.write(text_of(content.bytes()));
  });
  file.reset();
  EXPECT_TRUE(same(memory, content));
}

TEST_P(AsyncFileTest, ReservesItsSizeAndSaysWhereItEnds) {
  AsyncFile file(path_, Mode::kCreate, engine());
  file.reserve(2 * kBlockBytes);
  EXPECT_EQ(file.size_bytes(), 2 * kBlockBytes);
  EXPECT_EQ(read_text(path_), std::string(2 * kBlockBytes, '\0'));
  const PageBuffer memory(3 * kBlockBytes);
  EXPECT_ERROR(file.run({false, kBlockBytes, {memory.bytes()}}),
               "cannot read " + path_.string() + " at byte 8192: it ends at byte 8192");
  EXPECT_ERROR(file.run({false, 4 * kBlockBytes, {memory.bytes()}}), "it ends at byte 8192");
  std::filesystem::resize_file(path_, 5000);  // within a block
  EXPECT_ERROR(file.run({false, 0, {memory.bytes()}}), "it ends at byte 5000");
  EXPECT_EQ(file.under_way(), 0U);
  EXPECT_ERROR(AsyncFile(path_, Mode::kCreate, engine()), "is in use by another process");
  EXPECT_EQ(file.size_bytes(), 5000U) << "the second one has not touched it";
}

TEST_P(AsyncFileTest, ManyMayReadButNoneWhileOneWrites) {
  const PageBuffer content = random_blocks(1, 9);
  {
    AsyncFile writer(path_, Mode::kCreate, engine());
    writer.run({true, 0, {content.bytes()}});
    EXPECT_ERROR(AsyncFile(path_, Mode::kRead, engine()), "is in use by another process");
  }
  std::filesystem::permissions(path_, std::filesystem::perms::owner_read);
  AsyncFile reader(path_, Mode::kRead, engine()), second(path_, Mode::kRead, engine());
  EXPECT_ERROR(AsyncFile(path_, Mode::kCreate, engine()), path_.string());
  for (AsyncFile* file : {&reader, &second}) {
    const PageBuffer read(kBlockBytes);
    file->run({false, 0, {read.bytes()}});
    EXPECT_TRUE(std::ranges::equal(read.bytes(), content.bytes()));
    EXPECT_ERROR(file->run({true, 0, {read.bytes()}}), "cannot write " + path_.string());
  }
  EXPECT_ERROR(AsyncFile(path_.string() + "x", Mode::kRead, engine()), "No such file");
}

TEST_P(AsyncFileTest, CreatingTruncates) {
  AsyncFile(path_, Mode::kCreate, engine()).reserve(kBlockBytes);
  EXPECT_EQ(AsyncFile(path_, Mode::kCreate, engine()).size_bytes(), 0U);
}

TEST_P(AsyncFileTest, RefusalsOfTheSystemAreErrors) {
  const Path missing = directory_ / "no" / "file";
  EXPECT_ERROR(AsyncFile(missing, Mode::kCreate, engine()),
               "cannot open " + missing.string() + ": No such file");
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP();
  const PageBuffer memory(kBlockBytes);
  AsyncFile file("/dev/full", Mode::kOpen, engine());
  EXPECT_ERROR(file.run({true, 4096, {memory.bytes()}}),
               "cannot write /dev/full at byte 4096: No space left");
  EXPECT_ERROR(file.sync(), "/dev/full");
  EXPECT_ERROR(file.reserve(4096), "GB for /dev/full: ");
}

TEST(AsyncFileFaults, AnInterruptedSyncIsRepeated) {
  const TemporaryDirectory directory;
  int calls = 0;
  FileCalls faulty;
  faulty.sync = [&](int fd) {
    if (++calls == 3) return ::fdatasync(fd);
    errno = calls == 1 ? EINTR : EAGAIN;
    return -1;
  };
  AsyncFile file(directory.path() / "x", Mode::kCreate,
                 [&](int fd) { return make_threaded_engine(fd, faulty); });
  file.sync();
  EXPECT_EQ(calls, 3);
}

TEST(AsyncFileFaults, ShortTransfersGoOn) {
  const TemporaryDirectory directory;
  const PageBuffer content = random_blocks(8, 4);
  // Ending in the first piece, with it, in the second, and within a block.
  for (const size_t most : {4096, 8192, 12288, 16384, 4097, 8191, 12289, 20000}) {
    size_t calls = 0;
    const auto shortened = [&](Call* call) {
      return [&calls, most, call](auto... arguments) {
        ++calls;
        return at_most(most, call, arguments...);
      };
    };
    AsyncFile file(directory / "x", Mode::kCreate,
                   threads_with(shortened(::preadv), shortened(::pwritev)));
    const PageBuffer memory(content.size_bytes());
    file.run({true, 0, {blocks_of(content, 0, 3), blocks_of(content, 3, 5)}});
    file.run({false, 0, {blocks_of(memory, 0, 3), blocks_of(memory, 3, 5)}});
    EXPECT_EQ(calls, 2 * std::ceil(8.0 / double(most / kBlockBytes))) << most;
    EXPECT_TRUE(read_text(directory / "x") == text_of(content.bytes())) << most;
    EXPECT_TRUE(same(memory, content)) << most;
    EXPECT_EQ(file.written_bytes(), content.size_bytes());
  }
}

TEST(AsyncFileFaults, InterruptedTransfersAreTriedAgain) {
  const TemporaryDirectory directory;
  const PageBuffer content = random_blocks(2, 5), memory(2 * kBlockBytes);
  for (const int error : {EINTR, EAGAIN}) {
    std::ranges::fill(memory.bytes(), std::byte{0});
    AsyncFile file(directory / "x", Mode::kCreate,
                   threads_with(failing(error, 3, ::preadv), failing(error, 3, ::pwritev)));
    file.run({true, 0, {content.bytes()}});
    file.run({false, 0, {memory.bytes()}});
    EXPECT_TRUE(same(memory, content));
  }
}

TEST(AsyncFileFaults, ErrorsNameFileAndOffsetAndLeaveOtherTransfersAlone) {
  const TemporaryDirectory directory;
  const std::string name = (directory / "x").string();
  const PageBuffer memory(8 * kBlockBytes);
  const auto write = [](int fd, const iovec* pieces, int count, off_t offset) -> ssize_t {
    if (offset != 20480) return at_most(kBlockBytes, ::pwritev, fd, pieces, count, offset);
    errno = ENOSPC;
    return -1;
  };
  const auto read = failing(EIO, kAlways, ::preadv);
  AsyncFile file(name, Mode::kCreate,
                 threads_with(read, write, failing(EIO, kAlways, ::fdatasync)));
  EXPECT_ERROR(file.run({false, 8192, {memory.bytes()}}),
               "cannot read " + name + " at byte 8192: Input/output error");
  EXPECT_ERROR(file.run({true, 4096, {memory.bytes()}}),
               "cannot write " + name + " at byte 20480: No space left");
  EXPECT_ERROR(file.sync(), name);
  EXPECT_ERROR(file.sync(), "Input/output error");
  for (size_t i = 0; i < 8; ++i) file.start(i, {true, i * kBlockBytes, {blocks_of(memory, i, 1)}});
  Ids ids;
  int errors = 0;
  while (file.under_way() > 0) {
    const auto wait = [&] { ids.insert(file.wait().value()); };
    errors += bool(throws_error(wait, "cannot write " + name + " at byte 20480: No space left"));
  }
  EXPECT_EQ(errors, 1);
  EXPECT_EQ(ids, (Ids{0, 1, 2, 3, 4, 6, 7}));
}

TEST(PageBuffer, IsZeroedWholePagesAndMoves) {
  for (const auto& [asked, given] : {std::pair{1, 4096}, {4096, 4096}, {4097, 8192}, {0, 0}}) {
    PageBuffer memory{size_t(asked)};
    EXPECT_EQ(memory.size_bytes(), size_t(given));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % kBlockBytes, 0U);
    EXPECT_EQ(std::ranges::count(memory.bytes(), std::byte{0}), given);
    std::ranges::fill(memory.bytes(), std::byte{1});  // what the next one must not show
    const std::byte* data = memory.data();
    PageBuffer moved = std::move(memory);
    EXPECT_EQ(memory.data(), nullptr);
    EXPECT_EQ(memory.size_bytes(), 0U);
    memory = std::move(moved);
    EXPECT_EQ(memory.data(), data);
    EXPECT_EQ(std::ranges::count(memory.bytes(), std::byte{1}), given);
  }
  EXPECT_ERROR(PageBuffer(size_t{1} << 60), "GB of memory: Cannot allocate memory");
}

TEST(Crc32c, EqualsItsDefinition) {
  EXPECT_EQ(crc32c(std::as_bytes(std::span("123456789", 9))), 0xE3069283U);  // as published
  EXPECT_EQ(crc32c({}), 0U);
  const auto bit_by_bit = [](std::span<const std::byte> bytes) {
    uint32_t crc = ~0U;
    for (const std::byte byte : bytes) {
      crc ^= uint32_t(byte);
      for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78U : 0);
    }
    return ~crc;
  };
  const PageBuffer memory = random_blocks(2, 6);
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    const auto bytes = memory.bytes().subspan(random() % 64, 1 + random() % 5000);
    const uint32_t crc = bit_by_bit(bytes);
    ASSERT_EQ(crc32c(bytes), crc) << bytes.size();
    const size_t cut = random() % (bytes.size() + 1);
    ASSERT_EQ(crc32c(bytes.subspan(cut), crc32c(bytes.first(cut))), crc) << "in two pieces";
    bytes[random() % bytes.size()] ^= std::byte(1U << random() % 8);
    ASSERT_NE(crc32c(bytes), crc) << bytes.size();
  }
}

}  // namespace
}  // namespace gigagpt
