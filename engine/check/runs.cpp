// Checks of whole runs: in RAM and in a file, stopped, on two systems; and what they compute.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "base/trace.h"
#include "engine/check/aten_flops.h"
#include "engine/check/check_parts.h"
#include "engine/check/mailbox_wire.h"
#include "engine/model/oracle.h"
#include "engine/plan/forecast.h"
#include "engine/run/checkpoint.h"
#include "engine/run/executor.h"
#include "engine/storage/file_storage.h"
#include "engine/storage/memory_storage.h"
#include "ops/allocation_count.h"

namespace gigagpt::engine::checks {
namespace {

constexpr StateForm kTrained{Precision::kFp32, /*training=*/true};

// Trains up to that step.
void train(const Trial& trial, Store& store, int64_t last, const Execution& way) {
  const OptimizerRules rules{.learning_rate = 1e-2, .warmup_steps = 0};
  Executor executor(trial.model, store, way);
  while (store.step() < last) {
    const int64_t step = store.step();
    const Update update = rules.update_at(step, /*num_steps=*/100, /*seed=*/3);
    const auto gradients =
        executor.compute_gradients(trial.subject.batches, mix(kKey, uint64_t(step)), update, {});
    store.commit(update, gradients->norm);
  }
  store.settle();
}

std::string first_difference(Store& a, Store& b) {
  const auto one = copy_values(a), other = copy_values(b);
  for (const auto& [name, value] : one) {
    if (!at::equal(value, other.at(name))) return name;
  }
  return "";
}

// What two systems add up, as the leader has it.
Values gradients_of_two(const Trial& trial) {
  const auto end = [](const std::string& message) {
    std::fprintf(stderr, "two systems: %s\n", message.c_str());
    std::_Exit(1);
  };
  constexpr double kTimeout_s = 300;
  const auto mailboxes = std::make_shared<Mailboxes>();
  Values gradients;
  const auto work = [&](int rank) {
    Cluster cluster([=] { return std::make_unique<MailboxWire>(mailboxes, rank, 2); }, kTimeout_s,
                    end);
    cluster.guard([&] {
      Store store(std::make_unique<MemoryStorage>(trial.specs, kTrained, cluster));
      fill(store, trial.values);
      Executor(trial.model, store, {}).compute_gradients(trial.subject.batches, kKey, {}, {});
      for (const auto& [name, value] : trial.values) {
        const at::Tensor gradient = tensor_of(store, Array::kGradient, name);
        if (cluster.leads()) gradients[name] = gradient;
      }
    });
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  return gradients;
}

}  // namespace

Verdict check_flops(const Trial& trial) {
  double tokens = 0;
  start_tracing();
  const AtenFlops aten;
  for (const MicroBatch& batch : trial.subject.batches) {
    objective(trial, trial.values, {&batch, 1}, /*training=*/true);
    tokens += double(batch.input.size(0) * trial.subject.sequence_length);
  }
  double flops = aten.so_far();
  stop_tracing();
  for (const ProfileRow& row : profile()) flops += row.flops;
  const double made = 3 * flops / tokens;  // a backward pass has two products for each
  const double declared = train_flops_per_token(trial.specs, trial.subject.sequence_length);
  if (std::abs(made - declared) <= 0.02 * made)
    return good(fmt::format("{:.0f} a token", declared));
  return bad(fmt::format(
      "the declarations come to {:.0f} a token in training, the products of a forward "
      "pass, three times, to {:.0f}; spec_.pair_flops and token_flops say what matrices "
      "do not, and ParamRule's looked_up and per_token what is not multiplied",
      declared, made));
}

Verdict check_memory(const Trial& trial) {
  constexpr double kAllowed = 1.1;
  const MicroBatch& batch = trial.subject.batches.front();
  const double tokens = double(batch.input.size(0) * trial.subject.sequence_length);
  const Pass pass{batch, /*training=*/true, kKey};
  at::Tensor x = batch.input;
  double most = 0;
  for (size_t i = 0; i + 1 < trial.model.size(); ++i) {
    const LayerSpec& spec = trial.specs[i];
    const Weights weights = weights_of(spec, trial.values, /*gradients=*/true);
    if (x.is_floating_point()) x = x.detach().requires_grad_(true);
    const ops::AllocationCount count;
    const at::Tensor y = trial.model[i]->forward(weights, x, pass);
    const double kept = double(count.alive_bytes()) - double(y.nbytes());
    x = y;
    if (i == 0) continue;
    const double planned = layer_graph_bytes(spec, tokens, /*element_bytes=*/4);
    if (kept > kAllowed * planned) {
      return bad(fmt::format(
          "{} keeps {:.0f} bytes a token for the backward pass, and the plan counts {:.0f}; "
          "spec_.kept_floats = {:.0f} would be the rest",
          spec.name, kept / tokens, planned / tokens,
          std::ceil((kept - planned) / tokens / 4 + spec.kept_floats)));
    }
    most = std::max(most, kept / planned);
  }
  return good(fmt::format("{:.0f} % of it", 100 * most));
}

Verdict check_file(const Trial& trial) {
  constexpr int64_t kSteps = 3;
  Store ram(trial.specs, kTrained);
  fill(ram, trial.values);
  train(trial, ram, kSteps, {});
  for (const Execution& way : {Execution{1, false}, Execution{0, true}}) {
    StreamOptions options;
    options.poison = true;
    Store file(std::make_unique<FileStorage>(trial.specs, kTrained, trial.subject.scratch / "store",
                                             FileStorage::Mode::kCreate, options));
    fill(file, trial.values);
    train(trial, file, kSteps, way);
    const std::string name = first_difference(ram, file);
    if (!name.empty())
      return bad(fmt::format("after {} steps {} has other values in the file", kSteps, name));
  }
  return good(fmt::format("{} steps", kSteps));
}

Verdict check_resume(const Trial& trial) {
  constexpr int64_t kSteps = 4;
  Store whole(trial.specs, kTrained), stopped(trial.specs, kTrained),
      goes_on(trial.specs, kTrained);
  for (Store* store : {&whole, &stopped}) fill(*store, trial.values);
  train(trial, whole, kSteps, {});
  train(trial, stopped, kSteps / 2, {});
  const CheckpointRules rules{trial.subject.scratch / "run", "memory", std::nullopt, {}};
  Checkpoints checkpoints(rules);
  const Path saved = checkpoints.save(kSteps / 2, stopped, /*best=*/false, [](const Path&) {}, {});
  load_checkpoint(saved, goes_on, /*optimizer=*/true, kSteps / 2, {});
  train(trial, goes_on, kSteps, {});
  const std::string name = first_difference(whole, goes_on);
  if (name.empty()) return good(fmt::format("{} tensors", stored_tensors(trial.specs).size()));
  return bad(fmt::format("{} has other values after a stop and a start", name));
}

Verdict check_systems(const Trial& trial) {
  const OracleResult oracle = run_oracle(trial.model, trial.values, trial.subject.batches, kKey);
  const Values gradients = gradients_of_two(trial);
  double worst = 0;
  for (const auto& [name, grad] : oracle.grads) {
    // Micro-batches are added up in another order.
    constexpr double kAllowed = 1e-5;
    const double largest = grad.abs().max().item<double>();
    const double error = (gradients.at(name) - grad).abs().max().item<double>();
    if (error > kAllowed * std::max(largest, 1e-3)) {
      return bad(fmt::format("the gradient of {} is {:.2g} off, of {:.2g}", name, error, largest));
    }
    worst = std::max(worst, largest > 0 ? error / largest : 0);
  }
  return good(fmt::format("within {:.1e}", worst));
}

}  // namespace gigagpt::engine::checks
