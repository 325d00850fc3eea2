// For tests only: a model of any family against plain autograd, bit for bit.
#pragma once

#include "engine/model/oracle.h"
#include "engine/run/executor.h"
#include "gpt/model.h"
#include "ops/testing.h"

namespace gigagpt {

// Micro-batches of unequal size, in every window, with outputs kept and computed again. All
// parameters are used.
inline void expect_oracle_bits(const GPTConfig& config) {
  std::vector<engine::MicroBatch> batches;
  for (const int64_t rows : {1, 2, 3, 1}) {
    const std::vector<int64_t> shape = {rows, config.sequence_length};
    batches.push_back({at::randint(0, config.vocab_size, shape, at::kLong),
                       at::randint(0, config.vocab_size, shape, at::kLong)});
  }
  const engine::Model model = make_model(config);
  engine::Store store(config.layers(), {engine::Precision::kFp32, /*training=*/true});
  store.initialise(5, {});
  const auto oracle = run_oracle(model, copy_values(store), batches, 77);
  for (const engine::Execution& options :
       {engine::Execution{0, false}, {0, true}, {1, false}, {3, true}}) {
    const auto gradients =
        engine::Executor(model, store, options).compute_gradients(batches, 77, {}, {});
    EXPECT_EQ(gradients->loss, oracle.loss);
    for (const auto& [name, grad] : oracle.grads) {
      SCOPED_TRACE(name);
      ops::expect_same_bits(tensor_of(store, engine::Array::kGradient, name), grad);
      EXPECT_GT(grad.abs().max().item<double>(), 0);
    }
  }
}

}  // namespace gigagpt
