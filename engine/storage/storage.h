// Where the state of a model's parameters is: the seam between RAM and a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "base/file.h"
#include "engine/state/layout.h"
#include "engine/state/update.h"
#include "engine/systems/cluster.h"

namespace gigagpt::engine {

// Memory of a layer that a visit works with: its working weights, or its gradient.
struct Request {
  size_t layer = 0;
  bool gradient = false;
  // Stays in place after the visit: weights as graphs hold on to them, a gradient as more will be
  // added to it.
  bool keep = false;
};

// An update is deferred: it is made layer by layer as the weights are next asked for, so that a
// file is read and written behind the compute of other layers. Use from one thread. Throws Error
// for what the file system refuses or a checksum contradicts; after that nothing else may be called
// but the destructor. Of several systems each keeps the state of its shard, and the working weights
// that it acquires are complete; all announce the same requests.
class Storage {
 public:
  // The cluster must outlive it.
  explicit Storage(StateLayout layout, Cluster& cluster)
      : layout_(std::move(layout)), cluster_(cluster) {}
  virtual ~Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  const StateLayout& layout() const { return layout_; }
  Cluster& cluster() const { return cluster_; }

  // Says what will be acquired and released next, in that order; more can be added at any time.
  virtual void expect(std::span<const Request> requests) = 0;
  // The memory, in the order of StateLayout, until release: updated weights to read, or a gradient
  // to add to. A gradient's content is that of its last release in this step, else undefined.
  virtual std::byte* acquire(const Request& request) = 0;
  virtual void release(const Request& request) = 0;
  // Forgets what is expected and kept; gradients so far are lost.
  virtual void abandon() = 0;

  // Of several systems, in place of releasing a layer's complete gradient: begins to add up those
  // of all, of which this one keeps its shard's. With `hold` that stays in place until
  // release_reduced(), for more to be added to it.
  virtual void reduce(size_t layer, bool hold) = 0;
  // Elements of a layer whose gradient is complete before the others': they may go first.
  virtual void reduce_early(size_t layer, int64_t begin, int64_t end) {}
  // Waits for a layer's reduction; the sum of squares of the shard.
  virtual double reduced_square_sum(size_t layer) = 0;
  virtual void release_reduced(size_t layer) {}

  // With GradientForm::kNone, in place of defer(). What is in a file is worth nothing from the
  // first of these calls until settle(): a step that has begun to update must be completed.
  virtual void begin_updates() {}
  // In place of releasing a layer's complete gradient, or after it was reduced; returns before the
  // update is made.
  virtual void update_layer(size_t layer, const Update& update) = 0;

  // With other forms: the gradients are complete. Returns before anything is updated; the last one
  // must be settled or all layers' weights acquired since.
  virtual void defer(const Update& update) = 0;
  // Makes what is left of the deferred update; all is on the disk when it returns. Nothing may be
  // expected.
  virtual void settle() = 0;
  virtual int64_t step() const = 0;  // of the last deferred update, or as given to begin_writing()

  // Values of one parameter, from element `first` of its layer; of the shard only. Nothing may be
  // expected or deferred.
  virtual void read(Array kept, size_t layer, int64_t first, std::span<float> values) = 0;
  // Writing begins with the step that the state is then of, and counts once it is finished. All
  // systems are given all values, and keep what is theirs.
  virtual void begin_writing(int64_t step) = 0;
  virtual void write(Array kept, size_t layer, int64_t first, std::span<const float> values) = 0;
  virtual void finish_writing() = 0;

  virtual IoCounts counts() const = 0;  // since the start
  // What tells a file from others of the same model; "" in RAM. A file outlives the process: it is
  // where the run goes on, and snapshots hold its weights only.
  virtual std::string file_id() const { return ""; }

 private:
  StateLayout layout_;
  Cluster& cluster_;
};

}  // namespace gigagpt::engine
