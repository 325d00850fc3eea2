// Runs a model layer by layer: layer outer, micro-batch inner, so that each layer's weights are
// asked for once a pass however many micro-batches there are.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/layer.h"
#include "engine/plan/plan.h"
#include "engine/run/store.h"

namespace gigagpt::engine {

// What a step's backward pass leaves, of all systems together.
struct Gradients {
  double loss = 0;                                  // mean over all labels that count
  double norm = 0;                                  // L2, of all gradients, before clipping
  double seconds = 0;                               // that this system took
  std::map<std::string, double> added_losses = {};  // by name, the means over the step
};

class Executor {
 public:
  // Both must outlive the executor. Of the options it looks at the window and at `recompute`.
  Executor(const Model& model, Store& store, Execution options);

  // Forward and backward over all micro-batches: leaves the gradients of the mean loss in the
  // store, for `update`, which Store::commit() completes; returns nothing if `progress` ended the
  // step. Gradients are added in micro-batch order, so the bits do not depend on the options. With
  // several systems each is given all micro-batches and takes its part of them; then `progress`
  // cannot end the step. Throws NonFinite for a loss or gradient that is not finite, naming the
  // first layer.
  std::optional<Gradients> compute_gradients(std::span<const MicroBatch> batches, uint64_t key,
                                             const Update& update, const Progress& progress);

  // The loss of each micro-batch, without gradients or dropout; empty if `progress` said so, on any
  // system.
  std::vector<double> evaluate(std::span<const MicroBatch> batches, const Progress& progress);

  // The last layer's output for one batch without target, e.g. logits. With memories (one per
  // layer) the batch continues what they hold, and the output is of the last position alone.
  at::Tensor infer(const MicroBatch& batch, std::span<ops::Memory> memories = {});

 private:
  struct Step;
  struct Window;
  size_t window_size(size_t batches) const;
  std::vector<Visit> visits_of_step(size_t windows) const;
  template <class F>
  bool walk(const F& visit);
  std::optional<std::vector<double>> evaluate_own(std::span<const MicroBatch> batches,
                                                  const Progress& progress);
  std::pair<size_t, size_t> own_part(size_t batches) const;
  // Other systems wait for this one's messages: what they have begun together must end.
  bool can_stop() const { return store_.cluster().is_alone(); }
  // Once layers have been updated a step must end as well.
  bool can_drop() const { return can_stop() && !store_.updates_in_visits(); }
  [[noreturn]] void fail_nonfinite(std::span<const MicroBatch> batches, size_t first, uint64_t key);
  std::string first_nonfinite_layer(std::span<const MicroBatch> batches, size_t first,
                                    uint64_t key);
  bool run_window(Window& window);
  void forward_layer(Window& window, size_t layer);
  void backward_layer(Window& window, size_t layer);

  const Model& model_;
  Store& store_;
  Execution options_;
};

}  // namespace gigagpt::engine
