// Systems as threads of one process.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"
#include "engine/systems/wire.h"

namespace gigagpt::engine {

// Where messages wait for those that they are for. Thread-safe.
class Mailboxes {
 public:
  using Address = std::tuple<int, int, int>;  // from, to, tag

  void put(const Address& address, std::span<const std::byte> bytes) {
    const MutexLock lock(mutex_);
    waiting_[address].emplace_back(bytes.begin(), bytes.end());
  }
  // False if nothing is there.
  bool take(const Address& address, std::span<std::byte> bytes) {
    const MutexLock lock(mutex_);
    auto& waiting = waiting_[address];
    if (waiting.empty()) return false;
    GIGAGPT_ASSERT(waiting.front().size() == bytes.size());
    std::copy(waiting.front().begin(), waiting.front().end(), bytes.begin());
    waiting.pop_front();
    return true;
  }

 private:
  Mutex mutex_;
  std::map<Address, std::deque<std::vector<std::byte>>> waiting_ GUARDED_BY(mutex_);
};

class MailboxWire : public Wire {
 public:
  MailboxWire(std::shared_ptr<Mailboxes> mailboxes, int rank, int systems)
      : mailboxes_(std::move(mailboxes)), rank_(rank), systems_(systems) {}
  int rank() const override { return rank_; }
  int systems() const override { return systems_; }

  void send(uint64_t id, int to, int tag, std::span<const std::byte> bytes) override {
    mailboxes_->put({rank_, to, tag}, bytes);
    sent_.push_back(id);
  }
  void receive(uint64_t id, int from, int tag, std::span<std::byte> bytes) override {
    wanted_[{from, rank_, tag}].push_back({id, bytes});
  }
  void poll(std::vector<uint64_t>& complete) override {
    complete.insert(complete.end(), sent_.begin(), sent_.end());
    sent_.clear();
    for (auto& [address, wanted] : wanted_) {
      while (!wanted.empty() && mailboxes_->take(address, wanted.front().bytes)) {
        complete.push_back(wanted.front().id);
        wanted.pop_front();
      }
    }
  }

 private:
  struct Wanted {
    uint64_t id;
    std::span<std::byte> bytes;
  };
  std::shared_ptr<Mailboxes> mailboxes_;
  const int rank_, systems_;
  std::vector<uint64_t> sent_;
  std::map<Mailboxes::Address, std::deque<Wanted>> wanted_;
};

}  // namespace gigagpt::engine
