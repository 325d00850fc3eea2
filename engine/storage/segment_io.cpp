#include "engine/storage/segment_io.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace gigagpt::engine {
namespace {

// In the first half of the same memory.
void to_bf16_in_place(float* values, size_t count) {
  auto* bytes = reinterpret_cast<std::byte*>(values);
  for (size_t i = 0; i < count; ++i) {
    const ops::kernels::Bf16 rounded = ops::kernels::to_bf16(values[i]);
    std::memcpy(bytes + 2 * i, &rounded, sizeof rounded);
  }
}

SegmentPlace place_of(const SegmentJob& job) {
  return {job.segment, job.slot, job.step};
}

}  // namespace

SegmentIo::SegmentIo(const StateLayout& layout, std::unique_ptr<StateFile> file,
                     const ScheduleLimits& limits, bool poison)
    : layout_(layout),
      first_cached_(limits.buffers),
      poison_(poison),
      weights_(layout.layer_count()),
      gradients_(layout.layer_count()),
      info_blocks_(limits.info_blocks * kBlockBytes),
      file_(std::move(file)) {
  for (size_t i = 0; i < limits.buffers + limits.cached; ++i)
    buffers_.emplace_back(layout.slot_bytes());
}

void SegmentIo::give_memory(size_t layer, bool gradient, std::optional<size_t> reused) {
  PageBuffer& memory = (gradient ? gradients_ : weights_)[layer];
  if (!reused) {
    memory = PageBuffer(gradient ? layout_.gradient_bytes(layer) : layout_.working_bytes(layer));
    return;
  }
  memory = std::move(unused_[*reused]);
  unused_.erase(unused_.begin() + int64_t(*reused));
}

void SegmentIo::take_memory(size_t layer, bool gradient) {
  PageBuffer& memory = (gradient ? gradients_ : weights_)[layer];
  if (poison_) std::memset(memory.data(), 0xFF, memory.size_bytes());
  unused_.push_back(std::move(memory));
}

void SegmentIo::free_memory() {
  unused_.pop_back();
}

std::byte* SegmentIo::weights_at(size_t index) {
  const Segment& s = segment(index);
  return weights_[s.layer].data() + layout_.working_at(s.layer, s.begin);
}

float* SegmentIo::gradient_at(size_t index) {
  const Segment& s = segment(index);
  return reinterpret_cast<float*>(gradients_[s.layer].data()) + s.begin;
}

void SegmentIo::start(const SegmentJob& job) {
  part_of_.reset();
  switch (job.job) {
    case Job::kSync:
      under_way_[next_id_] = job;
      return file_->file().start_sync(next_id_++);
    case Job::kUpdate:
    case Job::kUpdateNow:
      return start_state(job);
    case Job::kWriteBack:
      return start_write_back(job);
    default:
      start_part(job);
  }
}

void SegmentIo::start(const SegmentJob& job, const Transfer& bytes) {
  under_way_[next_id_] = job;
  file_->file().start(next_id_++, bytes);
}

void SegmentIo::start_state(const SegmentJob& job) {
  const SlotParts parts = parts_of(job.segment);
  const uint64_t begin = job.job == Job::kUpdate ? parts.gradient_info : parts.state;
  const uint64_t end = layout_.form().has_masters() ? parts.working.at : parts.end;
  std::byte* buffer = slot_memory(job.buffer);
  start(job,
        {false, file_->offset_of(place_of(job)) + begin, {std::span(buffer + begin, end - begin)}});
}

void SegmentIo::start_write_back(const SegmentJob& job) {
  const SlotParts parts = parts_of(job.segment);
  std::byte* buffer = slot_memory(job.buffer);
  file_->describe_state(job.segment, job.step, buffer);
  start(job, {true, file_->offset_of(job.slot) + parts.state, {parts.state_in(buffer)}});
}

// Weights or a gradient, with the block that describes it.
void SegmentIo::start_part(const SegmentJob& job) {
  const size_t index = job.segment;
  const Segment& s = segment(index);
  const SlotParts parts = layout_.slot_parts(s);
  const uint64_t slot = file_->offset_of(place_of(job));
  const std::span<std::byte> info(info_blocks_.data() + job.buffer * kBlockBytes, kBlockBytes);
  const bool write = job.job == Job::kStoreGradient || job.job == Job::kStoreWeights;
  if (job.job == Job::kLoadWeights || job.job == Job::kStoreWeights) {
    std::byte* weights = weights_at(index);
    if (write) file_->describe_part(index, Array::kWorking, job.step, weights, info.data());
    const std::span working(weights, parts.end - parts.working.at);
    return start(job, {write, slot + parts.info, {info, working}});
  }
  float* gradient = gradient_at(index);
  auto* part = reinterpret_cast<std::byte*>(gradient);
  const std::span stored(part, parts.exp_avg.at - parts.gradient.at);
  if (write) {
    if (layout_.form().gradient == GradientForm::kBf16) to_bf16_in_place(gradient, size_t(s.count));
    file_->describe_part(index, Array::kGradient, file_->step() + 1, part, info.data());
    // A segment whose state stays in memory has its gradient there as well.
    const size_t cached = first_cached_ + layout_.place_of(index);
    if (layout_.is_own(s) && cached < buffers_.size())
      std::memcpy(slot_memory(cached) + parts.gradient.at, part, parts.gradient.size_bytes);
  }
  start(job, {write, slot + parts.gradient_info, {info, stored}});
}

std::optional<SegmentJob> SegmentIo::wait() {
  const auto id = file_->file().wait();
  if (!id) return std::nullopt;
  const auto place = under_way_.find(*id);
  const SegmentJob job = place->second;
  under_way_.erase(place);
  check(job);
  return job;
}

void SegmentIo::check(const SegmentJob& job) {
  const SegmentPlace place = place_of(job);
  if (job.job == Job::kLoadWeights) {
    const std::byte* info = info_blocks_.data() + job.buffer * kBlockBytes;
    file_->check_state_info(place, info);
    file_->check_part(place, Array::kWorking, info, weights_at(job.segment));
  } else if (job.job == Job::kLoadGradient) {
    const std::byte* info = info_blocks_.data() + job.buffer * kBlockBytes;
    file_->check_gradient_info(place, file_->step() + 1, info);
    file_->check_part(place, Array::kGradient, info,
                      reinterpret_cast<const std::byte*>(gradient_at(job.segment)));
  } else if (job.job == Job::kUpdate || job.job == Job::kUpdateNow) {
    const std::byte* slot = slot_memory(job.buffer);
    const SlotParts parts = parts_of(job.segment);
    file_->check_state(place, slot);
    if (job.job == Job::kUpdateNow) return;
    file_->check_gradient_info(place, file_->step(), slot + parts.gradient_info);
    file_->check_part(place, Array::kGradient, slot + parts.gradient_info,
                      slot + parts.gradient.at);
  }
}

// In the job's buffer, but for a gradient that is used at once.
SegmentArrays SegmentIo::arrays_of(const SegmentJob& job) {
  SegmentArrays arrays = arrays_in_slot(layout_, segment(job.segment), slot_memory(job.buffer));
  if (job.job == Job::kUpdateNow)
    arrays.gradient = reinterpret_cast<std::byte*>(gradient_at(job.segment));
  return arrays;
}

std::vector<ops::WholeParam> SegmentIo::whole_params(const SegmentJob& job, const Update& update) {
  return engine::whole_params(layout_, segment(job.segment), arrays_of(job), update);
}

void SegmentIo::update(const SegmentJob& job, const Update& update) {
  const Segment& s = segment(job.segment);
  const SegmentArrays arrays = arrays_of(job);
  update_segment_alone(layout_, s, arrays, update);
  if (job.deliver) std::memcpy(weights_at(job.segment), arrays.working, layout_.working_bytes(s));
}

void SegmentIo::run(bool write, const SegmentPlace& place, std::span<std::byte> part) {
  const auto at = uint64_t(part.data() - slot_memory(0));
  file_->file().run({write, file_->offset_of(place) + at, {part}});
}

void SegmentIo::read(const SegmentPlace& place, Array kept, int64_t first,
                     std::span<float> values) {
  load_part(place, kept);
  const Segment& s = segment(place.segment);
  read_values(layout_, s, arrays_in_slot(layout_, s, slot_memory(0)), kept, first, values);
}

void SegmentIo::load_part(const SegmentPlace& place, Array kept) {
  if (part_of_ && part_of_->segment == place.segment && part_ == kept) return;
  part_of_.reset();
  const SlotParts parts = parts_of(place.segment);
  const bool gradient = kept == Array::kGradient;
  const bool working = kept == Array::kMaster && !layout_.form().has_masters();
  const Array stored = working ? Array::kWorking : kept;
  const SlotPart part = parts.of(stored);
  std::byte* slot = slot_memory(0);
  std::byte* info = slot + (gradient ? parts.gradient_info : parts.info);
  run(/*write=*/false, place, {info, kBlockBytes});
  run(/*write=*/false, place, {slot + part.at, whole_blocks(part.size_bytes)});
  if (gradient)
    file_->check_gradient_info(place, file_->step() + 1, info);
  else
    file_->check_state_info(place, info);
  file_->check_part(place, stored, info, slot + part.at);
  part_of_ = place;
  part_ = kept;
}

void SegmentIo::begin_edit(const SegmentPlace& place) {
  part_of_.reset();
  const SlotParts parts = parts_of(place.segment);
  std::byte* slot = slot_memory(0);
  if (place.slot == SlotTable::kNone) {
    std::memset(slot, 0, layout_.slot_bytes());
  } else {
    run(/*write=*/false, place, parts.state_in(slot));
    file_->check_state_info(place, slot + parts.info);
  }
  edited_ = place;
}

void SegmentIo::write(Array kept, int64_t first, std::span<const float> values) {
  const Segment& s = segment(edited_->segment);
  write_values(layout_, s, arrays_in_slot(layout_, s, slot_memory(0)), kept, first, values);
}

void SegmentIo::store_edited(const SegmentPlace& place) {
  std::byte* slot = slot_memory(0);
  file_->describe_state(place.segment, place.step, slot);
  run(/*write=*/true, place, parts_of(place.segment).state_in(slot));
  edited_.reset();
}

}  // namespace gigagpt::engine
