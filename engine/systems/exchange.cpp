#include "engine/systems/exchange.h"

#include <algorithm>
#include <numeric>

#include "ops/kernels/optimizer.h"

namespace gigagpt::engine {
namespace {

using ops::kernels::Bf16;

constexpr size_t kMostStaged = size_t{64} << 20;
constexpr size_t kPiece = 4096;  // elements that are added up at once, in cache

}  // namespace

struct Exchange::Reduction {
  size_t segment = 0;
  float* gradient = nullptr;
  PageBuffer staging = {};     // from the others one after the other, or rounded for its owner
  Cluster::Done arrived = {};  // called for each message
};

Exchange::Exchange(Cluster& cluster, const StateLayout& layout)
    : cluster_(cluster),
      layout_(layout),
      bf16_(layout.precision() == Precision::kBf16),
      square_sums_(layout.segments().size()) {
  GIGAGPT_ASSERT(2 * layout.segments().size() < size_t(Cluster::kTags));
}

Exchange::~Exchange() {
  const MutexLock lock(mutex_);
  while (under_way_ > 0) none_left_.wait(mutex_);
}

Cluster::Done Exchange::after(size_t calls, Cluster::Done done) {
  const MutexLock lock(mutex_);
  ++under_way_;
  return [this, missing = std::make_shared<size_t>(calls), done = std::move(done)] {
    if (--*missing > 0) return;
    done();
    const MutexLock lock(mutex_);
    if (--under_way_ == 0) none_left_.notify_all();
  };
}

std::vector<size_t> Exchange::order(const StateLayout& layout, size_t layer) {
  const auto place_in_shard = [&](size_t segment) {
    const int owner = layout.segments()[segment].owner;
    return segment - layout.segment_of(layer, layout.shard_of(layer, owner).begin);
  };
  std::vector<size_t> order(layout.segment_count(layer));
  std::iota(order.begin(), order.end(), layout.first_segment(layer));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return place_in_shard(a) < place_in_shard(b); });
  return order;
}

size_t Exchange::wire_bytes(const Segment& segment) const {
  return size_t(segment.count) * (bf16_ ? 2 : 4);
}

size_t Exchange::staging_bytes(const Segment& segment) const {
  if (layout_.is_own(segment)) return others() * wire_bytes(segment);
  return bf16_ ? wire_bytes(segment) : 0;
}

void Exchange::reduce(size_t segment, float* gradient, Cluster::Done done) {
  const size_t messages = layout_.is_own(this->segment(segment)) ? others() : 1;
  const auto reduction = std::make_shared<Reduction>(Reduction{segment, gradient});
  reduction->arrived = after(messages, [this, r = reduction.get(), done = std::move(done)] {
    finish(*r);
    done();
    start_reductions();
  });
  cluster_.post([this, reduction] {
    waiting_.push_back(reduction);
    start_reductions();
  });
}

// In order, as far as memory goes: the oldest that any system has not completed is under way on
// all of them, so that they never wait for each other in a circle.
void Exchange::start_reductions() {
  while (!waiting_.empty()) {
    const size_t bytes = staging_bytes(segment(waiting_.front()->segment));
    if (staged_bytes_ > 0 && staged_bytes_ + bytes > kMostStaged) return;
    staged_bytes_ += bytes;
    const auto reduction = std::move(waiting_.front());
    waiting_.pop_front();
    start(reduction);
  }
}

void Exchange::start(const std::shared_ptr<Reduction>& r) {
  const Segment& s = segment(r->segment);
  const size_t bytes = wire_bytes(s);
  if (staging_bytes(s) > 0) r->staging = PageBuffer(staging_bytes(s));
  std::byte* staging = r->staging.data();
  const auto arrived = [r] { r->arrived(); };
  if (layout_.is_own(s)) {
    for (int peer = 0; peer < cluster_.systems(); ++peer) {
      if (peer == cluster_.rank()) continue;
      cluster_.receive(peer, tag(r->segment, false), {staging, bytes}, arrived);
      staging += bytes;
    }
    return;
  }
  if (bf16_) {
    ops::kernels::optimizer_kernels().round(r->gradient, size_t(s.count),
                                            reinterpret_cast<Bf16*>(staging));
  }
  const auto* out = bf16_ ? staging : reinterpret_cast<const std::byte*>(r->gradient);
  cluster_.send(s.owner, tag(r->segment, false), {out, bytes}, arrived);
}

void Exchange::finish(Reduction& r) {
  const Segment& s = segment(r.segment);
  if (layout_.is_own(s)) add_up(r);
  r.staging = {};
  staged_bytes_ -= staging_bytes(s);
}

void Exchange::add_up(Reduction& r) {
  const auto& kernels = ops::kernels::optimizer_kernels();
  const size_t count = size_t(segment(r.segment).count), bytes = wire_bytes(segment(r.segment));
  const auto systems = size_t(cluster_.systems()), own = size_t(cluster_.rank());
  std::vector<float> rows(systems * kPiece);  // each system's part
  std::vector<Bf16> rounded(kPiece);
  double square_sum = 0;
  for (size_t begin = 0; begin < count; begin += kPiece) {
    const size_t n = std::min(kPiece, count - begin);
    for (size_t rank = 0; rank < systems; ++rank) {
      float* row = &rows[rank * kPiece];
      const std::byte* part = r.staging.data() + (rank < own ? rank : rank - 1) * bytes;
      if (!bf16_) {
        const auto* from = rank == own ? r.gradient : reinterpret_cast<const float*>(part);
        std::copy_n(from + begin, n, row);
        continue;
      }
      if (rank == own) kernels.round(r.gradient + begin, n, rounded.data());
      const auto* from = rank == own ? rounded.data() : reinterpret_cast<const Bf16*>(part) + begin;
      kernels.widen(from, n, row);
    }
    for (size_t stride = 1; stride < systems; stride *= 2) {
      for (size_t i = 0; i + stride < systems; i += 2 * stride) {
        kernels.add(&rows[(i + stride) * kPiece], 1.0F, n, &rows[i * kPiece]);
      }
    }
    if (layout_.form().compact) {
      kernels.round(rows.data(), n, rounded.data());
      kernels.widen(rounded.data(), n, rows.data());
    }
    std::copy_n(rows.begin(), n, r.gradient + begin);
    square_sum += kernels.sum_of_squares(rows.data(), n);
  }
  square_sums_[r.segment] = square_sum;
}

double Exchange::square_sum_of_layer(size_t layer) const {
  double sum = 0;
  const size_t first = layout_.first_segment(layer);
  for (size_t i = first; i < first + layout_.segment_count(layer); ++i) sum += square_sums_[i];
  return sum;
}

void Exchange::broadcast(size_t index, std::byte* working, Cluster::Done done) {
  if (others() == 0) return done();
  const Segment& s = segment(index);
  const std::span bytes(working, layout_.working_bytes(s));
  const bool own = layout_.is_own(s);
  const auto arrived = after(own ? others() : 1, std::move(done));
  if (!own) return cluster_.receive(s.owner, tag(index, true), bytes, arrived);
  for (int peer = 0; peer < cluster_.systems(); ++peer) {
    if (peer != cluster_.rank()) cluster_.send(peer, tag(index, true), bytes, arrived);
  }
}

void Exchange::meet(Cluster::Done done) {
  if (others() == 0) return done();
  static std::byte nothing[1];
  const auto received = std::make_shared<std::byte>();
  const auto arrived = after(2 * others(), [received, done = std::move(done)] { done(); });
  const int tag = this->tag(layout_.segments().size(), false);
  for (int peer = 0; peer < cluster_.systems(); ++peer) {
    if (peer == cluster_.rank()) continue;
    cluster_.send(peer, tag, nothing, arrived);
    cluster_.receive(peer, tag, {received.get(), 1}, arrived);
  }
}

}  // namespace gigagpt::engine
