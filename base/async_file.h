// A file whose reads and writes run behind the caller's back, past the page cache where the file
// system allows it (O_DIRECT). Offsets, lengths and addresses are multiples of kBlockBytes.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "base/file.h"

namespace gigagpt {

constexpr size_t kBlockBytes = 4096;

// One stretch of the file and the memory it is read into or written from: the second piece, if any,
// goes on where the first ends.
struct Transfer {
  bool write = false;
  uint64_t offset_bytes = 0;
  std::array<std::span<std::byte>, 2> memory = {};

  size_t size_bytes() const { return memory[0].size() + memory[1].size(); }
};

// How transfers reach the kernel. A transfer may end short. Only wake() may be called from a second
// thread.
class TransferEngine {
 public:
  struct Result {
    uint64_t id = 0;
    int64_t bytes = 0;  // or -errno
  };
  virtual ~TransferEngine() = default;
  virtual void start(uint64_t id, const Transfer& transfer) = 0;
  virtual void start_sync(uint64_t id) = 0;  // fdatasync
  virtual std::optional<Result> wait() = 0;  // nothing after a wake()
  virtual void wake() = 0;
};

// What the threaded engine asks of the system; tests put faults in between.
struct FileCalls {
  std::function<ssize_t(int, const iovec*, int, off_t)> read = ::preadv;
  std::function<ssize_t(int, const iovec*, int, off_t)> write = ::pwritev;
  std::function<int(int)> sync = {};  // fdatasync if empty
};

std::unique_ptr<TransferEngine> make_threaded_engine(int fd, FileCalls calls = {});
// Null where the kernel refuses io_uring.
std::unique_ptr<TransferEngine> make_uring_engine(int fd);

// How to open a file; tests choose the engine.
using EngineMaker = std::function<std::unique_ptr<TransferEngine>(int fd)>;

// Use from one thread, but for wake().
class AsyncFile {
 public:
  enum class Mode { kCreate, kOpen, kRead };
  // Creating truncates. The file is locked: a second process (or object) cannot open it, unless
  // both only read. Throws Error naming the file. The default engine is io_uring, else threads.
  AsyncFile(const Path& path, Mode mode, const EngineMaker& engine = {});
  AsyncFile(const AsyncFile&) = delete;
  AsyncFile& operator=(const AsyncFile&) = delete;
  ~AsyncFile();  // waits for what is under way

  // Reserves the file's full size on the disk, so that later writes cannot run out of it.
  void reserve(uint64_t size_bytes);
  uint64_t size_bytes() const;

  // The id comes back from wait(); ids under way at once must differ.
  void start(uint64_t id, const Transfer& transfer);
  void start_sync(uint64_t id);
  // The id of something that is complete; nothing after a wake(). Throws Error naming the file and
  // offset if it failed.
  std::optional<uint64_t> wait();
  void wake() { engine_->wake(); }
  size_t under_way() const { return transfers_.size(); }

  // The same at once. Nothing else may be under way.
  void run(const Transfer& transfer);
  void sync();

  const Path& path() const { return path_; }
  uint64_t read_bytes() const { return read_bytes_; }
  uint64_t written_bytes() const { return written_bytes_; }

 private:
  Path path_;
  int fd_ = -1;
  std::unique_ptr<TransferEngine> engine_;
  struct UnderWay {
    Transfer left;  // what is left of it
    bool sync = false;
    int vain_tries = 0;  // since the last block that was moved
  };
  void begin(uint64_t id, const UnderWay& what);
  [[noreturn]] void fail_transfer(uint64_t id, int64_t result);
  std::map<uint64_t, UnderWay> transfers_;
  uint64_t read_bytes_ = 0, written_bytes_ = 0;
};

// Anonymous memory in whole pages, large ones where the system gives them; zeros at first.
class PageBuffer {
 public:
  PageBuffer() = default;
  explicit PageBuffer(size_t size_bytes);  // rounded up to blocks; throws Error if there is none
  PageBuffer(PageBuffer&& other) noexcept;
  PageBuffer& operator=(PageBuffer&& other) noexcept;
  ~PageBuffer();

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }
  std::span<std::byte> bytes() const { return {data_, size_bytes_}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace gigagpt
