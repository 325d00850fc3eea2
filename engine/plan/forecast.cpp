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
    std::vector<size_t> owners;
    for (const std::string& name : layout.spec(i).shared) {
      const auto place = layout.place(name);
      // The first other user of a parameter that is looked up adds to its dense gradient.
      const bool taken = !layout.param(place).looked_up || !shared.insert(name).second;
      if (!taken) visits.gradients[place.layer] += 1;
      if (std::find(owners.begin(), owners.end(), place.layer) != owners.end()) continue;
      owners.push_back(place.layer);
      visits.weights[place.layer] += recompute ? 1 : 0;  // else they are still in memory
    }
  }
  for (auto* all : {&visits.weights, &visits.gradients}) {
    for (double& times : *all) times *= double(windows);
  }
  return visits;
}

}  // namespace

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
        layout.place_among_own(i) < cached
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
    return double((micro_batches + window - 1) / std::max<int64_t>(1, window));
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
    if (plan.execution.file.empty() && param.looked_up) last_gradient -= double(param.count());
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
  const double forward = size.flops_per_token * double(tokens) / 3;
  const double again = execution.recompute ? forward * estimate.repeatable_share() : 0;
  const double flops = 3 * forward + again;
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
