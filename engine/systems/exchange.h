// How systems share a step: each segment's gradient is added up where its state is kept
// (reduce-scatter), and its updated weights go from there to all (all-gather). Without LibTorch.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "base/async_file.h"
#include "base/mutex.h"
#include "engine/state/layout.h"
#include "engine/systems/cluster.h"

namespace gigagpt::engine {

// Calls may come from any thread; all systems ask for the same segments, in the same order but for
// a few. What is passed is lent until `done` is called, on the cluster's thread. A system that is
// alone has nobody to wait for: `done` is called at once.
class Exchange {
 public:
  // Both must outlive it.
  Exchange(Cluster& cluster, const StateLayout& layout);
  // Waits for what was asked for.
  ~Exchange();

  // A segment's complete gradient on this system, in fp32. If the segment is this system's it
  // becomes the sum over all, added in pairs, neighbours first, then pairs of pairs: the same bits
  // whatever arrives first. In bf16 what is sent, and this system's own part, is rounded to bf16.
  // Compact state has the sum rounded as well.
  void reduce(size_t segment, float* gradient, Cluster::Done done);
  // The sum of squares of this system's shard of a layer's gradient, once all of it is reduced.
  double square_sum_of_layer(size_t layer) const;

  // A segment's working weights: to all if it is this system's, else from its owner.
  void broadcast(size_t segment, std::byte* working, Cluster::Done done);

  // Calls `done` when all systems have come to this.
  void meet(Cluster::Done done);

  // In an order that has all owners at work: the first segment of each, then the second.
  static std::vector<size_t> order(const StateLayout& layout, size_t layer);

 private:
  struct Reduction;

  // Something has begun that ends, with `done`, when what this returns has been called so often.
  Cluster::Done after(size_t calls, Cluster::Done done);
  size_t wire_bytes(const Segment& segment) const;
  size_t staging_bytes(const Segment& segment) const;
  void start_reductions();
  void start(const std::shared_ptr<Reduction>& reduction);
  void finish(Reduction& reduction);
  void add_up(Reduction& reduction);
  size_t others() const { return size_t(cluster_.systems() - 1); }
  const Segment& segment(size_t index) const { return layout_.segments()[index]; }
  int tag(size_t segment, bool weights) const { return int(2 * segment + (weights ? 1 : 0)); }

  Cluster& cluster_;
  const StateLayout& layout_;
  const bool bf16_;                  // on the wire
  std::vector<double> square_sums_;  // per segment of its own
  Mutex mutex_;
  CondVar none_left_;
  size_t under_way_ GUARDED_BY(mutex_) = 0;

  // The cluster's thread's own.
  std::deque<std::shared_ptr<Reduction>> waiting_;
  size_t staged_bytes_ = 0;
};

}  // namespace gigagpt::engine
