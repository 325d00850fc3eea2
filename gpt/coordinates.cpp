#include "gpt/coordinates.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "gpt/check.h"
#include "gpt/model.h"

namespace gigagpt {
namespace {

// Of the peak learning rate, as there is no warm-up.
constexpr double kRate = 1.0 / 6;

constexpr int64_t kRows = 8, kTokens = 64, kVocabulary = 64;

// Tokens that mostly follow one another by a rule, so that there is something to learn.
engine::MicroBatch draw_batch(uint64_t key) {
  const Permutation next(uint64_t(kVocabulary), 5);
  const at::Tensor tokens = at::empty({kRows, kTokens + 1}, at::kLong);
  auto* id = tokens.data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens.numel(); ++i) {
    const auto words = philox(key, uint64_t(i));
    const bool starts = i % (kTokens + 1) == 0 || words[0] % 4 == 0;
    id[i] = starts ? int64_t(words[1] % kVocabulary) : int64_t(next(uint64_t(id[i - 1])));
  }
  return {tokens.narrow(1, 0, kTokens).contiguous(), tokens.narrow(1, 1, kTokens).contiguous()};
}

GPTConfig trial_config(GPTConfig config, int64_t steps) {
  make_shallow(config);
  config.vocab_size = kVocabulary;
  config.sequence_length = config.max_position_embeddings = kTokens;
  config.batch_size = kRows;
  config.num_steps = steps;
  config.dropout = 0;
  config.document_mask = false;
  config.precision = "fp32";
  config.optim.learning_rate *= kRate;
  config.optim.warmup_steps = 0;
  config.optim.lr_decay = "constant";
  config.optim.decay_steps.reset(), config.optim.decay_from.reset(), config.optim.min_lr.reset();
  return config;
}

std::vector<engine::Coordinates> trace(const GPTConfig& config, const CoordinatePlan& plan,
                                       int64_t seed) {
  engine::CoordinateTrial trial{.make = [&] { return make_model(config); },
                                .specs = config.layers(),
                                .batches = {},
                                .optimizer = config.optim,
                                .seed = uint64_t(seed)};
  for (int64_t step = 0; step < plan.steps; ++step)
    trial.batches.push_back(draw_batch(mix(trial.seed, uint64_t(step))));
  if (!plan.without.empty()) engine::leave_out(plan.without, config.parametrised(), trial.specs);
  return engine::trace_coordinates(trial);
}

}  // namespace

double CoordinateCurves::slope(const std::vector<int64_t>& widths) const {
  const std::vector<double>& sizes = by_step.back();
  const auto n = double(widths.size());
  double x_mean = 0, y_mean = 0, xy = 0, xx = 0;
  for (size_t i = 0; i < widths.size(); ++i) {
    x_mean += std::log(double(widths[i])) / n;
    y_mean += std::log(sizes[i]) / n;
  }
  for (size_t i = 0; i < widths.size(); ++i) {
    const double x = std::log(double(widths[i])) - x_mean;
    xy += x * (std::log(sizes[i]) - y_mean);
    xx += x * x;
  }
  return xy / xx;
}

GPTConfig with_width(GPTConfig config, int64_t width) {
  const int64_t size = std::max<int64_t>(config.width / config.heads, 1), heads = config.heads;
  if (width % size != 0 || width < size)
    fail("--widths: {} is not a multiple of the heads' size, {}", width, size);
  const auto in_proportion = [&](std::optional<int64_t>& value, int64_t to, int64_t from) {
    if (value) value = std::max<int64_t>(*value * to / from, 1);
  };
  config.heads = width / size;
  in_proportion(config.llama.kv_heads, config.heads, heads);
  in_proportion(config.llama.ffn_width, width, config.width);
  config.width = width;
  config.check_model();
  return config;
}

std::vector<CoordinateCurves> measure_coordinates(const GPTConfig& config,
                                                  const CoordinatePlan& plan,
                                                  const engine::Progress& progress) {
  std::vector<CoordinateCurves> curves;
  const auto all = double(plan.widths.size()) * double(plan.seeds);
  for (size_t w = 0; w < plan.widths.size(); ++w) {
    const GPTConfig wide = trial_config(with_width(config, plan.widths[w]), plan.steps);
    for (int64_t seed = 0; seed < plan.seeds; ++seed) {
      const auto trace = gigagpt::trace(wide, plan, seed);
      if (curves.empty()) {
        for (const auto& [name, _] : trace.front())
          curves.push_back(
              {name, std::vector(trace.size(), std::vector<double>(plan.widths.size()))});
      }
      for (size_t step = 0; step < trace.size(); ++step) {
        for (size_t i = 0; i < curves.size(); ++i)
          curves[i].by_step[step][w] += trace[step][i].second / double(plan.seeds);
      }
      const double done = double(w) * double(plan.seeds) + double(seed) + 1;
      if (progress && !progress(done / all)) return {};
    }
  }
  return curves;
}

}  // namespace gigagpt
