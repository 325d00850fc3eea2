// What a run needs of memory, and what a step of it moves and how long it takes. No LibTorch.
#pragma once

#include <vector>

#include "engine/plan/plan.h"

namespace gigagpt::engine {

// Upper bounds of the memory that a run of a model needs, in bytes.
class MemoryEstimate {
 public:
  // `form` as a file would have it; RAM holds all gradients in fp32, or none.
  MemoryEstimate(const std::vector<LayerSpec>& specs, const StateForm& form, const RunSize& size,
                 const Shard& shard = {});

  const StateLayout& layout() const { return layout_; }  // in segments
  double parameters() const { return double(parameter_count(layout_.specs())); }

  double state_bytes() const;  // in RAM, of the system that has most
  // Outputs that are kept, graphs and logits, beside the state.
  double activation_bytes(int64_t window, bool recompute) const;
  // Gradients that the state does not hold, of two visits that follow each other.
  double transient_gradient_bytes() const;

  // When streamed: the layers of two visits that follow each other, and buffers to write behind.
  double streamed_layer_bytes(bool recompute) const;
  double buffer_bytes() const;
  // What the direction of the largest parameter that is needed whole is made in.
  double direction_bytes() const;
  // What gradients of large segments arrive in from other systems, beyond the usual.
  double exchange_bytes() const;
  double direction_flops() const;  // of all, a step

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

// The memory of LibTorch, oneDNN and their threads: as measured, with what grows as they work
// (oneDNN's code, malloc's lists); or a bound.
inline double program_bytes(const Machine& machine) {
  return machine.program_bytes > 0 ? machine.program_bytes + 0.05e9 : 0.35e9;
}
// Bytes that a layer keeps of so many tokens for its backward pass, at most, beside its output.
double layer_graph_bytes(const LayerSpec& spec, double tokens, double element_bytes);
// Bytes of the file that a step reads and writes; those of the pass that makes the updates, the
// first forward pass or with GradientForm::kNone the backward pass, are counted in `update` too.
struct StepTraffic {
  double read = 0, write = 0;
  double update = 0;
};
// `cached` segments keep their state in memory. In the long run: a step that begins with a deferred
// update and leaves one. Of several systems, what one moves of its own file.
StepTraffic step_traffic(const StateLayout& layout, int64_t windows, bool recompute, size_t cached);

// Fills in how much the plan's step computes and sends, and how long it takes, on size.systems
// systems like this machine. Gradients go behind the last backward pass but for those of the first
// layer, weights behind the first forward pass but for its weights.
void forecast_step(const MemoryEstimate& estimate, const RunSize& size, const StepTraffic& traffic,
                   const Machine& machine, const DiskRates& disk, Plan& plan);

// What a step moves on size.systems systems, given that of one.
StepTraffic shared_traffic(const StepTraffic& of_one, const RunSize& size, int64_t window);

}  // namespace gigagpt::engine
