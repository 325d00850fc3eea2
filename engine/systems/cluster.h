// The systems that train together, as one of them sees it: a thread of its own that keeps messages
// moving while others compute, and the few things that all of them do at once. Without LibTorch.
#pragma once

#include <deque>
#include <exception>
#include <functional>
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

  Cluster();  // one system, which never sends anything
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
  std::vector<T> gather(const T& mine) {
    return gather_all(std::span(&mine, 1));
  }
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
  struct Message;
  struct Lane;
  // By rank: what each is sent, and where what comes from it goes. What is empty is not sent.
  using Outgoing = std::vector<std::span<const std::byte>>;
  using Incoming = std::vector<std::span<std::byte>>;

  void run(const WireMaker& make);
  bool do_work() EXCLUDES(mutex_);
  bool start_messages() EXCLUDES(mutex_) REQUIRES(thread_role_);
  Lane& lane_of(const Message& message) REQUIRES(thread_role_);
  bool poll() EXCLUDES(mutex_) REQUIRES(thread_role_);
  void watch(double elapsed_s) REQUIRES(thread_role_);
  void pause(bool busy, int& idle_rounds) EXCLUDES(mutex_);
  void listen_for_ends() REQUIRES(thread_role_);
  void begin(Message message) EXCLUDES(mutex_);
  void exchange(Outgoing out, Incoming in);
  // Of all the same number, one system's after the other's.
  template <class T>
  std::vector<T> gather_all(std::span<const T> mine);
  void agree_on_failure(const std::string& mine);
  [[noreturn]] void end(int subject, const std::string& message, bool common);
  void heard_end(const std::byte* note);

  int rank_ = 0, systems_ = 1, systems_here_ = 1;
  std::vector<std::string> hosts_ = {""};
  double timeout_s_ = 0;
  Ender ender_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Message> asked_for_ GUARDED_BY(mutex_);  // not started
  std::deque<Done> work_ GUARDED_BY(mutex_);
  uint64_t sent_bytes_ GUARDED_BY(mutex_) = 0;
  bool joined_ GUARDED_BY(mutex_) = false, stopping_ GUARDED_BY(mutex_) = false;
  std::exception_ptr error_ GUARDED_BY(mutex_);

  ThreadRole thread_role_;  // of the cluster's thread, whose own the following is
  std::unique_ptr<Wire> wire_ GUARDED_BY(thread_role_);
  std::vector<Lane> lanes_ GUARDED_BY(thread_role_);  // two for each system
  std::vector<Message> under_way_ GUARDED_BY(thread_role_);
  uint64_t next_id_ GUARDED_BY(thread_role_) = 1;
  std::vector<uint64_t> complete_ GUARDED_BY(thread_role_);
  // From each system, when it ends.
  std::vector<std::vector<std::byte>> notes_ GUARDED_BY(thread_role_);

  std::thread thread_;
};

template <class T>
std::vector<T> Cluster::gather_all(std::span<const T> mine) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> all;
  for (int rank = 0; rank < systems_; ++rank) all.insert(all.end(), mine.begin(), mine.end());
  Incoming in;
  for (size_t rank = 0; rank < size_t(systems_); ++rank) {
    in.push_back(std::as_writable_bytes(std::span(all).subspan(rank * mine.size(), mine.size())));
  }
  exchange(Outgoing(static_cast<size_t>(systems_), std::as_bytes(mine)), std::move(in));
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
  if constexpr (std::is_void_v<decltype(work())>) {
    together([&] {
      work();
      return true;
    });
  } else {
    std::optional<decltype(work())> result;
    std::string failure;
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
