// What a run of a model needs of memory, in bytes; estimates that err on the high side. No
// LibTorch.
#pragma once

#include <vector>

#include "engine/plan/plan.h"

namespace gigagpt::engine {

class Needs {
 public:
  // `form` as a file would have it; RAM holds all gradients in fp32, or none.
  Needs(const std::vector<LayerSpec>& specs, const StateForm& form, const RunSize& size,
        const Shard& shard = {});

  const StateLayout& layout() const { return layout_; }  // in segments
  double parameters() const { return double(parameter_count(layout_.specs())); }

  double state_in_ram() const;
  // Beside the state.
  double of_activations(int64_t window, bool recompute) const;
  // For gradients of layers that are in no state: of two visits that follow each other.
  double of_passing_gradients() const;

  // For streaming: what two visits that follow each other need, and room to write behind.
  double of_layers(bool recompute) const;
  double of_buffers() const;

  double boundary_bytes() const { return kept_input_; }  // of a micro-batch's input to a layer
  double graph_bytes() const { return graphs_; }         // what all layers keep of a micro-batch
  double logit_bytes() const { return logits_; }         // of a micro-batch's logits, in fp32
  // The share of matrix products that are in layers that can be run again.
  double repeatable_share() const { return repeatable_ / (repeatable_ + last_); }

 private:
  void add_layer(const LayerSpec& spec);
  void add_loss(const LayerSpec& spec);
  double of_visit(size_t layer) const;
  double waiting_gradients() const;

  StateLayout layout_;
  RunSize size_;
  double wide_;  // bytes of an element that is multiplied
  double kept_input_ = 0, graphs_ = 0, largest_graph_ = 0, loss_ = 0, rows_ = 0, logits_ = 0;
  double repeatable_ = 0, last_ = 0;  // elements of matrices
};

constexpr double kProgramBytes = 0.35e9;  // LibTorch, oneDNN and their threads
constexpr int kUpdateBuffers = 8;         // as in StreamOptions

}  // namespace gigagpt::engine
