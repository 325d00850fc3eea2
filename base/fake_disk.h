// For tests only: a disk in memory that loses power, refuses calls or sees its process killed, as
// the TransferEngine of an AsyncFile. It keeps what was written across the lives of its users.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <vector>

#include "base/async_file.h"
#include "base/error.h"

namespace gigagpt {

// What is written is at once what is read, but only what was written before a completed sync began
// is durable. Requests end in random order.
class FakeDisk {
 public:
  enum class Fault {
    kNone,
    kPowerLoss,   // the call and all after it fail; lose_power() follows
    kShortWrite,  // the call moves half of its bytes, the next one meets a power loss
    kKill,        // as a power loss, but the disk lives on
    kNoSpace,     // the call fails, those after it do not
    kIoError,
  };

  explicit FakeDisk(uint64_t seed) : random_(seed) {}

  // A new process: its `call`-th write or sync, counted from 0, meets the fault.
  EngineMaker begin(Fault fault, int64_t call) {
    fault_ = fault;
    fault_call_ = call;
    calls_ = 0;
    dead_ = struck_ = woken_ = sized_ = false;
    queue_.clear();
    return [this](int fd) { return std::make_unique<Engine>(*this, fd); };
  }
  bool struck() const { return struck_; }

  // Each block that is not durable survives, vanishes or is torn: it has sectors of before and
  // after.
  void lose_power() {
    const uint64_t survive_percent = std::array{2, 20, 50, 80, 98}[random_() % 5];
    for (const auto& [block, versions] : unsynced_) {
      const auto version = [&, &versions = versions, block = block] {
        const bool survives = random_() % 100 < survive_percent;
        return survives ? versions[random_() % versions.size()].bytes.data() : durable_at(block);
      };
      const bool torn = random_() % 4 == 0;
      Block left;
      const std::byte* from = version();
      for (size_t at = 0; at < kBlockBytes; at += kSectorBytes) {
        if (torn) from = version();
        std::memcpy(left.data() + at, from + at, kSectorBytes);
      }
      std::memcpy(durable_at(block), left.data(), kBlockBytes);
    }
    unsynced_.clear();
    current_ = durable_;
  }

  void erase() {
    current_.clear();
    durable_.clear();
    unsynced_.clear();
  }

  // What a reader finds; what one would find at least after a power loss now.
  std::span<const std::byte> current() const { return current_; }
  std::span<const std::byte> durable() const { return durable_; }

 private:
  static constexpr size_t kSectorBytes = 512;
  using Block = std::array<std::byte, kBlockBytes>;
  struct Version {
    uint64_t order;
    Block bytes;
  };
  struct Request {
    uint64_t id;
    Transfer transfer;
    bool sync;
    uint64_t order;  // of a sync: what was written before it began
  };

  class Engine : public TransferEngine {
   public:
    Engine(FakeDisk& disk, int fd) : disk_(disk), fd_(fd) {}
    void start(uint64_t id, const Transfer& transfer) override {
      disk_.submit(fd_, {id, transfer, false, 0});
    }
    void start_sync(uint64_t id) override { disk_.submit(fd_, {id, {}, true, 0}); }
    std::optional<Result> wait() override { return disk_.wait(); }
    void wake() override {
      const std::lock_guard lock(disk_.mutex_);
      disk_.woken_ = true;
      disk_.changed_.notify_one();
    }

   private:
    FakeDisk& disk_;
    int fd_;
  };

  void submit(int fd, Request request) {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(sized_, true)) {
      struct stat status {};  // its size is all that the file has
      if (::fstat(fd, &status) != 0) fail_errno("fstat");
      current_.resize(size_t(status.st_size));
      durable_.resize(size_t(status.st_size));
    }
    request.order = order_;
    queue_.push_back(request);
    changed_.notify_one();
  }

  std::optional<TransferEngine::Result> wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return woken_ || !queue_.empty(); });
    if (std::exchange(woken_, false)) return std::nullopt;
    std::swap(queue_[random_() % queue_.size()], queue_.back());
    const Request request = queue_.back();
    queue_.pop_back();
    return TransferEngine::Result{request.id, run(request)};
  }

  int64_t run(const Request& request) {
    if (dead_) return -EIO;
    const bool strikes = (request.sync || request.transfer.write) && calls_++ == fault_call_;
    if (!strikes || fault_ == Fault::kNone) return carry_out(request);
    struck_ = true;
    switch (fault_) {
      case Fault::kShortWrite:
        fault_ = Fault::kPowerLoss;
        ++fault_call_;
        if (request.sync) return carry_out(request);
        return write(request.transfer, request.transfer.size_bytes() / 2);
      case Fault::kNoSpace:
      case Fault::kIoError:
        write_partly(request);
        return fault_ == Fault::kNoSpace ? -ENOSPC : -EIO;
      default:
        dead_ = true;
        write_partly(request);
        for (const Request& other : queue_) write_partly(other);
        return -EIO;
    }
  }

  int64_t carry_out(const Request& request) {
    if (request.sync) return sync(request.order), 0;
    if (request.transfer.write) return write(request.transfer, request.transfer.size_bytes());
    uint64_t at = request.transfer.offset_bytes;
    for (const auto piece : request.transfer.memory) {
      if (piece.empty()) continue;
      std::memcpy(piece.data(), current_.data() + at, piece.size());
      at += piece.size();
    }
    return int64_t(request.transfer.size_bytes());
  }

  // The first `bytes`, of which there are whole sectors.
  int64_t write(const Transfer& transfer, size_t bytes) {
    for_blocks(transfer, [&](size_t done, uint64_t offset, const std::byte* from) {
      if (done >= bytes) return;
      std::memcpy(current_.data() + offset, from, std::min(bytes - done, kBlockBytes));
      keep_version(offset);
    });
    return int64_t(bytes);
  }

  // A write that has no end: of any sector the old, the new, or neither where power was lost.
  void write_partly(const Request& request) {
    if (!request.transfer.write) return;
    for_blocks(request.transfer, [&](size_t, uint64_t offset, const std::byte* from) {
      const uint64_t way = random_() % 3;
      if (way == 0) return;
      for (size_t at = 0; at < kBlockBytes; at += kSectorBytes) {
        std::byte* to = current_.data() + offset + at;
        if (way == 1 || random_() % 2 == 0) std::memcpy(to, from + at, kSectorBytes);
        if (way == 1 || fault_ != Fault::kPowerLoss || random_() % 4 != 0) continue;
        const size_t cut = random_() % kSectorBytes >> random_() % 8;
        std::memset(to + cut, int(random_()), kSectorBytes - cut);
      }
      keep_version(offset);
    });
  }

  void sync(uint64_t order) {
    for (auto place = unsynced_.begin(); place != unsynced_.end();) {
      auto& [block, versions] = *place;
      const auto later = std::find_if(versions.begin(), versions.end(),
                                      [&](const Version& v) { return v.order >= order; });
      if (later != versions.begin()) {
        std::memcpy(durable_at(block), std::prev(later)->bytes.data(), kBlockBytes);
        versions.erase(versions.begin(), later);
      }
      place = versions.empty() ? unsynced_.erase(place) : std::next(place);
    }
  }

  template <class Visit>
  static void for_blocks(const Transfer& transfer, Visit visit) {
    size_t done = 0;
    for (const auto piece : transfer.memory) {
      for (size_t at = 0; at < piece.size(); at += kBlockBytes, done += kBlockBytes) {
        visit(done, transfer.offset_bytes + done, piece.data() + at);
      }
    }
  }

  void keep_version(uint64_t offset) {
    Version& version = unsynced_[offset / kBlockBytes].emplace_back();
    version.order = order_++;
    std::memcpy(version.bytes.data(), current_.data() + offset, kBlockBytes);
  }

  std::byte* durable_at(uint64_t block) { return durable_.data() + block * kBlockBytes; }

  std::mt19937_64 random_;
  Fault fault_ = Fault::kNone;
  int64_t fault_call_ = 0, calls_ = 0;
  bool struck_ = false, dead_ = false, sized_ = false;
  uint64_t order_ = 0;  // counts blocks written
  std::vector<std::byte> current_, durable_;
  std::map<uint64_t, std::deque<Version>> unsynced_;  // by block, oldest first

  std::mutex mutex_;  // wake() comes from a second thread
  std::condition_variable changed_;
  std::deque<Request> queue_;
  bool woken_ = false;
};

}  // namespace gigagpt
