#include "engine/plan/forecast.h"

#include <algorithm>
#include <set>

#include "base/async_file.h"

namespace gigagpt::engine {
namespace {

// Found by measuring (docs/LOG.md); what they multiply is what matters.
constexpr double kGemmShare = 0.88;    // of the rate of one large product, in products of a step
constexpr double kOutputPasses = 6;    // over what layers keep, forward and backward
constexpr double kLogitPasses = 4;     // over logits and their gradient
constexpr double kCodeSeconds = 3e-9;  // of one core, to update an element in compact form
constexpr double kFilePasses = 3.5;    // of the streaming thread over what it reads

// How often a step asks for each layer's weights and gradient.
struct Visits {
  std::vector<double> weights, gradients;
};

Visits visits_of(const StateLayout& layout, int64_t windows, bool recompute) {
  const size_t count = layout.layer_count(), last = count - 1;
  Visits visits{std::vector<double>(count), std::vector<double>(count)};
  std::set<std::string> shared;
  for (size_t i = 0; i < count; ++i) {
    visits.weights[i] += i < last && recompute ? 2 : 1;
    visits.gradients[i] += 1;
    for (const auto& [name, _] : layout.spec(i).shared) {
      const auto place = layout.place(name);
      // The first other user of a parameter that is looked up adds to its dense gradient.
      const bool taken = !layout.param(place).rule.looked_up || !shared.insert(name).second;
      if (!taken) visits.gradients[place.layer] += 1;
    }
    for (const size_t owner : layout.owners_of_shared(i)) {
      visits.weights[owner] += recompute ? 1 : 0;  // else they are still in memory
    }
  }
  for (auto* all : {&visits.weights, &visits.gradients}) {
    for (double& times : *all) times *= double(windows);
  }
  return visits;
}

}  // namespace

double layer_graph_bytes(const LayerSpec& spec, double tokens, double element_bytes) {
  double bytes = 4 * tokens * spec.kept_floats;
  for (const ParamSpec& param : spec.params) {
    if (param.shape.size() < 2) continue;
    bytes += param.rule.per_token * tokens * element_bytes *
             double(param.shape.front() + param.shape.back());
  }
  return bytes;
}

MemoryEstimate::MemoryEstimate(const std::vector<LayerSpec>& specs, const StateForm& form,
                               const RunSize& size, const Shard& shard)
    : layout_(specs, form, StateLayout::kSegmentElements, shard),
      size_(size),
      element_bytes_(double(element_bytes(form.precision))) {
  for (size_t i = 0; i + 1 < specs.size(); ++i) add_layer(specs[i]);
  add_loss(specs.back());
}

double MemoryEstimate::state_bytes() const {
  double bytes = 0;
  std::vector<double> shards(size_t(layout_.shard().systems));
  for (const Segment& segment : layout_.segments()) {
    bytes += double(layout_.working_bytes(segment));
    if (!size_.training) continue;
    if (layout_.form().gradient != GradientForm::kNone) bytes += 4 * double(segment.count);
    double& shard = shards[size_t(segment.owner)];
    for (const Array kept : {Array::kExpAvg, Array::kExpAvgSq})
      shard += double(layout_.kept_bytes(segment, kept));
    if (layout_.form().has_masters()) shard += 4 * double(segment.count);
  }
  return bytes + *std::max_element(shards.begin(), shards.end());
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
    for (const size_t owner : layout_.owners_of_shared(i)) {
      bytes = std::max(bytes, double(layout_.gradient_bytes(owner)));
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
  return double(layout_.update_buffers()) * double(layout_.most_slot_bytes());
}

double MemoryEstimate::direction_flops() const {
  const auto flops_of = layout_.form().optimizer->whole_flops;
  double flops = 0;
  for (size_t i = 0; flops_of != nullptr && i < layout_.layer_count(); ++i) {
    for (const ParamSpec& param : layout_.spec(i).params)
      flops += layout_.form().needs_whole(param) ? flops_of(param.shape) : 0;
  }
  return flops;
}

double MemoryEstimate::direction_bytes() const {
  const auto bytes_of = layout_.form().optimizer->whole_bytes;
  double most = 0;
  for (size_t i = 0; bytes_of != nullptr && i < layout_.layer_count(); ++i) {
    for (const ParamSpec& param : layout_.spec(i).params) {
      if (layout_.form().needs_whole(param))
        most = std::max(most, bytes_of(param.shape, element_bytes_));
    }
  }
  return most;
}

double MemoryEstimate::exchange_bytes() const {
  constexpr double kUsual = 64 << 20;  // as Exchange has it
  double most = 0;
  for (const Segment& segment : layout_.segments())
    most = std::max(most, element_bytes_ * double(segment.count));
  return std::max(0.0, most * double(layout_.shard().systems - 1) - kUsual);
}

void MemoryEstimate::add_layer(const LayerSpec& spec) {
  const double tokens = double(size_.micro_batch_tokens());
  double graph = layer_graph_bytes(spec, tokens, element_bytes_), elements = 0;
  bool looks_up = false;
  for (const ParamSpec& param : spec.params) {
    if (param.shape.size() < 2) continue;
    looks_up |= param.rule.looked_up;
    // What passes from layer to layer: as wide as what is looked up, or as what a layer's first
    // matrix is multiplied with.
    if (looks_up || elements == 0)
      kept_input_ = std::max(kept_input_, 4 * tokens * double(param.shape.back()));
    elements += double(param.count());
    if (!param.rule.looked_up) continue;
    const double step_tokens = tokens * double(size_.micro_batches());
    rows_ += 4 * std::min(double(param.shape.front()), step_tokens) * double(param.shape.back());
  }
  if (looks_up) graph = elements = 0;
  graphs_ += graph;
  repeatable_ += elements;
  largest_graph_ = std::max(largest_graph_, graph);
}

// The last layer's matrices, its own or not, make logits: a chunk of them at a time, and with
// several micro-batches a gradient beside the sum.
void MemoryEstimate::add_loss(const LayerSpec& spec) {
  std::vector<const ParamSpec*> matrices;
  for (const ParamSpec& param : spec.params) {
    if (param.shape.size() >= 2) matrices.push_back(&param);
  }
  for (const auto& [name, _] : spec.shared) matrices.push_back(&layout_.param(layout_.place(name)));
  for (const ParamSpec* matrix : matrices) {
    const double V = double(matrix->shape.front()), C = double(matrix->shape.back());
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
  for (const size_t owner : layout_.owners_of_shared(layer)) bytes += of_one(owner);
  return bytes;
}

StepTraffic step_traffic(const StateLayout& layout, int64_t windows, bool recompute,
                         size_t cached) {
  StepTraffic traffic;
  const GradientForm form = layout.form().gradient;
  const Visits visits = visits_of(layout, windows, recompute);
  const bool deferred = form != GradientForm::kNone;  // the update brings the weights along
  for (size_t i = 0; i < layout.segments().size(); ++i) {
    const Segment& segment = layout.segments()[i];
    const SlotParts parts = layout.slot_parts(segment);
    const double load = double(parts.end - parts.working.at + kBlockBytes);
    const double gradient = double(parts.exp_avg.at - parts.gradient_info);
    const double weights = visits.weights[segment.layer], sums = visits.gradients[segment.layer];
    if (!layout.is_own(segment)) {  // its weights come from another system once a step
      traffic.write += load;
      traffic.update += load;
      traffic.read += load * (weights - 1);
      if (form == GradientForm::kFp32) {
        traffic.write += gradient * (sums - 1);
        traffic.read += gradient * (sums - 1);
      }
      continue;
    }
    const uint64_t end = layout.form().has_masters() ? parts.working.at : parts.end;
    const double update_read =
        layout.place_of(i) < cached
            ? 0
            : double(end - (form == GradientForm::kNone ? parts.state : parts.gradient_info));
    const double update_write = double(parts.end - parts.state);
    traffic.read += update_read + load * (weights - (deferred ? 1 : 0));
    traffic.write += update_write;
    traffic.update += update_read + update_write;
    if (form == GradientForm::kFp32) {
      traffic.write += gradient * sums;
      traffic.read += gradient * (sums - 1);
    } else if (form == GradientForm::kBf16) {
      traffic.write += gradient;
    }
  }
  if (form != GradientForm::kNone) traffic.write += kBlockBytes;  // a header
  return traffic;
}

// Updates are of the shard; the rest goes by windows.
StepTraffic shared_traffic(const StepTraffic& of_one, const RunSize& size, int64_t window) {
  const auto windows = [&](int64_t micro_batches) {
    const int64_t whole = (micro_batches + window - 1) / std::max<int64_t>(1, window);
    return double(whole);
  };
  const double fewer = windows(size.micro_batches()) / windows(size.all_micro_batches());
  const double update = of_one.update / double(size.systems);
  const auto share = [&](double bytes) { return (bytes - of_one.update / 2) * fewer + update / 2; };
  return {share(of_one.read), share(of_one.write), update};
}

namespace {

// What is sent, and what of it the compute cannot hide.
void add_network(const MemoryEstimate& estimate, const RunSize& size, double windows,
                 double forward_s, Plan& plan) {
  const StateLayout& layout = estimate.layout();
  const double others = 1 - 1 / double(size.systems);
  const auto wide = double(element_bytes(layout.precision()));
  double gradients = 0, weights = 0;
  for (size_t i = 0; i < layout.layer_count(); ++i) {
    gradients += wide * double(layout.layer(i).size) * others;
    weights += double(layout.working_bytes(i)) * others;
  }
  // In RAM what other layers complete of the first one's goes before the rest.
  auto last_gradient = double(layout.layer(0).size);
  for (const ParamSpec& param : layout.spec(0).params) {
    if (plan.execution.file.empty() && param.rule.looked_up) last_gradient -= double(param.count());
  }
  plan.sent_gb = (gradients + weights) / 1e9;
  const double bytes_per_s = size.network_gbit * 1e9 / 8;
  if (bytes_per_s <= 0) return;
  plan.sending_s = (gradients + weights) / bytes_per_s;
  const auto exposed = [&](double all_bytes, double alone_bytes, double behind_s) {
    return std::max(alone_bytes / bytes_per_s, all_bytes / bytes_per_s - behind_s / windows);
  };
  const double backward_s = plan.compute_s - forward_s;
  plan.network_s = exposed(gradients, wide * last_gradient * others, backward_s) +
                   exposed(weights, double(layout.working_bytes(0)) * others, forward_s);
}

}  // namespace

void forecast_step(const MemoryEstimate& estimate, const RunSize& size, const StepTraffic& traffic,
                   const Machine& machine, const DiskRates& disk, Plan& plan) {
  const Execution& execution = plan.execution;
  const int64_t tokens =
      std::min(size.step_tokens(), size.micro_batches() * size.micro_batch_tokens());
  plan.flops_per_token = train_flops_per_token(estimate.layout().specs(), size.sequence_length);
  const double forward = plan.flops_per_token * double(tokens) / 3;
  const double again = execution.recompute ? forward * estimate.repeatable_share() : 0;
  const double flops = 3 * forward + again + estimate.direction_flops() / double(size.systems);
  plan.step_flops = flops;
  const double rate = machine.flops(execution.form.precision);
  if (rate <= 0 || machine.memory_bytes_per_s <= 0) return;

  const double passes = execution.recompute ? kOutputPasses * 4 / 3 : kOutputPasses;
  const double micro_batches = double(size.micro_batches());
  double bytes =
      micro_batches * (passes * estimate.graph_bytes() + kLogitPasses * estimate.logit_bytes());
  double core_s = 0;  // of one core, that others cannot use
  if (execution.file.empty()) {
    bytes += 2 * estimate.state_bytes() /
             double(estimate.layout().shard().systems > 1 ? 1 : size.systems);
  } else {
    core_s += kFilePasses * traffic.update / machine.memory_bytes_per_s;
  }
  if (execution.form.compact) core_s += kCodeSeconds * estimate.parameters();
  const double cores = std::max(1, machine.cores);
  plan.compute_s =
      flops / (kGemmShare * rate) + bytes / machine.memory_bytes_per_s + core_s / cores;

  const double windows =
      std::max(1.0, micro_batches / double(std::max<int64_t>(1, execution.window)));
  if (size.systems > 1) {
    add_network(estimate, size, windows, plan.compute_s * forward / flops, plan);
  }
  plan.step_s = plan.compute_s + plan.network_s;
  if (execution.file.empty() || disk.mixed <= 0) return;

  // The passes that make the updates have theirs to hide behind, the others what is left.
  const bool backward = execution.form.gradient == GradientForm::kNone;
  const double share = (backward ? flops - forward : forward) / flops / windows;
  const double rest = traffic.read + traffic.write - traffic.update;
  const double stall_s = std::max(0.0, traffic.update / disk.mixed - share * plan.compute_s) +
                         std::max(0.0, rest / disk.mixed - (1 - share) * plan.compute_s);
  plan.step_s = plan.compute_s + stall_s + plan.network_s;
}

}  // namespace gigagpt::engine
