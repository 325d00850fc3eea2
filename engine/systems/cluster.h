// The systems that train together, as one of them sees it: a thread of its own that keeps messages
// moving while others compute, and the few things that all of them do at once. Without LibTorch.
#pragma once

#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mutex.h"
#include "engine/systems/wire.h"

namespace gigagpt::engine {

// An Error that all systems have met, with the same text on each.
class AgreedError : public Error {
 public:
  using Error::Error;
};

class Cluster {
 public:
  using Done = std::function<void()>;
  // Told on one of the systems, once, why all of them end; must end the process.
  using Ender = std::function<void(const std::string& message)>;

  Cluster() = default;  // one system, which never sends anything
  // Joins the others. A system that is owed something and hears nothing for `timeout_s` ends all.
  // Throws Error.
  Cluster(const WireMaker& make, double timeout_s, Ender ender);
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;
  ~Cluster();  // waits for the others to come as far
  static Cluster& alone();

  int rank() const { return rank_; }
  int systems() const { return systems_; }
  bool is_alone() const { return systems_ == 1; }
  bool leads() const { return rank_ == 0; }           // the one that writes, and talks
  int systems_here() const { return systems_here_; }  // that share this machine
  // "system 1 of 2 on host b"
  std::string name_of(int rank) const;

  // Messages; any thread may ask. Their memory is lent until `done` is called, on the cluster's
  // thread, which must not be held up. Tags are below kTags; those of one are received in order.
  static constexpr int kTags = 1 << 29;
  void send(int to, int tag, std::span<const std::byte> bytes, Done done);
  void receive(int from, int tag, std::span<std::byte> bytes, Done done);
  // Has something done on the cluster's thread.
  void post(Done work);
  uint64_t sent_bytes() const;  // so far, by send()

  // What follows waits; all systems do it in the same order, each from one thread.
  // Everybody's text, by rank.
  std::vector<std::string> gather_texts(std::string_view mine);
  template <class T>
  std::vector<T> gather(const T& mine);
  // What each system has for each, by rank: `mine` for the others, and what they have for this one.
  std::vector<std::vector<std::byte>> swap(const std::vector<std::vector<std::byte>>& mine);
  double sum(double mine);  // in the order of ranks
  std::vector<double> sums(std::span<const double> mine);
  bool any(bool mine);
  // From the leader to all.
  void broadcast(std::span<std::byte> bytes);
  // From one system to the leader.
  void bring(int from, std::span<std::byte> bytes);
  // Does something on each; if it throws Error anywhere, throws AgreedError everywhere.
  template <class Work>
  auto together(const Work& work);

  // Does something that others wait for in the middle: an error ends all systems at once, before
  // what messages go to is gone. Alone it is thrown on.
  template <class Work>
  void guard(const Work& work);
  // Ends all systems with one message, for an error that ends this one; within its catch block. A
  // system that is alone throws it on.
  [[noreturn]] void end(const std::exception& error);

 private:
  struct Message {
    bool out = false;
    int peer = 0, tag = 0;
    std::span<std::byte> bytes;
    Done done;
    double silent_s = 0;  // for so long nothing has come of it
  };
  // Messages to one system, or from it: a few are under way at once.
  struct Lane {
    std::deque<Message> waiting;
    size_t under_way = 0;
  };

  void run(const WireMaker& make);
  bool do_work() EXCLUDES(mutex_);
  bool start_messages() EXCLUDES(mutex_) REQUIRES(thread_role_);
  Lane& lane_of(const Message& message) REQUIRES(thread_role_) {
    return lanes_[2 * size_t(message.peer) + (message.out ? 1 : 0)];
  }
  bool poll() EXCLUDES(mutex_) REQUIRES(thread_role_);
  void watch(double elapsed_s) REQUIRES(thread_role_);
  void pause(bool busy, int& idle_rounds) EXCLUDES(mutex_);
  void listen_for_ends() REQUIRES(thread_role_);
  void begin(Message message) EXCLUDES(mutex_);
  void exchange(std::span<const std::pair<int, std::span<const std::byte>>> out,
                std::span<const std::pair<int, std::span<std::byte>>> in);
  void agree_on_failure(const std::string& mine);
  [[noreturn]] void end(int subject, const std::string& message, bool common);
  void heard_end(const std::byte* note);

  int rank_ = 0, systems_ = 1, systems_here_ = 1;
  std::vector<std::string> hosts_ = {""};
  double timeout_s_ = 0;
  Ender ender_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Message> asked_for_ GUARDED_BY(mutex_);  // not started
  std::deque<Done> work_ GUARDED_BY(mutex_);
  uint64_t sent_bytes_ GUARDED_BY(mutex_) = 0;
  bool joined_ GUARDED_BY(mutex_) = false, stopping_ GUARDED_BY(mutex_) = false;
  std::exception_ptr error_ GUARDED_BY(mutex_);

  ThreadRole thread_role_;  // of the cluster's thread, whose own the following is
  std::unique_ptr<Wire> wire_ GUARDED_BY(thread_role_);
  std::vector<Lane> lanes_ GUARDED_BY(thread_role_);  // two for each system
  std::map<uint64_t, Message> under_way_ GUARDED_BY(thread_role_);
  uint64_t next_id_ GUARDED_BY(thread_role_) = 1;
  std::vector<uint64_t> complete_ GUARDED_BY(thread_role_);
  // From each system, when it ends.
  std::vector<std::vector<std::byte>> notes_ GUARDED_BY(thread_role_);

  std::thread thread_;
};

template <class T>
std::vector<T> Cluster::gather(const T& mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all(static_cast<size_t>(systems_), mine);
  std::vector<std::pair<int, std::span<const std::byte>>> out;
  std::vector<std::pair<int, std::span<std::byte>>> in;
  for (int peer = 0; peer < systems_; ++peer) {
    if (peer == rank_) continue;
    out.emplace_back(peer, std::as_bytes(std::span(&mine, 1)));
    in.emplace_back(peer, std::as_writable_bytes(std::span(&all[size_t(peer)], 1)));
  }
  exchange(out, in);
  return all;
}

template <class Work>
void Cluster::guard(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    end(error);
  }
}

template <class Work>
auto Cluster::together(const Work& work) {
  using Result = decltype(work());
  std::string failure;
  if constexpr (std::is_void_v<Result>) {
    try {
      work();
    } catch (const Error& error) {
      failure = error.what();
    }
    agree_on_failure(failure);
  } else {
    std::optional<Result> result;
    try {
      result.emplace(work());
    } catch (const Error& error) {
      failure = error.what();
    }
    agree_on_failure(failure);
    return std::move(*result);
  }
}

}  // namespace gigagpt::engine
