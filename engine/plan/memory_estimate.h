// Upper-bound estimates of the memory that a run of a model needs, in bytes. No LibTorch.
#pragma once

#include <vector>

#include "engine/plan/plan.h"

namespace gigagpt::engine {

class MemoryEstimate {
 public:
  // `form` as a file would have it; RAM holds all gradients in fp32, or none.
  MemoryEstimate(const std::vector<LayerSpec>& specs, const StateForm& form, const RunSize& size,
                 const Shard& shard = {});

  const StateLayout& layout() const { return layout_; }  // in segments
  double parameters() const { return double(parameter_count(layout_.specs())); }

  double state_bytes() const;
  // Outputs that are kept, graphs and logits, beside the state.
  double activation_bytes(int64_t window, bool recompute) const;
  // Gradients that the state does not hold, of two visits that follow each other.
  double transient_gradient_bytes() const;

  // When streamed: the layers of two visits that follow each other, and buffers to write behind.
  double streamed_layer_bytes(bool recompute) const;
  double buffer_bytes() const;

  double graph_bytes() const { return graphs_; }  // that all layers keep of a micro-batch
  double logit_bytes() const { return logits_; }  // a micro-batch's logits, in fp32
  // The share of the matrix products that lies in layers that can be run again.
  double repeatable_share() const { return repeatable_ / (repeatable_ + last_); }

 private:
  void add_layer(const LayerSpec& spec);
  void add_loss(const LayerSpec& spec);
  double visit_bytes(size_t layer) const;
  double waiting_gradient_bytes() const;

  StateLayout layout_;
  RunSize size_;
  double element_bytes_;  // of an element that is multiplied
  double kept_input_ = 0, graphs_ = 0, largest_graph_ = 0, loss_ = 0, rows_ = 0, logits_ = 0;
  double repeatable_ = 0, last_ = 0;  // elements of matrices
};

constexpr double kProgramBytes = 0.35e9;  // LibTorch, oneDNN and their threads
constexpr int kUpdateBuffers = 8;         // as in StreamOptions

}  // namespace gigagpt::engine
