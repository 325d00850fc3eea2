// Checks of layers by themselves, and of what the loss is a mean of.
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "engine/check/check_parts.h"
#include "ops/ops.h"

namespace gigagpt::engine::checks {
namespace {

// Sums of the loss's terms in another order differ by some units in the last place of fp32.
constexpr double kLossError = 1e-5;

bool agree(double a, double b) {
  return std::abs(a - b) <= kLossError * std::max(1.0, std::abs(b));
}

// Why calling the layer twice in that way gives two outputs, or changes what it was given.
std::string impurity(const Layer& layer, const Trial& trial, const at::Tensor& x, const Pass& pass,
                     bool gradients, at::Tensor& y) {
  const at::AutoGradMode mode(gradients);
  Values copies;
  for (const auto& [name, value] : trial.values) copies[name] = value.clone();
  const at::Tensor given = x.clone();
  const auto run = [&](const at::Tensor& input) {
    return layer.forward(weights_of(layer.spec(), copies, gradients), input, pass).detach();
  };
  y = run(given).clone();
  if (!at::equal(given, x)) return "it changes its input x; make a new tensor";
  for (const auto& [name, value] : trial.values) {
    if (!at::equal(copies[name], value))
      return fmt::format("it changes {}; weights are only to be read", name);
  }
  if (!at::isfinite(y).all().item<bool>()) return "it returns a number that is not finite";
  if (!at::equal(run(x), y)) {
    return "it returns other numbers when it is called again; random numbers may come from "
           "pass.key_of() alone, and a layer may keep nothing";
  }
  return "";
}

}  // namespace

Verdict check_pure(const Trial& trial) {
  for (const bool gradients : {false, true}) {
    for (size_t m = 0; m < trial.subject.batches.size(); ++m) {
      const MicroBatch& batch = trial.subject.batches[m];
      std::vector<AddedLoss> losses;
      Pass pass{batch, /*training=*/true, mix(kKey, m)};
      pass.losses = &losses;
      at::Tensor x = batch.input;
      for (const auto& layer : trial.model) {
        at::Tensor y;
        const std::string problem = impurity(*layer, trial, x, pass, gradients, y);
        if (!problem.empty()) return bad(fmt::format("{}: {}", layer->spec().name, problem));
        x = y;
      }
    }
  }
  return good(fmt::format("{} layers", trial.model.size()));
}

Verdict check_evaluation(const Trial& trial) {
  const auto& batches = trial.subject.batches;
  const double one = objective(trial, trial.values, batches, /*training=*/false, 1);
  const double other = objective(trial, trial.values, batches, /*training=*/false, 2);
  if (one == other) return good(fmt::format("loss {:.6f}", one));
  return bad(
      fmt::format("outside training the loss depends on pass.key: {:.6f} and {:.6f}; "
                  "pass.dropout() is 0 there",
                  one, other));
}

Verdict check_rows(const Trial& trial) {
  for (const MicroBatch& batch : trial.subject.batches) {
    const int64_t rows = batch.input.size(0);
    const double together = objective(trial, trial.values, {&batch, 1}, /*training=*/false);
    double alone = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const MicroBatch part = rows_of(batch, row, 1);
      alone += objective(trial, trial.values, {&part, 1}, /*training=*/false) / double(rows);
    }
    if (agree(together, alone)) continue;
    return bad(
        fmt::format("{} rows have the loss {:.6f} together and {:.6f} one by one, so that it would "
                    "depend on micro_batch_size; losses are means, and rows must not be mixed",
                    rows, together, alone));
  }
  return good("");
}

Verdict check_labels(const Trial& trial) {
  const MicroBatch& batch = trial.subject.batches.front();
  const int64_t T = batch.target.size(1), half = T / 2;
  MicroBatch begin = batch, end = batch;
  begin.target = batch.target.clone();
  begin.target.narrow(1, half, T - half).fill_(ops::kIgnoredLabel);
  end.target = batch.target.clone();
  end.target.narrow(1, 0, half).fill_(ops::kIgnoredLabel);
  const auto loss = [&](const MicroBatch& one) {
    const at::Tensor y = output_of(trial, trial.values, {one});
    return y.item<double>();
  };
  const double parts = (loss(begin) * double(half) + loss(end) * double(T - half)) / double(T);
  if (agree(parts, loss(batch))) return good("");
  return bad(
      fmt::format("the loss is {:.6f}, but {:.6f} from the means over the labels that count in its "
                  "two halves",
                  loss(batch), parts));
}

}  // namespace gigagpt::engine::checks
