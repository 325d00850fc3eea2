#include "engine/storage/schedule.h"

#include <algorithm>

#include "base/error.h"
#include "engine/systems/exchange.h"

namespace gigagpt::engine {

Schedule::Schedule(const StateLayout& layout, const ScheduleLimits& limits, SlotTable slots,
                   int64_t step)
    : layout_(&layout), limits_(limits) {
  state_.slots = std::move(slots);
  state_.update_step = step;
  state_.layers.resize(layout.layer_count());
  state_.in_cache.resize(layout.segments().size());
  for (Layer& layer : state_.layers) layer.stale = limits.has_peers;
  for (size_t i = 0; i < layout.segments().size(); ++i) {
    const bool has_state = is_own(i) && state_.slots.has_slot(i);
    if (has_state && state_.slots.steps[i] < step) state_.layers[layer_of(i)].pending = true;
  }
  for (size_t i = 0; i < limits.buffers; ++i) state_.free_buffers.push_back(i);
  for (size_t i = 0; i < limits.info_blocks; ++i) state_.free_blocks.push_back(i);
}

bool Schedule::is_cached(size_t segment) const {
  return is_own(segment) && layout_->place_of(segment) < limits_.cached;
}

uint64_t Schedule::bytes_of(size_t layer, bool gradient) const {
  return whole_blocks(gradient ? layout_->gradient_bytes(layer) : layout_->working_bytes(layer));
}

void Schedule::act(Action::Kind kind, size_t index, bool gradient) {
  state_.actions.push_back({.kind = kind, .index = index, .gradient = gradient});
}

bool Schedule::is_idle() const {
  return state_.loads.empty() && state_.stores.empty() && state_.write_backs.empty() &&
         state_.under_way == 0 && state_.updating == 0 && state_.ready_gradients.empty() &&
         state_.ready_weights.empty() && state_.reducing == 0 && state_.broadcasting == 0;
}

void Schedule::acquired() {
  state_.waiting = false;
  state_.started.pop_front();
  --state_.answered;
}

void Schedule::release(const Request& request) {
  Buffer& buffer = buffer_of(request.layer, request.gradient);
  GIGAGPT_ASSERT(buffer.busy);
  if (request.gradient && !request.keep) {
    state_.layers[request.layer].gradient_written = true;
    buffer.missing = layout_->segment_count(request.layer);
    queue_layer(state_.stores, request.layer, {Job::kStoreGradient});
    if (buffer.missing > 0) return;
  } else if (!request.gradient && !request.keep && buffer.leaving > 0) {
    buffer.dropped = true;
    return;
  }
  buffer.busy = false;
  if (!request.keep) take_memory(request.layer, request.gradient);
}

void Schedule::reduce(size_t layer, bool hold) {
  Layer& of = state_.layers[layer];
  GIGAGPT_ASSERT(of.gradient.busy);
  of.gradient.missing = of.unreduced = layout_->segment_count(layer);
  of.gradient.reducing = keeps_gradients();
  of.gradient.held = hold;
  state_.reducing += of.unreduced;
  for (const size_t segment : Exchange::order(*layout_, layer)) act(Action::Kind::kReduce, segment);
  if (of.unreduced == 0) act(Action::Kind::kAnswerReduced, layer);
}

void Schedule::reduced(size_t segment) {
  Layer& layer = state_.layers[layer_of(segment)];
  if (--layer.unreduced == 0) act(Action::Kind::kAnswerReduced, layer_of(segment));
  if (!keeps_gradients())
    --state_.reducing;
  else if (!layer.gradient.held)
    reduction_released(segment);
}

void Schedule::release_reduced(size_t layer) {
  const size_t first = layout_->first_segment(layer);
  for (size_t i = 0; keeps_gradients() && i < layout_->segment_count(layer); ++i) {
    reduction_released(first + i);
  }
}

void Schedule::reduction_released(size_t segment) {
  if (is_own(segment))
    state_.ready_gradients.push_back(segment);
  else
    gradient_done(layer_of(segment));
}

// A segment of the layer's gradient is written, sent, or was used.
void Schedule::gradient_done(size_t layer) {
  Buffer& buffer = state_.layers[layer].gradient;
  if (buffer.reducing) --state_.reducing;
  if (--buffer.missing > 0) return;
  take_memory(layer, /*gradient=*/true);
  buffer.busy = buffer.reducing = false;
}

void Schedule::update_layer(size_t index, int64_t step) {
  Layer& layer = state_.layers[index];
  GIGAGPT_ASSERT(!keeps_gradients() && layer.gradient.busy);
  state_.update_step = step;
  layer.stale = limits_.has_peers;
  layer.gradient.missing = 0;
  for (size_t i = layout_->first_segment(index); i < layout_->first_segment(index + 1); ++i) {
    if (is_own(i)) ++layer.gradient.missing;
  }
  layer.state_writes += layer.gradient.missing;  // nobody may read its weights before
  if (layer.gradient.missing > 0)
    return queue_layer(state_.stores, index, {Job::kUpdateNow, 0, /*deliver=*/false});
  take_memory(index, /*gradient=*/true);
  layer.gradient.busy = false;
}

void Schedule::defer(int64_t step) {
  GIGAGPT_ASSERT(keeps_gradients() && !state_.deferring && state_.expected.empty());
  state_.deferring = step;
}

void Schedule::settle() {
  GIGAGPT_ASSERT(state_.expected.empty() && state_.started.empty());
  state_.settling = true;
}

void Schedule::work() {
  GIGAGPT_ASSERT(state_.expected.empty() && state_.started.empty());
  state_.working = true;
}

void Schedule::forget_updates() {
  for (Layer& layer : state_.layers) layer.pending = false;
}

void Schedule::forget_copies() {
  state_.in_cache.assign(state_.in_cache.size(), false);
  for (Layer& layer : state_.layers) layer.stale = limits_.has_peers;
}

std::optional<Action> Schedule::next() {
  if (state_.actions.empty()) accept();
  if (state_.actions.empty()) issue();
  if (state_.actions.empty()) return std::nullopt;
  const Action action = state_.actions.front();
  state_.actions.pop_front();
  return action;
}

// Takes in what was asked for, as far as it is allowed by now.
void Schedule::accept() {
  const bool ready_for_update = state_.deferring && state_.write_backs.empty();
  if (ready_for_update) {
    state_.update_step = *std::exchange(state_.deferring, std::nullopt);
    state_.header_due = true;
    act(Action::Kind::kBeginUpdate, 0);
    for (Layer& layer : state_.layers) {
      layer.pending = true;
      layer.stale = limits_.has_peers;
      layer.gradient_written = false;
    }
  }
  answer();
  if (!state_.actions.empty() || state_.deferring || due()) return;
  if (state_.settling) {
    for (size_t i = 0; i < state_.layers.size(); ++i) {
      if (std::exchange(state_.layers[i].pending, false))
        queue_layer(state_.loads, i, {Job::kUpdate, 0, /*deliver=*/false});
    }
    return;
  }
  while (!state_.expected.empty() && state_.started.size() < limits_.ahead &&
         start(state_.expected.front())) {
    state_.started.push_back(state_.expected.front());
    state_.expected.pop_front();
    answer();
  }
}

// Answers requests that are ready, in their order.
void Schedule::answer() {
  for (; state_.answered < state_.started.size(); ++state_.answered) {
    const Request& request = state_.started[state_.answered];
    if (buffer_of(request.layer, request.gradient).missing > 0) return;
    state_.actions.push_back({.kind = Action::Kind::kAnswer, .request = request});
  }
}

// Starts what has to wait until nothing is under way.
bool Schedule::due() {
  if (state_.header_due && state_.stores.empty() && state_.under_way == 0 && state_.reducing == 0) {
    act(Action::Kind::kWriteHeader, 0);
    return true;
  }
  if (state_.header_due || state_.headers_due || !is_idle()) return false;
  if (state_.abandoning) {
    drop_all();
    return true;
  }
  const auto& layers = state_.layers;
  const bool updated =
      std::none_of(layers.begin(), layers.end(), [](const Layer& layer) { return layer.pending; });
  if (state_.settling && updated)
    act(Action::Kind::kWriteSettled, 0);
  else if (state_.working)
    act(Action::Kind::kWork, 0);
  else
    return false;
  return true;
}

void Schedule::drop_all() {
  state_.expected.clear();
  state_.started.clear();
  state_.answered = 0;
  for (size_t i = 0; i < state_.layers.size(); ++i) {
    for (const bool gradient : {false, true}) {
      if (buffer_of(i, gradient).present) take_memory(i, gradient);
      buffer_of(i, gradient).busy = false;
    }
    state_.layers[i].gradient_written = false;
  }
  state_.abandoning = false;
  act(Action::Kind::kAnswerDropped, 0);
}

void Schedule::header_written() {
  state_.slots.after_sync(state_.slots.retired);
  state_.header_due = false;
  state_.headers_due = true;
  act(Action::Kind::kMeet, 0);
}

void Schedule::settled(bool wrote_header) {
  if (wrote_header) state_.slots.after_sync(state_.slots.retired);
  state_.settling = false;
}

// Begins to fill the memory that a request asks for, if it can. Requests for the same memory take
// turns.
bool Schedule::start(const Request& request) {
  Buffer& buffer = buffer_of(request.layer, request.gradient);
  Layer& layer = state_.layers[request.layer];
  if (buffer.busy) return false;
  // The header waits for the gradients before it, those after it would wait for the header.
  if (request.gradient && (state_.header_due || state_.headers_due)) return false;
  if (!buffer.present) {
    if (!give_memory(request.layer, request.gradient)) return false;
    if (!request.gradient || layer.gradient_written) {
      buffer.missing = layout_->segment_count(request.layer);
      const bool stale = !request.gradient && layer.stale;
      if (stale) receive_weights(request.layer);
      const Job job = request.gradient ? Job::kLoadGradient
                      : layer.pending  ? Job::kUpdate
                                       : Job::kLoadWeights;
      queue_layer(state_.loads, request.layer, {job, 0, /*deliver=*/true, stale});
    }
    if (!request.gradient) {
      layer.pending = false;
      ++layer.weight_reads;
    }
  }
  buffer.busy = true;
  return true;
}

void Schedule::queue_layer(std::deque<SegmentJob>& queue, size_t layer, SegmentJob first) {
  if (layout_->segment_count(layer) == 0) return;
  first.segment = layout_->first_segment(layer);
  queue.push_back(first);
}

void Schedule::receive_weights(size_t layer) {
  state_.layers[layer].stale = false;
  for (const size_t segment : Exchange::order(*layout_, layer)) {
    if (is_own(segment)) continue;
    ++state_.layers[layer].others_writes;  // until they are written
    broadcast(segment);
  }
}

void Schedule::broadcast(size_t segment) {
  ++state_.broadcasting;
  ++state_.layers[layer_of(segment)].weights.leaving;
  act(Action::Kind::kBroadcast, segment);
}

void Schedule::weights_sent(size_t segment) {
  --state_.broadcasting;
  weights_left(layer_of(segment));
}

void Schedule::weights_received(size_t segment) {
  --state_.broadcasting;
  --state_.layers[layer_of(segment)].weights.missing;
  state_.ready_weights.push_back(segment);
}

void Schedule::weights_left(size_t layer) {
  Buffer& buffer = state_.layers[layer].weights;
  if (--buffer.leaving > 0 || !buffer.dropped) return;
  buffer.dropped = buffer.busy = false;
  take_memory(layer, /*gradient=*/false);
}

bool Schedule::give_memory(size_t layer, bool gradient) {
  const uint64_t bytes = bytes_of(layer, gradient);
  auto& unused = state_.unused;
  const auto same = std::find(unused.begin(), unused.end(), bytes);
  std::optional<size_t> reused;
  if (same != unused.end()) {
    reused = size_t(same - unused.begin());
    unused.erase(same);
  } else {
    for (; state_.held_bytes + bytes > limits_.memory_bytes && !unused.empty(); unused.pop_back()) {
      state_.held_bytes -= unused.back();
      act(Action::Kind::kFreeMemory, 0);
    }
    // Nobody else can free any, so what is waited for gets it.
    const bool needed = state_.waiting && state_.started.empty() && is_idle();
    if (state_.held_bytes + bytes > limits_.memory_bytes && !needed) return false;
    state_.held_bytes += bytes;
  }
  buffer_of(layer, gradient).present = true;
  act(Action::Kind::kGiveMemory, layer, gradient);
  state_.actions.back().reused = reused;
  return true;
}

void Schedule::take_memory(size_t layer, bool gradient) {
  Buffer& buffer = buffer_of(layer, gradient);
  state_.unused.push_back(bytes_of(layer, gradient));
  buffer.present = false;
  buffer.missing = 0;
  act(Action::Kind::kTakeMemory, layer, gradient);
}

}  // namespace gigagpt::engine
