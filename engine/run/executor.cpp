#include "engine/run/executor.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/random.h"
#include "base/system.h"
#include "ops/gradient.h"

namespace gigagpt::engine {

using at::Tensor;

struct Executor::Step {
  std::span<const MicroBatch> batches;  // of this system
  size_t first;                         // of them among those of all systems
  uint64_t key;
  double weights;  // of all micro-batches of all systems
  const Progress& progress;
  int all_work;
  int work_done = 0;
  double loss = 0;  // micro-batches add their shares in order
  // By name and layer, so that what several layers call alike is added in their order too.
  std::map<std::pair<std::string, size_t>, double> added_losses = {};

  double share(const MicroBatch& batch) const { return weights > 0 ? batch.weight() / weights : 0; }

  // After each layer and micro-batch, by its work; false: abandon.
  bool tick(int work) {
    work_done += work;
    return !progress || progress(double(work_done) / double(all_work));
  }
};

// What lives from the forward to the backward pass of one window.
struct Executor::Window {
  Step& step;
  size_t first, count;  // of the step's micro-batches
  bool abandoned = false;

  struct Output {  // with its graph
    Tensor x;
    std::vector<AddedLoss> losses = {};
  };
  struct LayerRun {
    Weights weights;              // the leaves that the kept outputs' graphs end in
    std::vector<Tensor> inputs;   // per micro-batch
    std::vector<Output> outputs;  // empty if they will be computed again
  };
  std::vector<LayerRun> runs = {};     // per layer
  std::vector<Tensor> gradients = {};  // of the loss by the current layer's output

  const MicroBatch& batch(size_t m) const { return step.batches[first + m]; }
  Output forward(const Model& model, size_t layer, size_t m) const {
    Output output;
    Pass pass{batch(m), /*training=*/true, mix(step.key, step.first + first + m)};
    pass.losses = &output.losses;
    output.x = model[layer]->forward(runs[layer].weights, runs[layer].inputs[m], pass);
    return output;
  }
};

namespace {

// A new leaf with the same memory, which asks for a gradient if it can have one.
Tensor as_leaf(const Tensor& x) {
  Tensor leaf = x.detach();
  if (leaf.is_floating_point()) leaf.requires_grad_(true);
  return leaf;
}

// d(loss)/d(input) of one layer and micro-batch, given that by its outputs. Weights' gradients that
// come through autograd are added to their accumulators here; the ops' own have added theirs when
// this returns. `name` is the layer's, for an error.
Tensor differentiate(const std::string& name, const Tensor& input, const Weights& weights,
                     const std::vector<Tensor>& outputs, const std::vector<Tensor>& gradients) {
  const auto cut_off = [&](const char* what) {
    fail(
        "layer {}: what it returns does not depend on {}, as far as autograd knows, so that "
        "nothing could be learned; is there a detach()?",
        name, what);
  };
  if (!outputs[0].requires_grad()) cut_off("its weights");
  std::vector<Tensor> leaves;
  if (input.requires_grad()) leaves.push_back(input);
  for (const ops::Weight& weight : weights.all()) leaves.push_back(weight.value);
  const auto grads = torch::autograd::grad(outputs, leaves, gradients, /*retain_graph=*/false,
                                           /*create_graph=*/false, /*allow_unused=*/true);
  if (input.requires_grad() && !grads[0].defined()) cut_off("what it is given");
  size_t next = input.requires_grad() ? 1 : 0;
  for (const ops::Weight& weight : weights.all()) {
    const Tensor& grad = grads[next++];
    if (grad.defined()) ops::add_gradient(*weight.grad, grad);
  }
  return input.requires_grad() ? grads[0] : Tensor();
}

}  // namespace

Executor::Executor(const Model& model, Store& store, Execution options)
    : model_(model), store_(store), options_(std::move(options)) {}

std::optional<Gradients> Executor::compute_gradients(std::span<const MicroBatch> all_batches,
                                                     uint64_t key, const Update& update,
                                                     const Progress& progress) {
  const Stopwatch watch;
  store_.begin_step(update);
  double weights = 0;
  for (const MicroBatch& batch : all_batches) weights += batch.weight();
  const auto [mine, count] = own_part(all_batches.size());
  // A backward pass is worth two forward passes; running a layer again is one more.
  const int all_work = int(model_.size() * count) * (options_.recompute ? 4 : 3);
  Step step{all_batches.subspan(mine, count), mine, key, weights, progress, all_work};
  if (!step.tick(0) && can_drop()) return std::nullopt;
  const size_t size = std::min(window_size(count), count);
  store_.expect(visits_of_step((count + size - 1) / size));
  for (size_t first = 0; first < count; first += size) {
    Window window{step, first, std::min(size, count - first)};
    if (run_window(window)) continue;
    window.runs.clear();  // graphs first, then the memory they look at
    store_.abandon();
    if (std::isfinite(step.loss)) return std::nullopt;
    fail_nonfinite(step.batches, mine, key);
  }
  Gradients gradients;
  for (const auto& [name, loss] : step.added_losses) gradients.added_losses[name.first] += loss;
  std::vector<double> losses = {step.loss};
  for (const auto& [_, loss] : gradients.added_losses) losses.push_back(loss);
  losses = store_.finish_reduction(losses);
  gradients.loss = losses[0];
  if (!std::isfinite(gradients.loss)) fail_nonfinite(step.batches, mine, key);
  size_t next = 1;
  for (auto& [_, loss] : gradients.added_losses) loss = losses[next++];
  gradients.norm = store_.gradient_norm();
  gradients.seconds = watch.seconds();
  return gradients;
}

void Executor::fail_nonfinite(std::span<const MicroBatch> batches, size_t first, uint64_t key) {
  std::string name = "none: it did not happen again";
  for (const auto& layer :
       store_.cluster().gather_texts(first_nonfinite_layer(batches, first, key))) {
    if (!layer.empty()) name = layer;
  }
  throw NonFinite("the loss is not finite, first in layer " + name);
}

size_t Executor::window_size(size_t batches) const {
  return options_.window > 0 ? size_t(options_.window) : batches;
}

// The first micro-batch of this system's part of so many, and how many it has.
std::pair<size_t, size_t> Executor::own_part(size_t batches) const {
  const auto rank = size_t(store_.cluster().rank()), systems = size_t(store_.cluster().systems());
  const size_t first = batches * rank / systems;
  return {first, batches * (rank + 1) / systems - first};
}

std::vector<Visit> Executor::visits_of_step(size_t windows) const {
  std::vector<Visit> visits;
  const size_t last = model_.size() - 1;
  const bool keep = !options_.recompute;
  for (size_t window = 1; window <= windows; ++window) {
    for (size_t i = 0; i < last; ++i) visits.push_back({i, /*backward=*/false, keep});
    for (size_t i = last + 1; i-- > 0;) {
      visits.push_back({i, /*backward=*/true, keep, window == windows});
    }
  }
  return visits;
}

bool Executor::run_window(Window& window) {
  window.runs.resize(model_.size());
  window.gradients.resize(window.count);
  for (size_t m = 0; m < window.count; ++m) {
    window.runs[0].inputs.push_back(as_leaf(window.batch(m).input));
  }
  const size_t last = model_.size() - 1;
  for (size_t i = 0; i < last && !window.abandoned; ++i) forward_layer(window, i);
  for (size_t i = last + 1; i-- > 0 && !window.abandoned;) backward_layer(window, i);
  return !window.abandoned;
}

void Executor::forward_layer(Window& window, size_t layer) {
  auto& run = window.runs[layer];
  store_.enter(layer);
  run.weights = store_.weights(layer, /*gradients=*/true);
  for (size_t m = 0; m < window.count && !window.abandoned; ++m) {
    at::AutoGradMode graph(!options_.recompute);
    Window::Output output = window.forward(model_, layer, m);
    window.runs[layer + 1].inputs.push_back(as_leaf(output.x));
    if (!options_.recompute) run.outputs.push_back(std::move(output));
    window.abandoned = !window.step.tick(1) && can_stop();
  }
  if (options_.recompute) run.weights = {};
  store_.leave(layer);
}

// The last layer has no forward pass of its own: its output is needed here alone.
void Executor::backward_layer(Window& window, size_t layer) {
  auto& run = window.runs[layer];
  const bool last = layer + 1 == model_.size();
  Step& step = window.step;
  store_.enter(layer);
  if (run.outputs.empty()) run.weights = store_.weights(layer, /*gradients=*/true);
  for (size_t m = 0; m < window.count && !window.abandoned; ++m) {
    const Window::Output output = run.outputs.empty()
                                      ? window.forward(model_, layer, m)
                                      : std::exchange(run.outputs[m], Window::Output());
    const double share = step.share(window.batch(m));
    if (last) {
      step.loss += share * output.x.item<double>();
      window.gradients[m] = at::scalar_tensor(share, output.x.options());
    }
    std::vector<Tensor> outputs = {output.x}, gradients = {window.gradients[m]};
    for (const AddedLoss& loss : output.losses) {
      step.added_losses[{loss.name, layer}] += share * loss.value.item<double>();
      if (!loss.value.requires_grad()) continue;
      outputs.push_back(loss.value);
      gradients.push_back(at::scalar_tensor(share * loss.factor, loss.value.options()));
    }
    window.gradients[m] =
        differentiate(model_[layer]->spec().name, run.inputs[m], run.weights, outputs, gradients);
    run.inputs[m] = Tensor();
    // Where layers are updated by now a step cannot be dropped.
    const bool go_on = step.tick(options_.recompute ? (last ? 4 : 3) : (last ? 3 : 2));
    window.abandoned = !go_on && can_drop();
  }
  // With others the step goes on: they do not know yet.
  if (last && !std::isfinite(step.loss)) window.abandoned = can_stop();
  run = {};
  if (window.abandoned) return;
  store_.leave(layer);
}

// Calls visit(layer, its weights) for each layer, without gradients; false ends it.
template <class F>
bool Executor::walk(const F& visit) {
  at::NoGradGuard no_grad;
  std::vector<Visit> visits;
  for (size_t i = 0; i < model_.size(); ++i) visits.push_back({i});
  store_.expect(visits);
  for (size_t i = 0; i < model_.size(); ++i) {
    store_.enter(i);
    const bool go_on = visit(i, store_.weights(i, /*gradients=*/false));
    if (!go_on) {
      store_.abandon();
      return false;
    }
    store_.leave(i);
  }
  return true;
}

std::vector<double> Executor::evaluate(std::span<const MicroBatch> all_batches,
                                       const Progress& progress) {
  const auto [mine, count] = own_part(all_batches.size());
  const auto losses = evaluate_own(all_batches.subspan(mine, count), progress);
  if (store_.cluster().any(!losses)) return {};
  std::vector<double> all(all_batches.size());
  if (losses) std::copy(losses->begin(), losses->end(), all.begin() + int64_t(mine));
  return store_.cluster().sums(all);
}

// Nothing if `progress` said so; with other systems all the same in the end.
std::optional<std::vector<double>> Executor::evaluate_own(std::span<const MicroBatch> batches,
                                                          const Progress& progress) {
  std::vector<double> losses;
  bool wanted = true;
  const size_t size = window_size(batches.size());
  // Weights that are still to come are for all systems at once, those without a batch too.
  for (size_t first = 0; first == 0 || first < batches.size(); first += size) {
    const auto window = batches.subspan(first, std::min(size, batches.size() - first));
    std::vector<Tensor> x;
    for (const MicroBatch& batch : window) x.push_back(batch.input);
    const bool complete = walk([&](size_t i, const Weights& weights) {
      for (size_t m = 0; m < window.size(); ++m) {
        if (!wanted) continue;
        x[m] = model_[i]->forward(weights, x[m], Pass{window[m]});
        const double visited = double(first * model_.size() + i * window.size() + m + 1);
        const double all = double(model_.size() * batches.size());
        wanted = !progress || progress(visited / all);
      }
      return wanted || !can_stop();
    });
    if (!complete || !wanted) return std::nullopt;
    for (const Tensor& loss : x) losses.push_back(loss.item<double>());
    if (batches.empty()) break;
  }
  return losses;
}

Tensor Executor::infer(const MicroBatch& batch, std::span<ops::Memory> memories) {
  Tensor x = batch.input;
  walk([&](size_t i, const Weights& weights) {
    Pass pass{batch};
    pass.last_only = !memories.empty();
    pass.memory = memories.empty() ? nullptr : &memories[i];
    x = model_[i]->forward(weights, x, pass);
    return true;
  });
  return x;
}

// Repeats the step's forward pass, looking at every output.
std::string Executor::first_nonfinite_layer(std::span<const MicroBatch> batches, size_t first,
                                            uint64_t key) {
  std::vector<Tensor> x;
  for (const MicroBatch& batch : batches) x.push_back(batch.input);
  std::string name;
  walk([&](size_t i, const Weights& weights) {
    for (size_t m = 0; m < batches.size(); ++m) {
      x[m] = model_[i]->forward(weights, x[m],
                                Pass{batches[m], /*training=*/true, mix(key, first + m)});
      if (x[m].isfinite().all().item<bool>()) continue;
      name = model_[i]->spec().name;
      return false;
    }
    return true;
  });
  return name;
}

}  // namespace gigagpt::engine
