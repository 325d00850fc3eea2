#include "engine/memory_plan.h"

#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/system.h"
#include "engine/state_file.h"

namespace gigagpt::engine {
namespace {

constexpr double kProgramBytes = 0.35e9;  // LibTorch, oneDNN and their threads

// What a run of a model needs, in bytes.
class Needs {
 public:
  Needs(const std::vector<LayerSpec>& specs, Precision precision, const RunSize& size)
      : resident_(specs, precision, size.training, /*segment_elements=*/0),
        streamed_(specs, precision, size.training, StateLayout::kSegmentElements),
        size_(size),
        wide_(precision == Precision::kBf16 ? 2 : 4) {
    for (const LayerSpec& spec : specs) add_layer(spec);
  }

  double state() const {
    double elements = 0, working = 0;
    for (size_t i = 0; i < resident_.layer_count(); ++i) {
      elements += double(resident_.layer(i).size);
      working += double(resident_.working_bytes(i));
    }
    if (!size_.training) return working;
    return 16 * elements + (wide_ == 2 ? working : 0);
  }
  double in_file() const {
    const double spare = size_.training ? 16 : 0;
    return (double(streamed_.segments().size()) + spare) * double(streamed_.slot_bytes());
  }

  // Beside the state.
  double of_activations(int64_t window, bool recompute) const {
    const double boundaries = kept_input_ * double(resident_.layer_count());
    if (!size_.training) return double(window) * kept_input_ + largest_graph_ + loss_;
    const double visit = std::max(1.6 * largest_graph_, loss_);
    const double kept = recompute ? 0 : double(window) * graphs_ + 0.6 * largest_graph_;
    return rows_ + double(window) * boundaries + (recompute ? visit : kept + loss_);
  }

  // For streaming: what two visits that follow each other need, and room to write behind.
  double of_layers(bool recompute) const {
    double most = 0, pinned = 0;
    const size_t count = resident_.layer_count();
    for (size_t i = 0; i < count; ++i) {
      most = std::max(most, of_visit(i) + (i > 0 ? of_visit(i - 1) : 0.0));
      pinned += double(resident_.working_bytes(i));
    }
    return most + (recompute || !size_.training ? 0.0 : pinned);
  }
  double of_buffers() const { return double(kBuffers) * double(streamed_.slot_bytes()); }

  static constexpr int kBuffers = 8;

 private:
  void add_layer(const LayerSpec& spec) {
    const double tokens = double(size_.micro_batch_tokens());
    double graph = 0;
    bool looks_up = false;
    for (const ParamSpec& param : spec.params) {
      if (param.shape.size() < 2) continue;
      looks_up |= param.looked_up;
      kept_input_ = std::max(kept_input_, looks_up ? 4 * tokens * double(param.shape.back()) : 0.0);
      graph += tokens * wide_ * double(param.shape.front() + param.shape.back());
      if (!param.looked_up) continue;
      const double step_tokens = tokens * double(size_.micro_batches());
      rows_ += 4 * std::min(double(param.shape.front()), step_tokens) * double(param.shape.back());
    }
    if (looks_up) graph = 0;
    if (!spec.shared.empty()) add_loss(spec);
    graphs_ += graph;
    largest_graph_ = std::max(largest_graph_, graph);
  }

  // Logits of a chunk, and with several micro-batches a gradient beside the sum.
  void add_loss(const LayerSpec& spec) {
    for (const std::string& name : spec.shared) {
      const auto& shape = resident_.param(resident_.place(name)).shape;
      const double V = double(shape.front()), C = double(shape.back());
      const double rows =
          std::min<double>(double(size_.micro_batch_tokens()), wide_ == 2 ? 1024 : 512);
      loss_ += 4 * rows * V + (size_.training && size_.micro_batches() > 1 ? 4 * V * C : 0);
      loss_ += double(size_.micro_batch_tokens()) * C * (2 * wide_ + 8);
    }
  }

  double of_visit(size_t layer) const {
    const auto of_one = [&](size_t i) {
      return double(resident_.working_bytes(i)) +
             (size_.training ? double(resident_.gradient_bytes(i)) : 0.0);
    };
    double bytes = of_one(layer);
    std::vector<size_t> owners;
    for (const std::string& name : resident_.spec(layer).shared) {
      const size_t owner = resident_.place(name).layer;
      if (std::find(owners.begin(), owners.end(), owner) != owners.end()) continue;
      owners.push_back(owner);
      bytes += of_one(owner);
    }
    return bytes;
  }

  StateLayout resident_, streamed_;
  RunSize size_;
  double wide_;  // bytes of an element that is multiplied
  double kept_input_ = 0, graphs_ = 0, largest_graph_ = 0, loss_ = 0, rows_ = 0;
};

std::vector<bool> choices_of(const std::string& recompute, bool training) {
  if (!training || recompute == "on") return {true};
  if (recompute == "off") return {false};
  return {false, true};
}

}  // namespace

Path store_file(const std::string& store, const Path& out_dir) {
  return store == "auto" || store == "memory" ? out_dir / "model.store" : Path(store);
}

MemoryPlan plan_memory(const std::vector<LayerSpec>& specs, Precision precision,
                       const RunSize& size, const MemoryRules& rules) {
  const double budget_gb = rules.memory_gb.value_or(0.9 * available_memory_gb());
  const double budget = 1e9 * budget_gb;
  const Path file = store_file(rules.store, rules.out_dir);
  const bool has_file = size.training && StateFile::peek(file).has_value();
  if (rules.store == "memory" && has_file) {
    fail("store: the state of this run is in {}, not in memory", file.string());
  }
  const Needs needs(specs, precision, size);
  const auto choices = choices_of(rules.recompute, size.training);
  double least = 1e300;
  MemoryPlan plan;
  plan.state_gb = needs.state() / 1e9;
  const bool may_be_in_ram = rules.store == "memory" || (rules.store == "auto" && !has_file);
  for (const bool recompute : choices) {
    if (!may_be_in_ram) break;
    const double peak = kProgramBytes + needs.state() + needs.of_activations(1, recompute);
    least = std::min(least, peak);
    if (peak > budget) continue;
    plan.recompute = recompute && size.training;
    plan.peak_gb = peak / 1e9;
    plan.activation_bytes = uint64_t(budget - kProgramBytes - needs.state());
    plan.note = fmt::format("in RAM: about {:.1f} GB{}", plan.peak_gb,
                            plan.recompute ? ", layers run again in the backward pass" : "");
    return plan;
  }
  if (rules.store == "memory") {
    fail(
        "store: in RAM this run needs about {:.1f} GB, but memory_gb is {:.1f}; leave store out to "
        "stream from a file",
        least / 1e9, budget / 1e9);
  }
  plan.file = size.training ? file : rules.out_dir / fmt::format(".scratch-{}.store", ::getpid());
  plan.state_gb = needs.in_file() / 1e9;
  for (const bool recompute : choices) {
    const int64_t smallest = recompute || choices.size() == 1 ? 1 : size.micro_batches();
    for (int64_t window = size.micro_batches(); window >= smallest; --window) {
      const double fixed =
          kProgramBytes + needs.of_buffers() + needs.of_activations(window, recompute);
      const double layers = needs.of_layers(recompute);
      least = std::min(least, fixed + layers);
      if (fixed + layers > budget) continue;
      plan.window = window;
      plan.recompute = recompute && size.training;
      plan.layer_bytes = uint64_t(std::min(2 * layers, budget - fixed));
      const double spare = budget - fixed - double(plan.layer_bytes);
      plan.cache_bytes = size.training ? uint64_t(std::min(0.9 * spare, needs.in_file())) : 0;
      plan.activation_bytes = uint64_t(budget - kProgramBytes - needs.of_buffers()) -
                              plan.layer_bytes - plan.cache_bytes;
      plan.peak_gb = (fixed + double(plan.layer_bytes + plan.cache_bytes)) / 1e9;
      plan.note = fmt::format(
          "streaming {:.1f} GB of state from {} through {:.1f} GB of RAM; {} of {} micro-batches "
          "at "
          "once{}",
          plan.state_gb, plan.file.string(), plan.peak_gb, window, size.micro_batches(),
          plan.recompute ? ", layers run again in the backward pass" : "");
      return plan;
    }
  }
  fail(
      "memory_gb: {:.2f} is not enough: streamed one micro-batch at a time this run needs about "
      "{:.2f} GB; a smaller micro_batch_size needs less",
      budget / 1e9, least / 1e9);
}

}  // namespace gigagpt::engine
