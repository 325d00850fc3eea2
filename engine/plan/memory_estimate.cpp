#include "engine/plan/memory_estimate.h"

#include <algorithm>

namespace gigagpt::engine {

MemoryEstimate::MemoryEstimate(const std::vector<LayerSpec>& specs, const StateForm& form,
                               const RunSize& size, const Shard& shard)
    : layout_(specs, form, StateLayout::kSegmentElements, shard),
      size_(size),
      element_bytes_(double(element_bytes(form.precision))) {
  for (const LayerSpec& spec : specs) add_layer(spec);
}

double MemoryEstimate::state_bytes() const {
  double bytes = 0;
  for (const Segment& segment : layout_.segments()) {
    const SlotParts parts = layout_.slot_parts(segment);
    bytes += double(parts.working.size_bytes);
    if (!size_.training) continue;
    if (layout_.form().gradient != GradientForm::kNone) bytes += 4 * double(segment.count);
    if (!layout_.is_own(segment)) continue;
    bytes += double(parts.exp_avg.size_bytes + parts.exp_avg_sq.size_bytes);
    if (layout_.form().has_masters()) bytes += double(parts.master.size_bytes);
  }
  return bytes;
}

double MemoryEstimate::activation_bytes(int64_t window, bool recompute) const {
  const double boundaries = kept_input_ * double(layout_.layer_count());
  if (!size_.training) return double(window) * kept_input_ + largest_graph_ + loss_;
  const double visit = std::max(1.6 * largest_graph_, loss_);
  const double kept = recompute ? 0 : double(window) * graphs_ + 0.6 * largest_graph_;
  return rows_ + double(window) * boundaries + (recompute ? visit : kept + loss_);
}

// A gradient that is kept from the visit of one layer to that of its owner.
double MemoryEstimate::waiting_gradient_bytes() const {
  double bytes = 0;
  if (!size_.training || layout_.form().gradient == GradientForm::kFp32) return 0;
  for (size_t i = 0; i < layout_.layer_count(); ++i) {
    for (const std::string& name : layout_.spec(i).shared) {
      bytes = std::max(bytes, double(layout_.gradient_bytes(layout_.place(name).layer)));
    }
  }
  return bytes;
}

double MemoryEstimate::transient_gradient_bytes() const {
  if (!size_.training || layout_.form().gradient != GradientForm::kNone) return 0;
  double most = 0;
  for (size_t i = 0; i < layout_.layer_count(); ++i) {
    most = std::max(most, double(layout_.gradient_bytes(i)));
  }
  return most + waiting_gradient_bytes();
}

double MemoryEstimate::streamed_layer_bytes(bool recompute) const {
  double most = 0, pinned = 0;
  const size_t count = layout_.layer_count();
  for (size_t i = 0; i < count; ++i) {
    most = std::max(most, visit_bytes(i) + (i > 0 ? visit_bytes(i - 1) : 0.0));
    pinned += double(layout_.working_bytes(i));
  }
  return most + waiting_gradient_bytes() + (recompute || !size_.training ? 0.0 : pinned);
}

double MemoryEstimate::buffer_bytes() const {
  return kUpdateBuffers * double(layout_.slot_bytes());
}

void MemoryEstimate::add_layer(const LayerSpec& spec) {
  const double tokens = double(size_.micro_batch_tokens());
  double graph = 0, elements = 0;
  bool looks_up = false;
  for (const ParamSpec& param : spec.params) {
    if (param.shape.size() < 2) continue;
    looks_up |= param.looked_up;
    kept_input_ = std::max(kept_input_, looks_up ? 4 * tokens * double(param.shape.back()) : 0.0);
    graph += tokens * element_bytes_ * double(param.shape.front() + param.shape.back());
    elements += double(param.count());
    if (!param.looked_up) continue;
    const double step_tokens = tokens * double(size_.micro_batches());
    rows_ += 4 * std::min(double(param.shape.front()), step_tokens) * double(param.shape.back());
  }
  if (looks_up) graph = elements = 0;
  if (!spec.shared.empty()) add_loss(spec);
  graphs_ += graph;
  repeatable_ += elements;
  largest_graph_ = std::max(largest_graph_, graph);
}

// Logits of a chunk, and with several micro-batches a gradient beside the sum.
void MemoryEstimate::add_loss(const LayerSpec& spec) {
  for (const std::string& name : spec.shared) {
    const auto& shape = layout_.param(layout_.place(name)).shape;
    const double V = double(shape.front()), C = double(shape.back());
    const double tokens = double(size_.micro_batch_tokens());
    const double rows = std::min<double>(tokens, element_bytes_ == 2 ? 1024 : 512);
    loss_ += 4 * rows * V + (size_.training && size_.micro_batches() > 1 ? 4 * V * C : 0);
    loss_ += tokens * C * (2 * element_bytes_ + 8);
    logits_ += 4 * tokens * V;
    last_ += V * C;
  }
}

double MemoryEstimate::visit_bytes(size_t layer) const {
  const auto of_one = [&](size_t i) {
    return double(layout_.working_bytes(i)) +
           (size_.training ? double(layout_.gradient_bytes(i)) : 0.0);
  };
  double bytes = of_one(layer);
  std::vector<size_t> owners;
  for (const std::string& name : layout_.spec(layer).shared) {
    const size_t owner = layout_.place(name).layer;
    if (std::find(owners.begin(), owners.end(), owner) != owners.end()) continue;
    owners.push_back(owner);
    bytes += of_one(owner);
  }
  return bytes;
}

}  // namespace gigagpt::engine
