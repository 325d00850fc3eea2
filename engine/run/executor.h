// Runs a model layer by layer: layer outer, micro-batch inner, so that each layer's weights are
// asked for once a pass however many micro-batches there are.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/model/layer.h"
#include "engine/run/store.h"

namespace gigagpt::engine {

struct ExecutorOptions {
  // Micro-batches that pass a layer before the next; 0: all of them. What they keep for the
  // backward pass is in memory together, so with weights at hand one at a time is best.
  int64_t window = 1;
  bool recompute = false;  // keep only each layer's input and run it again in the backward pass
};

class Executor {
 public:
  // Both must outlive the executor.
  Executor(const Model& model, Store& store, ExecutorOptions options);

  // Forward and backward over all micro-batches: returns the mean loss over all input rows and
  // leaves its gradient in the store, or nothing if `progress` said so. Gradients are added in
  // micro-batch order, so the bits do not depend on the options. Of several systems each is given
  // all micro-batches and takes its part of them; then `progress` cannot end the step. Throws
  // NonFinite for a loss that is not, naming the first layer whose output is not.
  std::optional<double> train_step(std::span<const MicroBatch> batches, uint64_t key,
                                   const Progress& progress);

  // The loss of each micro-batch, without gradients or dropout; empty if `progress` said so, on any
  // system.
  std::vector<double> evaluate(std::span<const MicroBatch> batches, const Progress& progress);

  // The last layer's output for one batch without target, e.g. logits. With caches (one per
  // layer), the batch continues the positions they hold.
  at::Tensor infer(const MicroBatch& batch, std::span<ops::KVCache> caches);

 private:
  struct Window;
  Visit forward_visit(size_t layer) const { return {layer, false, !options_.recompute}; }
  Visit backward_visit(size_t layer, bool last) const {
    return {layer, true, !options_.recompute, last};
  }
  std::vector<Visit> visits_of_step(size_t windows) const;
  template <class F>
  bool walk(const F& visit);
  std::optional<std::vector<double>> evaluate_alone(std::span<const MicroBatch> batches,
                                                    const Progress& progress);
  std::pair<size_t, size_t> share_of(size_t batches) const;
  // Where others take part, or layers are updated by then, a step that has begun must end.
  bool can_drop() const { return store_.cluster().is_alone() && !store_.updates_in_visits(); }
  [[noreturn]] void fail_nonfinite(std::span<const MicroBatch> batches, size_t first, uint64_t key);
  std::string first_nonfinite_layer(std::span<const MicroBatch> batches, size_t first,
                                    uint64_t key);
  bool run_window(Window& window);
  void forward_layer(Window& window, size_t layer);
  void backward_layer(Window& window, size_t layer);

  const Model& model_;
  Store& store_;
  ExecutorOptions options_;
};

}  // namespace gigagpt::engine
