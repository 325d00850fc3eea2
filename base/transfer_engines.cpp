// The two ways of running transfers in the background: io_uring, and threads that block.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/async_file.h"
#include "base/error.h"

namespace gigagpt {
namespace {

constexpr unsigned kDepth = 256;    // transfers that may be under way
constexpr int kThreads = 8;         // of the threaded engine
constexpr uint64_t kWoken = ~0ULL;  // in place of an id

std::array<iovec, 2> vectors_of(const Transfer& transfer) {
  const auto vector = [](std::span<std::byte> bytes) { return iovec{bytes.data(), bytes.size()}; };
  return {vector(transfer.memory[0]), vector(transfer.memory[1])};
}

int vector_count(const Transfer& transfer) {
  return transfer.memory[1].empty() ? 1 : 2;
}

class UringEngine : public TransferEngine {
 public:
  explicit UringEngine(int fd) : fd_(fd), event_(::eventfd(0, EFD_CLOEXEC)) {
    if (event_ < 0) return;
    usable_ = io_uring_queue_init(kDepth, &ring_, 0) == 0;
    if (usable_) listen();
  }
  ~UringEngine() override {
    if (usable_) io_uring_queue_exit(&ring_);
    if (event_ >= 0) ::close(event_);
  }
  bool usable() const { return usable_; }

  void start(uint64_t id, const Transfer& transfer) override {
    auto& vectors = vectors_[id] = vectors_of(transfer);  // the kernel reads them when it submits
    const unsigned count = unsigned(vector_count(transfer));
    io_uring_sqe* entry = next_entry();
    if (transfer.write)
      io_uring_prep_writev(entry, fd_, vectors.data(), count, transfer.offset_bytes);
    else
      io_uring_prep_readv(entry, fd_, vectors.data(), count, transfer.offset_bytes);
    submit(entry, id);
  }

  void start_sync(uint64_t id) override {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_fsync(entry, fd_, IORING_FSYNC_DATASYNC);
    submit(entry, id);
  }

  std::optional<Result> wait() override {
    io_uring_cqe* completion = nullptr;
    int error = 0;
    do {
      error = io_uring_wait_cqe(&ring_, &completion);
    } while (error == -EINTR);
    check(error);
    const Result result{io_uring_cqe_get_data64(completion), completion->res};
    io_uring_cqe_seen(&ring_, completion);
    if (result.id != kWoken) {
      vectors_.erase(result.id);
      return result;
    }
    listen();
    return std::nullopt;
  }

  void wake() override {
    const uint64_t one = 1;
    const ssize_t written = ::write(event_, &one, sizeof one);
    GIGAGPT_ASSERT(written == sizeof one);
  }

 private:
  // Calls of io_uring return -errno.
  static void check(int result) {
    if (result >= 0) return;
    errno = -result;
    fail_errno("io_uring failed");
  }

  void listen() {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_read(entry, event_, &events_, sizeof events_, 0);
    submit(entry, kWoken);
  }

  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    GIGAGPT_ASSERT(entry != nullptr);  // each is submitted at once
    return entry;
  }

  void submit(io_uring_sqe* entry, uint64_t id) {
    io_uring_sqe_set_data64(entry, id);
    int error = 0;
    do {
      error = io_uring_submit(&ring_);
    } while (error == -EINTR || error == -EAGAIN);
    check(error);
  }

  int fd_;
  int event_;
  io_uring ring_ = {};
  bool usable_ = false;
  uint64_t events_ = 0;  // what a wake() wrote
  std::map<uint64_t, std::array<iovec, 2>> vectors_;
};

class ThreadedEngine : public TransferEngine {
 public:
  ThreadedEngine(int fd, FileCalls calls) : fd_(fd), calls_(std::move(calls)) {
    if (!calls_.sync) calls_.sync = ::fdatasync;
    for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~ThreadedEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void start(uint64_t id, const Transfer& transfer) override { add({id, transfer, false}); }
  void start_sync(uint64_t id) override { add({id, {}, true}); }

  std::optional<Result> wait() override {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return !results_.empty(); });
    const Result result = results_.front();
    results_.pop_front();
    return result.id == kWoken ? std::nullopt : std::optional(result);
  }

  void wake() override { finish({kWoken, 0}); }

 private:
  struct Job {
    uint64_t id;
    Transfer transfer;
    bool sync;
  };

  void add(Job job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(job);
    }
    work_.notify_one();
  }

  void finish(Result result) {
    {
      const std::lock_guard lock(mutex_);
      results_.push_back(result);
    }
    done_.notify_one();
  }

  void work() {
    for (;;) {
      Job job;
      {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        job = jobs_.front();
        jobs_.pop_front();
      }
      finish({job.id, job.sync ? outcome(calls_.sync(fd_)) : outcome(run(job.transfer))});
    }
  }

  ssize_t run(const Transfer& transfer) const {
    const auto vectors = vectors_of(transfer);
    const auto& call = transfer.write ? calls_.write : calls_.read;
    return call(fd_, vectors.data(), vector_count(transfer), off_t(transfer.offset_bytes));
  }

  static int64_t outcome(ssize_t returned) { return returned < 0 ? -errno : returned; }

  int fd_;
  FileCalls calls_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<Job> jobs_;        // guarded by mutex_
  std::deque<Result> results_;  // guarded by mutex_
  bool stopping_ = false;       // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<TransferEngine> make_threaded_engine(int fd, FileCalls calls) {
  return std::make_unique<ThreadedEngine>(fd, std::move(calls));
}

std::unique_ptr<TransferEngine> make_uring_engine(int fd) {
  auto engine = std::make_unique<UringEngine>(fd);
  if (!engine->usable()) return nullptr;
  return engine;
}

}  // namespace gigagpt
