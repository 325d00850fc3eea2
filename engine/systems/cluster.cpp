#include "engine/systems/cluster.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/system.h"

namespace gigagpt::engine {
namespace {

constexpr int kTogetherTag = Cluster::kTags;           // what all do at once
constexpr int kEndTag = Cluster::kTags + 1;            // why a system ends
constexpr size_t kNoteBytes = 2048;                    // of that
constexpr size_t kLaneWidth = 32;                      // messages to or from one system at once
constexpr auto kLastWords = std::chrono::seconds(10);  // for the others to end this one

}  // namespace

struct Cluster::Message {
  bool out = false;
  int peer = 0, tag = 0;
  std::span<std::byte> bytes;
  Done done;
  uint64_t id = 0;      // once it is under way
  double silent_s = 0;  // for so long nothing has come of it
};

// Messages to one system, or from it: a few are under way at once.
struct Cluster::Lane {
  std::deque<Message> waiting;
  size_t under_way = 0;
};

Cluster::Cluster() = default;

Cluster::Cluster(const WireMaker& make, double timeout_s, Ender ender)
    : timeout_s_(timeout_s), ender_(std::move(ender)) {
  thread_ = std::thread([this, make] { run(make); });
  std::exception_ptr error;
  {
    const MutexLock lock(mutex_);
    while (!joined_ && !error_) changed_.wait(mutex_);
    error = error_;
  }
  if (error) {
    thread_.join();
    std::rethrow_exception(error);
  }
  // Two machines may have one name, and two containers of a machine two.
  const auto names = gather_texts(host_name());
  const auto machines = gather_texts(host_name() + "/" + boot_id());
  hosts_ = names;
  systems_here_ = int(std::count(machines.begin(), machines.end(), machines[size_t(rank_)]));
}

Cluster::~Cluster() {
  if (!thread_.joinable()) return;
  gather(char{0});
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Cluster& Cluster::alone() {
  static Cluster alone;
  return alone;
}

std::string Cluster::name_of(int rank) const {
  return fmt::format("system {} of {} on host {}", rank, systems_, hosts_[size_t(rank)]);
}

Cluster::Lane& Cluster::lane_of(const Message& message) {
  return lanes_[2 * size_t(message.peer) + (message.out ? 1 : 0)];
}

void Cluster::begin(Message message) {
  {
    const MutexLock lock(mutex_);
    if (message.out) sent_bytes_ += message.bytes.size();
    asked_for_.push_back(std::move(message));
  }
  changed_.notify_all();
}

void Cluster::send(int to, int tag, std::span<const std::byte> bytes, Done done) {
  auto* data = const_cast<std::byte*>(bytes.data());  // only read
  begin({true, to, tag, {data, bytes.size()}, std::move(done)});
}

void Cluster::receive(int from, int tag, std::span<std::byte> bytes, Done done) {
  begin({false, from, tag, bytes, std::move(done)});
}

void Cluster::post(Done work) {
  {
    const MutexLock lock(mutex_);
    work_.push_back(std::move(work));
  }
  changed_.notify_all();
}

uint64_t Cluster::sent_bytes() const {
  const MutexLock lock(mutex_);
  return sent_bytes_;
}

void Cluster::exchange(Outgoing out, Incoming in) {
  out[size_t(rank_)] = {};
  in[size_t(rank_)] = {};
  const auto wanted = [](const auto& bytes) { return !bytes.empty(); };
  auto missing =
      std::count_if(out.begin(), out.end(), wanted) + std::count_if(in.begin(), in.end(), wanted);
  Mutex mutex;
  CondVar arrived;
  const auto done = [&] {
    const MutexLock lock(mutex);
    if (--missing == 0) arrived.notify_one();
  };
  for (size_t peer = 0; peer < out.size(); ++peer) {
    if (wanted(in[peer])) receive(int(peer), kTogetherTag, in[peer], done);
    if (wanted(out[peer])) send(int(peer), kTogetherTag, out[peer], done);
  }
  const MutexLock lock(mutex);
  while (missing > 0) arrived.wait(mutex);
}

std::vector<std::string> Cluster::gather_texts(std::string_view mine) {
  std::vector<std::string> all;
  for (const uint64_t size : gather(uint64_t(mine.size()))) all.emplace_back(size, '\0');
  Incoming in;
  for (std::string& theirs : all) in.push_back(std::as_writable_bytes(std::span(theirs)));
  exchange(Outgoing(all.size(), std::as_bytes(std::span(mine))), in);
  all[size_t(rank_)] = mine;
  return all;
}

std::vector<std::vector<std::byte>> Cluster::swap(const std::vector<std::vector<std::byte>>& mine) {
  std::vector<uint64_t> sizes;
  for (const auto& part : mine) sizes.push_back(part.size());
  const auto all_sizes = gather_all<uint64_t>(sizes);
  std::vector<std::vector<std::byte>> theirs(mine.size());
  for (size_t peer = 0; peer < mine.size(); ++peer) {
    theirs[peer].resize(all_sizes[peer * mine.size() + size_t(rank_)]);
  }
  exchange({mine.begin(), mine.end()}, {theirs.begin(), theirs.end()});
  theirs[size_t(rank_)] = mine[size_t(rank_)];
  return theirs;
}

double Cluster::sum(double mine) {
  return sums(std::span(&mine, 1))[0];
}

std::vector<double> Cluster::sums(std::span<const double> mine) {
  const std::vector<double> all = gather_all(mine);
  std::vector<double> totals(mine.size());
  for (size_t i = 0; i < all.size(); ++i) totals[i % mine.size()] += all[i];
  return totals;
}

bool Cluster::any(bool mine) {
  const auto all = gather(char(mine));
  return std::find(all.begin(), all.end(), 1) != all.end();
}

// Down a binomial tree: who has it by round k sends it 2^k further.
void Cluster::broadcast(std::span<std::byte> bytes) {
  const auto rank = size_t(rank_), systems = size_t(systems_);
  for (size_t have = 1; have < systems; have *= 2) {
    Outgoing out(systems);
    Incoming in(systems);
    if (rank < have && rank + have < systems) out[rank + have] = bytes;
    if (rank >= have && rank < 2 * have) in[rank - have] = bytes;
    exchange(std::move(out), std::move(in));
  }
}

void Cluster::bring(int from, std::span<std::byte> bytes) {
  Outgoing out(static_cast<size_t>(systems_));
  Incoming in(out.size());
  if (rank_ == from) out[0] = bytes;
  if (rank_ == 0) in[size_t(from)] = bytes;
  exchange(std::move(out), std::move(in));
}

// What all met alike needs no name.
void Cluster::agree_on_failure(const std::string& mine) {
  const auto all = gather_texts(mine);
  const auto first = std::find_if(all.begin(), all.end(), [](const auto& s) { return !s.empty(); });
  if (first == all.end()) return;
  const bool alike =
      std::all_of(all.begin(), all.end(), [&](const auto& s) { return s == *first; });
  if (alike) throw AgreedError(*first);
  throw AgreedError(fmt::format("{}: {}", name_of(int(first - all.begin())), *first));
}

void Cluster::end(const std::exception& error) {
  if (is_alone()) throw;
  const bool common = dynamic_cast<const AgreedError*>(&error) != nullptr;
  end(rank_, common ? error.what() : fmt::format("{}: {}", name_of(rank_), error.what()), common);
}

// One system says it: the leader, unless it is the leader that is silent. The others wait to be
// ended with it, and speak only if nobody does that.
void Cluster::end(int subject, const std::string& message, bool common) {
  const int speaker = subject == 0 && rank_ != 0 ? 1 : 0;
  if (rank_ == speaker) ender_(message);
  if (!common) {
    std::vector<std::byte> note(kNoteBytes);
    const std::string text = message.substr(0, kNoteBytes - 1);
    std::memcpy(note.data(), text.data(), text.size());
    const bool on_thread = std::this_thread::get_id() == thread_.get_id();
    if (on_thread) {
      thread_role_.assert_held();
      wire_->send(next_id_++, speaker, kEndTag, note);
    } else {
      send(speaker, kEndTag, note, [] {});
    }
    const Stopwatch watch;
    while (watch.seconds() < std::chrono::duration<double>(kLastWords).count()) {
      if (on_thread) {
        thread_role_.assert_held();
        wire_->poll(complete_);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  } else {
    std::this_thread::sleep_for(kLastWords);
  }
  ender_(common ? "" : message);
  std::abort();
}

void Cluster::heard_end(const std::byte* note) {
  ender_(reinterpret_cast<const char*>(note));
}

void Cluster::run(const WireMaker& make) {
  thread_role_.assert_held();
  try {
    wire_ = make();
    rank_ = wire_->rank();
    systems_ = wire_->systems();
    hosts_.assign(size_t(systems_), "");
    lanes_.resize(2 * size_t(systems_));
    const MutexLock lock(mutex_);
    joined_ = true;
  } catch (...) {
    const MutexLock lock(mutex_);
    error_ = std::current_exception();
  }
  changed_.notify_all();
  if (wire_ == nullptr) return;
  listen_for_ends();
  Stopwatch since_watched;
  for (int idle_rounds = 0;;) {
    const bool worked = do_work();
    const bool started = start_messages();
    const bool moved = poll();
    const double elapsed_s = since_watched.seconds();
    if (elapsed_s > 0.1) {
      since_watched = {};
      watch(elapsed_s);
    }
    const bool busy = under_way_.size() > notes_.size();
    {
      const MutexLock lock(mutex_);
      if (stopping_ && !busy && asked_for_.empty() && work_.empty()) break;
    }
    if (worked || started || moved)
      idle_rounds = 0;
    else
      pause(busy, idle_rounds);
  }
  wire_.reset();
}

void Cluster::listen_for_ends() {
  notes_.resize(size_t(systems_ - 1));
  for (int peer = 0, next = 0; peer < systems_; ++peer) {
    if (peer == rank_) continue;
    auto& note = notes_[size_t(next++)];
    note.resize(kNoteBytes);
    receive(peer, kEndTag, note, [this, &note] { heard_end(note.data()); });
  }
}

bool Cluster::do_work() {
  std::deque<Done> work;
  {
    const MutexLock lock(mutex_);
    work.swap(work_);
  }
  for (const Done& each : work) each();
  return !work.empty();
}

// Starts what was asked for, as far as it is its turn; true if there was something. What all do at
// once passes by the others.
bool Cluster::start_messages() {
  std::vector<Message> asked_for;
  {
    const MutexLock lock(mutex_);
    asked_for.swap(asked_for_);
  }
  for (Message& message : asked_for) {
    Lane& lane = lane_of(message);
    auto place = message.tag < kTags ? lane.waiting.end() : lane.waiting.begin();
    while (place != lane.waiting.end() && place->tag >= kTags) ++place;
    lane.waiting.insert(place, std::move(message));
  }
  bool any = false;
  for (Lane& lane : lanes_) {
    while (!lane.waiting.empty() &&
           (lane.under_way < kLaneWidth || lane.waiting.front().tag >= kTags)) {
      const Message& message = under_way_.emplace_back(std::move(lane.waiting.front()));
      under_way_.back().id = next_id_++;
      lane.waiting.pop_front();
      ++lane.under_way;
      if (message.out)
        wire_->send(message.id, message.peer, message.tag, message.bytes);
      else
        wire_->receive(message.id, message.peer, message.tag, message.bytes);
      any = true;
    }
  }
  return any;
}

bool Cluster::poll() {
  complete_.clear();
  wire_->poll(complete_);
  for (const uint64_t id : complete_) {
    const auto place = std::find_if(under_way_.begin(), under_way_.end(),
                                    [&](const Message& message) { return message.id == id; });
    const Message message = std::move(*place);
    under_way_.erase(place);
    --lane_of(message).under_way;
    for (Message& other : under_way_) {
      if (other.peer == message.peer) other.silent_s = 0;
    }
    message.done();
  }
  return !complete_.empty();
}

// Who is owed an answer for too long ends all. Time in which this process did not run counts
// nothing.
void Cluster::watch(double elapsed_s) {
  for (Message& message : under_way_) {
    if (message.tag == kEndTag) continue;
    message.silent_s += std::min(elapsed_s, 1.0);
    if (message.silent_s < timeout_s_) continue;
    end(message.peer,
        fmt::format("{} has been silent for {:.3g} minutes, so all systems end. The same command "
                    "with --checkpoint_path latest goes on; system_timeout_minutes sets the time",
                    name_of(message.peer), timeout_s_ / 60),
        /*common=*/false);
  }
}

// Waiting must not take a core from whoever computes.
void Cluster::pause(bool busy, int& idle_rounds) {
  constexpr int kSpins = 8;
  if (++idle_rounds <= kSpins) {
    std::this_thread::yield();
    return;
  }
  const int us = busy ? std::min(20 * (idle_rounds - kSpins), 300) : 50'000;
  const MutexLock lock(mutex_);
  if (stopping_ || !asked_for_.empty() || !work_.empty()) return;
  changed_.wait_for(mutex_, std::chrono::microseconds(us));
}

}  // namespace gigagpt::engine
