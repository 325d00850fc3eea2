// The systems that train together, as one of them sees it: a thread of its own that keeps messages
// moving while others compute, and the few things that all of them do at once. Without LibTorch.
#pragma once

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/systems/wire.h"

namespace gigagpt::engine {

// An Error that all systems have met, with the same text on each.
class CommonError : public Error {
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
  // Does something on each; if it throws Error anywhere, throws CommonError everywhere.
  template <class Work>
  auto together(const Work& work);

  // Does something that others wait for in the middle: an error ends all systems at once, before
  // what messages go to is gone. Alone it is thrown on.
  template <class Work>
  void guard(const Work& work);
  // Ends all systems with one message, for an error that ends this one.
  [[noreturn]] void end(const std::exception& error);

 private:
  struct Request {
    bool out = false;
    int peer = 0, tag = 0;
    std::span<std::byte> bytes;
    Done done;
    double silent_s = 0;  // for so long nothing has come of it
  };
  // Messages to one system, or from it: a few are under way at once.
  struct Lane {
    std::deque<Request> waiting;
    size_t under_way = 0;
  };

  void run(const WireMaker& make);
  bool do_work();
  bool start_requests();
  Lane& lane_of(const Request& request) { return lanes_[size_t(2 * request.peer + request.out)]; }
  bool poll();
  void watch(double elapsed_s);
  void pause(bool busy, int& idle_rounds);
  void listen_for_ends();
  void begin(Request request);
  void exchange(std::span<const std::pair<int, std::span<const std::byte>>> out,
                std::span<const std::pair<int, std::span<std::byte>>> in);
  void agree_on_failure(const std::string& mine);
  [[noreturn]] void end(int subject, const std::string& message, bool common);
  void heard_end(const std::byte* note);

  int rank_ = 0, systems_ = 1, systems_here_ = 1;
  std::vector<std::string> hosts_ = {""};
  double timeout_s_ = 0;
  Ender ender_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Request> requests_;
  std::deque<Done> work_;
  uint64_t sent_bytes_ = 0;
  bool joined_ = false, stopping_ = false;
  std::exception_ptr error_;

  // The thread's own.
  std::unique_ptr<Wire> wire_;
  std::vector<Lane> lanes_;  // two for each system
  std::map<uint64_t, Request> under_way_;
  uint64_t next_id_ = 1;
  std::vector<uint64_t> complete_;
  std::vector<std::vector<std::byte>> notes_;  // from each system, when it ends

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
  if (is_alone()) return work();
  try {
    work();
  } catch (const std::exception& error) {
    end(error);
  }
}

template <class Work>
auto Cluster::together(const Work& work) {
  using Result = decltype(work());
  if (is_alone()) {
    try {
      return work();
    } catch (const Error& error) {
      throw CommonError(error.what());
    }
  }
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
