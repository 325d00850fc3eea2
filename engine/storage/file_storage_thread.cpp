// The thread of a FileStorage: takes in messages, has the schedule decide, and does what it says.
// It runs no OpenMP: the update's arithmetic is a plain loop.
#include "base/error.h"
#include "engine/storage/file_storage.h"

namespace gigagpt::engine {

void FileStorage::run() {
  thread_role_.assert_held();
  try {
    for (;;) {
      std::vector<Message> messages;
      {
        const MutexLock lock(mutex_);
        if (mailbox_.stopping) return;
        messages.swap(mailbox_.messages);
      }
      for (const Message& message : messages) take_in(message);
      if (const auto action = schedule_.next()) {
        perform(*action);
        continue;
      }
      count_bytes();
      if (const auto job = io_.wait()) schedule_.completed(*job);
    }
  } catch (...) {
    const MutexLock lock(mutex_);
    mailbox_.error = std::current_exception();
    changed_.notify_all();
  }
}

void FileStorage::take_in(const Message& message) {
  using Kind = Message::Kind;
  switch (message.kind) {
    case Kind::kExpect:
      return schedule_.expect(message.request);
    case Kind::kWait:
      return schedule_.wait_for_answer();
    case Kind::kAcquired:
      return schedule_.acquired();
    case Kind::kRelease:
      return schedule_.release(message.request);
    case Kind::kReduce:
      return schedule_.reduce(message.index, message.hold);
    case Kind::kReleaseReduced:
      return schedule_.release_reduced(message.index);
    case Kind::kUpdateLayer:
      layer_updates_[message.index] = message.update;
      return schedule_.update_layer(message.index, message.update.step);
    case Kind::kDefer:
      deferred_ = message.update;
      return schedule_.defer(message.update.step);
    case Kind::kSettle:
      return schedule_.settle();
    case Kind::kAbandon:
      return schedule_.abandon();
    case Kind::kWork:
      return schedule_.work();
    case Kind::kDirected:
      return make_update(message.job);
    case Kind::kReduced:
      return schedule_.reduced(message.index);
    case Kind::kWeightsSent:
      return schedule_.weights_sent(message.index);
    case Kind::kWeightsReceived:
      return schedule_.weights_received(message.index);
    case Kind::kAllMet:
      return schedule_.all_met();
  }
}

void FileStorage::perform(const Action& action) {
  using Kind = Action::Kind;
  switch (action.kind) {
    case Kind::kStart:
      return io_.start(action.job);
    case Kind::kUpdate:
      return begin_update(action.job);
    case Kind::kBeginUpdate:
      update_ = deferred_;
      return;
    case Kind::kWriteHeader:
      io_.file().write_header(update_, /*pending=*/true);
      return schedule_.header_written();
    case Kind::kMeet:
      return exchange_.meet([this] { post({Message::Kind::kAllMet}); });
    case Kind::kWriteSettled:
      return write_settled();
    case Kind::kWork:
      return do_work();
    case Kind::kReduce:
      return exchange_.reduce(action.index, io_.gradient_at(action.index), [=, this] {
        post({Message::Kind::kReduced, action.index});
      });
    case Kind::kBroadcast:
      return start_broadcast(action.index);
    case Kind::kGiveMemory:
      return io_.give_memory(action.index, action.gradient, action.reused);
    case Kind::kTakeMemory:
      return io_.take_memory(action.index, action.gradient);
    case Kind::kFreeMemory:
      return io_.free_memory();
    case Kind::kAnswer:
    case Kind::kAnswerReduced:
    case Kind::kAnswerDropped:
      return answer(action);
  }
}

const Update& FileStorage::update_of(const SegmentJob& job) {
  const size_t layer = layout().segments()[job.segment].layer;
  return job.job == Job::kUpdateNow ? layer_updates_[layer] : update_;
}

void FileStorage::begin_update(const SegmentJob& job) {
  auto params = io_.whole_params(job, update_of(job));
  if (params.empty()) return make_update(job);
  const Update update = update_of(job);
  const MutexLock lock(mutex_);
  mailbox_.directions.push_back({job, std::move(params), update});
  changed_.notify_all();
}

void FileStorage::make_update(SegmentJob job) {
  const Update& update = update_of(job);
  io_.update(job, update);
  job.step = update.step;
  schedule_.updated(job);
}

void FileStorage::start_broadcast(size_t segment) {
  const bool own = layout().is_own(layout().segments()[segment]);
  const auto kind = own ? Message::Kind::kWeightsSent : Message::Kind::kWeightsReceived;
  exchange_.broadcast(segment, io_.weights_at(segment), [=, this] { post({kind, segment}); });
}

void FileStorage::answer(const Action& action) {
  const auto [layer, gradient, _] = action.request;
  std::byte* const memory = io_.layer_memory(layer, gradient);
  const MutexLock lock(mutex_);
  if (action.kind == Action::Kind::kAnswer) {
    mailbox_.answers.emplace_back(action.request, memory);
  } else if (action.kind == Action::Kind::kAnswerReduced) {
    mailbox_.reduced[action.index] = true;
  } else {
    mailbox_.answers.clear();
    mailbox_.abandoning = false;
  }
  changed_.notify_all();
}

void FileStorage::write_settled() {
  const int64_t step = this->step();
  const bool due = io_.file().pending() || io_.file().step() != step;
  if (due) io_.file().write_header(step);
  schedule_.settled(due);
  count_bytes();
  const MutexLock lock(mutex_);
  mailbox_.settling = false;
  changed_.notify_all();
}

void FileStorage::do_work() {
  const std::function<void()>* work = nullptr;
  {
    const MutexLock lock(mutex_);
    work = mailbox_.work;
  }
  (*work)();
  schedule_.work_done();
  count_bytes();
  const MutexLock lock(mutex_);
  mailbox_.work = nullptr;
  changed_.notify_all();
}

void FileStorage::count_bytes() {
  const uint64_t read_bytes = io_.file().file().read_bytes();
  const uint64_t write_bytes = io_.file().file().written_bytes();
  const MutexLock lock(mutex_);
  mailbox_.counts.read_bytes = read_bytes;
  mailbox_.counts.write_bytes = write_bytes;
}

SegmentPlace FileStorage::place_of(size_t segment) {
  const SlotTable& slots = schedule_.slots();
  return {segment, slots.slots[segment], slots.steps[segment]};
}

void FileStorage::begin_edit(size_t segment, int64_t step) {
  if (io_.edited() && io_.edited()->segment == segment) return;
  store_edited(step);
  io_.begin_edit(place_of(segment));
}

void FileStorage::store_edited(int64_t step) {
  if (!io_.edited()) return;
  const size_t segment = io_.edited()->segment;
  SlotTable& slots = schedule_.slots();
  if (!slots.has_slot(segment)) slots.move(segment, slots.take_spare());
  slots.steps[segment] = step;
  io_.store_edited(place_of(segment));
}

}  // namespace gigagpt::engine
