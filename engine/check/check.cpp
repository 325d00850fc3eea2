#include "engine/check/check.h"

#include <ATen/core/grad_mode.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "engine/check/check_parts.h"
#include "engine/model/oracle.h"

namespace gigagpt::engine {
namespace checks {

Weights weights_of(const LayerSpec& spec, const Values& values, bool gradients) {
  return weights_by_name(spec, [&](const std::string& name) {
    return values.at(name).detach().requires_grad_(gradients);
  });
}

at::Tensor output_of(const Trial& trial, const Values& values, const Pass& pass) {
  const at::NoGradGuard guard;
  at::Tensor x = pass.batch.input;
  for (const auto& layer : trial.model)
    x = layer->forward(weights_of(layer->spec(), values), x, pass);
  return x;
}

double objective(const Trial& trial, const Values& values, std::span<const MicroBatch> batches,
                 bool training, uint64_t key) {
  double sum = 0, weights = 0;
  for (size_t m = 0; m < batches.size(); ++m) {
    std::vector<AddedLoss> losses;
    Pass pass{batches[m], training, mix(key, m)};
    pass.losses = &losses;
    double loss = output_of(trial, values, pass).item<double>();
    for (const AddedLoss& added : losses) loss += added.factor * added.value.item<double>();
    sum += batches[m].weight() * loss;
    weights += batches[m].weight();
  }
  return sum / weights;
}

void fill(Store& store, const Values& values) {
  store.storage().begin_writing(0);
  for (const auto& [name, value] : values) {
    store.write(Array::kMaster, name, 0, {value.data_ptr<float>(), size_t(value.numel())});
  }
  store.storage().finish_writing();
}

MicroBatch rows_of(const MicroBatch& batch, int64_t first, int64_t count) {
  const auto part = [&](const at::Tensor& x) {
    return x.defined() ? x.narrow(0, first, count) : x;
  };
  return {part(batch.input), part(batch.target), batch.mask, part(batch.documents),
          part(batch.positions)};
}

namespace {

// With what layers begin with, norms of one and biases of zero would hide mistakes, and gradients
// would be too small to be compared.
Values draw_values(const std::vector<LayerSpec>& specs) {
  Values values;
  for (const LayerSpec& spec : specs) {
    for (const ParamSpec& param : spec.params) {
      const std::string name = spec.prefix + param.name;
      const bool matrix = param.shape.size() >= 2;
      std::vector<float> numbers(size_t(param.count()));
      fill_normal(numbers, 0, mix(5, hash_name(name)), float(param.init().mean),
                  matrix ? 1 / std::sqrt(float(param.shape.back())) : 0.2F);
      values[name] = at::tensor(numbers).view(param.shape);
    }
  }
  return values;
}

struct Check {
  const char* claim;
  Verdict (*make)(const Trial&);
  bool applies = true;
};

Verdict verdict_of(const Check& check, const Trial& trial) try {
  return check.make(trial);
} catch (const c10::Error& error) {
  return bad(error.what_without_backtrace());
} catch (const std::exception& error) {
  return bad(error.what());
}

}  // namespace
}  // namespace checks

int check_model(const Subject& subject, const std::function<void(const Finding&)>& found) {
  using namespace checks;
  Model model = subject.make();
  const std::vector<LayerSpec> specs = specs_of(model);
  const Trial trial{subject, std::move(model), specs, draw_values(specs)};
  const bool language = subject.language;
  const std::vector<Check> all = {
      {"what a layer returns depends on its arguments alone", check_pure},
      {"evaluation draws no random numbers", check_evaluation},
      {"the loss is a mean over rows that do not see each other", check_rows},
      {"labels of -100 do not count", check_labels, language},
      {"no position sees a later one", check_causality, language},
      {"continuing a text gives the logits of one pass", check_sampling, language},
      {"documents in one row do not see each other", check_documents, language},
      {"the FLOPs of the plan are those of the products", check_flops, subject.counts_flops},
      {"layers keep no more memory than the plan counts", check_memory},
      {"every parameter has a gradient", check_alive},
      {"every way of running gives plain autograd's bits", check_bits},
      {"gradients are the slopes of the loss", check_slopes},
      {"gradients in bf16 are close to those in fp32", check_bf16},
      {"state in a file learns the same bits as in RAM", check_file},
      {"a checkpoint has all that was learned", check_resume},
      {"two systems get the gradients of one", check_systems},
  };
  int failures = 0;
  for (const Check& check : all) {
    if (!check.applies) continue;
    const Verdict verdict = verdict_of(check, trial);
    found({check.claim, verdict.problem, verdict.seen});
    if (verdict.problem.empty()) continue;
    ++failures;
    if (check.make == check_pure || check.make == check_bits) break;  // the others need it
  }
  return failures;
}

}  // namespace gigagpt::engine
