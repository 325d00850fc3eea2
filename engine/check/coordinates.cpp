#include "engine/check/coordinates.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/mean.h>

#include <algorithm>

#include "base/error.h"
#include "base/random.h"
#include "engine/model/oracle.h"
#include "engine/run/executor.h"

namespace gigagpt::engine {
namespace {

// Which of the coordinates a parameter makes; "": none.
std::string coordinate_of(const ParamSpec& param) {
  if (param.rule.looked_up) return "embedding";
  if (!param.rule.ends_branch) return "";
  return param.name.substr(0, param.name.rfind(".weight"));
}

// The sum of what was told of one coordinate, and how often.
struct Sum {
  std::string name;
  double value = 0;
  int count = 0;
};

void add(std::vector<Sum>& sums, const std::string& name, double value) {
  auto found = std::find_if(sums.begin(), sums.end(), [&](const Sum& s) { return s.name == name; });
  if (found == sums.end()) found = sums.insert(sums.end(), {name});
  found->value += value;
  found->count += 1;
}

// A layer's output, with what its parameters made added to the sums.
at::Tensor look_into(const Layer& layer, const LayerSpec& spec,
                     const std::map<std::string, at::Tensor>& values, const at::Tensor& x,
                     const Pass& pass, std::vector<Sum>& sums) {
  Weights weights(at::kFloat, spec.params.size());
  std::vector<double> sizes(spec.params.size(), -1);
  for (size_t p = 0; p < spec.params.size(); ++p) {
    const ParamSpec& param = spec.params[p];
    weights.add({values.at(spec.prefix + param.name), nullptr, param.rule.multiplier, &sizes[p]});
  }
  for (const auto& [name, multiplier] : spec.shared)
    weights.add({values.at(name), nullptr, multiplier});
  const at::Tensor y = layer.forward(weights, x, pass);
  for (size_t i = 0; i < sizes.size(); ++i) {
    const std::string name = coordinate_of(spec.params[i]);
    if (sizes[i] >= 0 && !name.empty()) add(sums, name, sizes[i]);
  }
  return y;
}

Coordinates coordinates_of(const Model& model, const std::vector<LayerSpec>& specs, Store& store,
                           const MicroBatch& first) {
  const at::NoGradGuard guard;
  store.settle();
  const auto values = copy_values(store);
  const MicroBatch batch{first.input};
  const Pass pass{batch};
  std::vector<Sum> sums;
  at::Tensor x = first.input;
  for (size_t i = 0; i < model.size(); ++i)
    x = look_into(*model[i], specs[i], values, x, pass, sums);
  Coordinates coordinates;
  for (const Sum& sum : sums) coordinates.emplace_back(sum.name, sum.value / sum.count);
  const at::Tensor of_labels = x.gather(2, first.target.unsqueeze(2)).squeeze(2);  // B T
  coordinates.emplace_back("labels' logits", (of_labels - x.mean(2)).mean().item<double>());
  return coordinates;
}

}  // namespace

std::vector<Coordinates> trace_coordinates(const CoordinateTrial& trial) {
  const Model model = trial.make();
  const StateForm form{.precision = Precision::kFp32,
                       .training = true,
                       .optimizer = ops::find_optimizer(trial.optimizer.optimizer)};
  Store store(trial.specs, form);
  store.initialise(trial.seed, {});
  Executor executor(model, store, {});
  const MicroBatch& first = trial.batches.front();
  std::vector<Coordinates> trace = {coordinates_of(model, trial.specs, store, first)};
  const auto steps = int64_t(trial.batches.size());
  for (int64_t step = 0; step < steps; ++step) {
    const Update update = trial.optimizer.update_at(step, steps, int64_t(trial.seed));
    const auto gradients = executor.compute_gradients(std::span(&trial.batches[size_t(step)], 1),
                                                      mix(trial.seed, uint64_t(step)), update, {});
    store.commit(update, gradients->norm);
    trace.push_back(coordinates_of(model, trial.specs, store, first));
  }
  return trace;
}

void leave_out(const std::string& part, const Parametrisation& p, std::vector<LayerSpec>& specs) {
  const double root = p.embedding_std / p.hidden_std;  // of the width over the base
  for (LayerSpec& spec : specs) {
    for (ParamSpec& param : spec.params) {
      if (param.is_hidden()) {
        if (part == "initialisation") param.rule.init->deviation *= root;
        if (part == "rates") param.rule.factors.rate /= p.rate;
      }
      if (part == "logits" && param.rule.output) param.rule.multiplier *= root;
    }
    for (SharedParam& use : spec.shared) {
      if (part == "logits") use.multiplier *= root;
    }
  }
}

}  // namespace gigagpt::engine
