// The transfers and updates of a Schedule: which is next, and what follows when one is over.
#include "base/error.h"
#include "engine/storage/schedule.h"

namespace gigagpt::engine {

// Issues the next transfer or update that is possible.
void Schedule::issue() {
  if (issue_layers(state_.stores) || issue_layers(state_.loads) || issue_ready() ||
      issue_write_back())
    return;
  SlotTable& slots = state_.slots;
  const bool short_of_slots = !state_.write_backs.empty() && slots.spares.empty();
  const bool worth_a_sync = slots.retired.size() >= limits_.buffers;
  if (slots.syncing.empty() && !slots.retired.empty() && (short_of_slots || worth_a_sync)) {
    slots.syncing.swap(slots.retired);
    begin({Job::kSync});
  }
}

bool Schedule::issue_layers(std::deque<SegmentJob>& queue) {
  while (!queue.empty()) {
    const size_t end = layout_->first_segment(layer_of(queue.front().segment) + 1);
    const Issued issued = issue_next(queue.front());
    if (issued == Issued::kBlocked) return false;
    if (++queue.front().segment == end) queue.pop_front();
    if (issued == Issued::kStarted) return true;
  }
  return false;
}

// What a segment needs, if anything.
Schedule::Issued Schedule::issue_next(SegmentJob job) {
  const Layer& layer = state_.layers[layer_of(job.segment)];
  const bool update = job.job == Job::kUpdate || job.job == Job::kUpdateNow;
  if ((update || job.broadcast) && !is_own(job.segment)) return Issued::kNothing;
  if (job.job == Job::kUpdate && state_.slots.steps[job.segment] == state_.update_step) {
    // It was updated before an interruption.
    job.job = Job::kLoadWeights;
    return job.deliver ? issue_part(job) : Issued::kNothing;
  }
  if (update) return issue_update(job);
  // What is still to be written cannot be read yet.
  const bool written = layer.state_writes == 0 && (job.broadcast || layer.others_writes == 0);
  return written ? issue_part(job) : Issued::kBlocked;
}

// Reads a segment for its update, or makes that at once if the state is in memory.
Schedule::Issued Schedule::issue_update(SegmentJob job) {
  const bool cached = is_cached(job.segment);
  job.slot = state_.slots.slots[job.segment];
  job.step = state_.slots.steps[job.segment];
  if (cached) job.buffer = limits_.buffers + layout_->place_of(job.segment);
  if (cached && state_.in_cache[job.segment]) {
    // Its gradient may be among what is stored.
    if (job.job == Job::kUpdate && (!state_.stores.empty() || state_.reducing > 0))
      return Issued::kBlocked;
    if (job.job == Job::kUpdate) ++state_.layers[layer_of(job.segment)].state_writes;
    begin_update(job, /*first=*/false);
    return Issued::kStarted;
  }
  if (state_.header_due || (!cached && state_.free_buffers.empty())) return Issued::kBlocked;
  if (!cached) {
    job.buffer = state_.free_buffers.back();
    state_.free_buffers.pop_back();
  }
  if (job.job == Job::kUpdate) ++state_.layers[layer_of(job.segment)].state_writes;
  begin(job);
  return Issued::kStarted;
}

// Reads or writes weights or a gradient, with the block that describes it.
Schedule::Issued Schedule::issue_part(SegmentJob job) {
  if (state_.free_blocks.empty()) return Issued::kBlocked;
  job.buffer = state_.free_blocks.back();
  state_.free_blocks.pop_back();
  if (job.job == Job::kStoreWeights) state_.slots.steps[job.segment] = state_.update_step;
  job.slot = state_.slots.slots[job.segment];
  job.step = state_.slots.steps[job.segment];
  begin(job);
  return Issued::kStarted;
}

// Writes what systems have added up, or sent.
bool Schedule::issue_ready() {
  auto& gradients = state_.ready_gradients;
  auto& weights = state_.ready_weights;
  if (!gradients.empty() && state_.layers[layer_of(gradients.front())].state_writes == 0 &&
      issue_part({Job::kStoreGradient, gradients.front()}) == Issued::kStarted) {
    gradients.pop_front();
    return true;
  }
  if (!weights.empty() && issue_part({Job::kStoreWeights, weights.front()}) == Issued::kStarted) {
    weights.pop_front();
    return true;
  }
  return false;
}

// Until the header says that an update has begun, the file must stay as it was.
bool Schedule::issue_write_back() {
  const bool can = !state_.write_backs.empty() && !state_.header_due && !state_.headers_due &&
                   !state_.slots.spares.empty();
  if (!can) return false;
  SegmentJob job = state_.write_backs.front();
  state_.write_backs.pop_front();
  job.job = Job::kWriteBack;
  job.slot = state_.slots.take_spare();
  state_.slots.steps[job.segment] = job.step;
  begin(job);
  return true;
}

void Schedule::begin(const SegmentJob& job) {
  ++state_.under_way;
  state_.actions.push_back({.kind = Action::Kind::kStart, .job = job});
}

void Schedule::begin_update(const SegmentJob& job, bool first) {
  ++state_.updating;
  state_.actions.insert(first ? state_.actions.begin() : state_.actions.end(),
                        {.kind = Action::Kind::kUpdate, .job = job});
}

void Schedule::completed(const SegmentJob& job) {
  --state_.under_way;
  SlotTable& slots = state_.slots;
  if (job.job == Job::kSync) return slots.after_sync(slots.syncing);
  if (job.job == Job::kUpdate || job.job == Job::kUpdateNow) {
    return begin_update(job, /*first=*/true);
  }
  Layer& layer = state_.layers[layer_of(job.segment)];
  if (job.job == Job::kWriteBack) {
    const uint32_t old = slots.move(job.segment, job.slot);
    // Without gradients the file is worth nothing until all are updated.
    (keeps_gradients() ? slots.retired : slots.spares).push_back(old);
    if (job.buffer < limits_.buffers) state_.free_buffers.push_back(job.buffer);
    --layer.state_writes;
    return;
  }
  state_.free_blocks.push_back(job.buffer);
  if (job.job == Job::kStoreWeights) {
    --layer.others_writes;
    weights_left(layer_of(job.segment));
  } else if (job.job == Job::kStoreGradient) {
    gradient_done(layer_of(job.segment));
  } else {
    arrived(job);
  }
}

// The job's buffer has the new state, of the job's step.
void Schedule::updated(const SegmentJob& job) {
  --state_.updating;
  if (job.job == Job::kUpdateNow) gradient_done(layer_of(job.segment));
  if (job.deliver) arrived(job);
  if (is_cached(job.segment)) state_.in_cache[job.segment] = true;
  state_.write_backs.push_back(job);
}

// A segment is in memory; the others may want it too.
void Schedule::arrived(const SegmentJob& job) {
  --buffer_of(layer_of(job.segment), job.job == Job::kLoadGradient).missing;
  if (job.broadcast) broadcast(job.segment);
}

}  // namespace gigagpt::engine
