// What callers of a FileStorage see: they leave messages for its thread and wait for answers.
#include "engine/storage/file_storage.h"

#include <algorithm>

#include "base/error.h"
#include "base/system.h"
#include "base/trace.h"

namespace gigagpt::engine {
namespace {

ScheduleLimits limits_of(const StreamOptions& options, const StateLayout& layout, bool has_peers) {
  ScheduleLimits limits{.buffers = std::min(options.buffers, layout.update_buffers()),
                        .ahead = options.ahead,
                        .memory_bytes = options.memory_bytes,
                        .has_peers = has_peers};
  if (layout.training()) {
    const uint64_t slots = options.cache_bytes / std::max<uint64_t>(1, layout.slot_bytes());
    limits.cached = size_t(std::min<uint64_t>(layout.own_segments(), slots));
  }
  return limits;
}

std::unique_ptr<StateFile> open_file(const Path& path, FileStorage::Mode mode,
                                     const StateLayout& layout, const StreamOptions& options) {
  if (mode == FileStorage::Mode::kOpen) return StateFile::open(path, layout, options.engine);
  // As many again wait for a sync while the others are on their way.
  const size_t buffers = std::min(options.buffers, layout.update_buffers());
  return StateFile::create(path, layout, layout.training() ? 2 * buffers : 0, options.step_tokens,
                           options.run_id, options.engine);
}

// One that is made has no step yet.
int64_t step_of(const StateFile& file) {
  return std::max<int64_t>(file.step(), 0);
}

}  // namespace

FileStorage::FileStorage(std::vector<LayerSpec> specs, const StateForm& form, const Path& path,
                         Mode mode, const StreamOptions& options, Cluster& cluster)
    : FileStorage(StateLayout(std::move(specs), form, options.segment_elements,
                              form.training ? Shard{cluster.rank(), cluster.systems()} : Shard{}),
                  path, mode, options, form.training ? cluster : Cluster::alone()) {}

FileStorage::FileStorage(StateLayout given, const Path& path, Mode mode,
                         const StreamOptions& options, Cluster& cluster)
    : Storage(std::move(given), cluster),
      direction_(options.direction),
      io_(layout(), open_file(path, mode, layout(), options),
          limits_of(options, layout(), !cluster.is_alone()), options.poison),
      schedule_(layout(), limits_of(options, layout(), !cluster.is_alone()), io_.file().slots(),
                step_of(io_.file())),
      update_(io_.file().update()),
      layer_updates_(layout().layer_count()),
      exchange_(cluster, layout()) {
  mailbox_.step = step_of(io_.file());
  mailbox_.reduced.resize(layout().layer_count());
  thread_ = std::thread([this] { run(); });
}

FileStorage::~FileStorage() {
  {
    const MutexLock lock(mutex_);
    mailbox_.stopping = true;
  }
  io_.file().file().wake();
  thread_.join();
}

void FileStorage::leave(const Message& message) {
  mailbox_.messages.push_back(message);
  io_.file().file().wake();
}

void FileStorage::post(const Message& message) {
  const MutexLock lock(mutex_);
  leave(message);
}

void FileStorage::ask(const Message& message) {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  leave(message);
}

// Until the storage's thread has done what was asked of it.
template <class Asked>
double FileStorage::wait_while(const Asked& asked) {
  double waited_ms = 0;
  for (make_directions(); !mailbox_.error && asked(mailbox_); make_directions()) {
    const Stopwatch watch;
    changed_.wait(mutex_);
    waited_ms += watch.seconds() * 1e3;
  }
  if (mailbox_.error) std::rethrow_exception(mailbox_.error);
  return waited_ms;
}

void FileStorage::make_directions() {
  while (!mailbox_.error && !mailbox_.directions.empty()) {
    const Directions next = std::move(mailbox_.directions.front());
    mailbox_.directions.pop_front();
    mutex_.unlock();
    std::exception_ptr error;
    try {
      for (const ops::WholeParam& param : next.params)
        direction_(param, next.update.rule, next.update.lr, next.update.step);
    } catch (...) {
      error = std::current_exception();
    }
    mutex_.lock();
    if (error) {
      mailbox_.error = error;
      std::rethrow_exception(error);
    }
    leave({.kind = Message::Kind::kDirected, .job = next.job});
  }
}

void FileStorage::run_on_thread(const std::function<void()>& work) {
  const MutexLock lock(mutex_);
  mailbox_.work = &work;
  leave({Message::Kind::kWork});
  wait_while([](const Mailbox& mailbox) { return mailbox.work != nullptr; });
}

int64_t FileStorage::step() const {
  const MutexLock lock(mutex_);
  return mailbox_.step;
}

void FileStorage::expect(std::span<const Request> requests) {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  for (const Request& request : requests)
    mailbox_.messages.push_back({.kind = Message::Kind::kExpect, .request = request});
  io_.file().file().wake();
}

std::byte* FileStorage::acquire(const Request& request) {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  make_directions();
  if (mailbox_.answers.empty()) {
    const Zone zone("waiting for the disk");
    leave({Message::Kind::kWait});  // what is waited for gets its memory in any case
    mailbox_.counts.stall_ms +=
        wait_while([](const Mailbox& mailbox) { return mailbox.answers.empty(); });
  }
  if (mailbox_.error) std::rethrow_exception(mailbox_.error);
  const auto [answered, memory] = mailbox_.answers.front();
  GIGAGPT_ASSERT(answered.layer == request.layer && answered.gradient == request.gradient);
  mailbox_.answers.pop_front();
  leave({Message::Kind::kAcquired});  // one more can be started
  return memory;
}

void FileStorage::release(const Request& request) {
  ask({.kind = Message::Kind::kRelease, .request = request});
}

void FileStorage::reduce(size_t layer, bool hold) {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  mailbox_.reduced[layer] = false;
  leave({.kind = Message::Kind::kReduce, .index = layer, .hold = hold});
}

double FileStorage::reduced_square_sum(size_t layer) {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  if (!mailbox_.reduced[layer]) {
    const Zone zone("waiting for the network");
    mailbox_.counts.stall_ms +=
        wait_while([&](const Mailbox& mailbox) { return !mailbox.reduced[layer]; });
  }
  if (mailbox_.error) std::rethrow_exception(mailbox_.error);
  return exchange_.square_sum_of_layer(layer);
}

void FileStorage::release_reduced(size_t layer) {
  ask({.kind = Message::Kind::kReleaseReduced, .index = layer});
}

void FileStorage::meet_at_one_step() {
  const int64_t own = step();
  const auto steps = cluster().gather(own);
  const int64_t least = *std::min_element(steps.begin(), steps.end());
  cluster().together([&] {
    if (own > least + 1) {
      fail(
          "store: {} is at step {}, the file of another system at step {}: go on from a checkpoint",
          io_.file().file().path().string(), own, least);
    }
    if (own > least) take_back_step();
  });
}

void FileStorage::take_back_step() {
  const int64_t before = step() - 1;
  run_on_thread([&] {
    thread_role_.assert_held();
    io_.file().write_header(before);
    schedule_.forget_updates();
  });
  const MutexLock lock(mutex_);
  mailbox_.step = before;
}

void FileStorage::abandon() {
  const MutexLock lock(mutex_);
  mailbox_.abandoning = true;
  leave({Message::Kind::kAbandon});
  wait_while([](const Mailbox& mailbox) { return mailbox.abandoning; });
}

void FileStorage::defer(const Update& update) {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  GIGAGPT_ASSERT(update.step == mailbox_.step + 1);
  mailbox_.step = update.step;
  leave({.kind = Message::Kind::kDefer, .update = update});
}

void FileStorage::begin_updates() {
  if (keeps_gradients()) return;
  run_on_thread([&] {
    if (io_.file().step() >= 0) io_.file().write_header(-1);
  });
}

void FileStorage::update_layer(size_t layer, const Update& update) {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  mailbox_.step = update.step;
  leave({.kind = Message::Kind::kUpdateLayer, .index = layer, .update = update});
}

void FileStorage::settle() {
  const MutexLock lock(mutex_);
  mailbox_.counts.stall_ms += lock.waited_ms();
  mailbox_.settling = true;
  leave({Message::Kind::kSettle});
  mailbox_.counts.stall_ms += wait_while([](const Mailbox& mailbox) { return mailbox.settling; });
}

std::vector<int64_t> FileStorage::weight_reads() {
  std::vector<int64_t> reads;
  run_on_thread([&] {
    thread_role_.assert_held();
    for (size_t i = 0; i < layout().layer_count(); ++i) reads.push_back(schedule_.weight_reads(i));
  });
  return reads;
}

uint64_t FileStorage::slot_offset(size_t segment) {
  uint64_t offset = 0;
  run_on_thread([&] {
    thread_role_.assert_held();
    offset = io_.file().offset_of(place_of(segment));
  });
  return offset;
}

IoCounts FileStorage::counts() const {
  const MutexLock lock(mutex_);
  IoCounts counts = mailbox_.counts;
  counts.sent_bytes = cluster().sent_bytes();
  return counts;
}

// Calls visit(segment, its element that the piece begins with, piece) for what of `values` lies in
// each segment.
template <class Values, class Visit>
void FileStorage::in_segments(size_t layer, int64_t first, Values values, const Visit& visit) {
  while (!values.empty()) {
    const size_t index = layout().segment_of(layer, first);
    const Segment& s = layout().segments()[index];
    const auto piece = values.first(std::min(values.size(), size_t(s.end() - first)));
    visit(index, first, piece);
    values = values.subspan(piece.size());
    first += int64_t(piece.size());
  }
}

void FileStorage::read(Array kept, size_t layer, int64_t first, std::span<float> values) {
  run_on_thread([&] {
    in_segments(layer, first, values, [&](size_t segment, int64_t begin, std::span<float> piece) {
      thread_role_.assert_held();
      io_.read(place_of(segment), kept, begin, piece);
    });
  });
}

void FileStorage::begin_writing(int64_t step) {
  run_on_thread([&] {
    thread_role_.assert_held();
    schedule_.forget_copies();
  });
  const MutexLock lock(mutex_);
  mailbox_.step = step;
}

void FileStorage::write(Array kept, size_t layer, int64_t first, std::span<const float> values) {
  const int64_t step = this->step();
  run_on_thread([&] {
    in_segments(layer, first, values,
                [&](size_t segment, int64_t begin, std::span<const float> piece) {
                  thread_role_.assert_held();
                  if (!layout().is_own(layout().segments()[segment])) return;
                  begin_edit(segment, step);
                  io_.write(kept, begin, piece);
                });
  });
}

void FileStorage::finish_writing() {
  const int64_t step = this->step();
  run_on_thread([&] {
    thread_role_.assert_held();
    for (size_t i = 0; i < layout().segments().size(); ++i) {
      const bool own = layout().is_own(layout().segments()[i]);
      if (own && !schedule_.slots().has_slot(i)) begin_edit(i, step);
    }
    store_edited(step);
    io_.file().write_header(step);
  });
}

}  // namespace gigagpt::engine
