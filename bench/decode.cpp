// Tokens per second of sampling from the 111M model, one sequence, beside what memory allows: each
// token needs every weight once.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <vector>

#include "base/system.h"
#include "gpt/model.h"
#include "ops/optimizer.h"
#include "ops/page_allocator.h"
#include "ops/sampling.h"

namespace gigagpt::bench {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

GPTConfig config_111m(const std::string& precision) {
  GPTConfig config;
  config.width = 768;
  config.depth = 10;
  config.heads = 12;
  config.vocab_size = 50257;
  config.max_position_embeddings = 2048;
  config.precision = precision;
  return config;
}

// One sequence of random prompt tokens and then sampled ones.
class Decoding {
 public:
  explicit Decoding(engine::Runtime& gpt)
      : gpt_(gpt), memories_(gpt.model.size(), ops::Memory(2048)) {}

  double prompt_s(int64_t length) {
    for (ops::Memory& memory : memories_) memory.clear();
    tokens_.clear();
    for (int64_t i = 0; i < length; ++i) tokens_.push_back(int32_t(i * 7919 % 50257));
    const Stopwatch watch;
    step({tokens_.begin(), tokens_.end()});
    return watch.seconds();
  }
  double token_s() {
    const Stopwatch watch;
    step({tokens_.back()});
    return watch.seconds();
  }

 private:
  void step(const std::vector<int64_t>& fresh) {
    const auto end = int64_t(tokens_.size());
    engine::MicroBatch batch{at::tensor(fresh).unsqueeze(0)};
    batch.positions = at::arange(end - int64_t(fresh.size()), end).unsqueeze(0);
    const at::Tensor logits = gpt_.executor.infer(batch, memories_)[0][-1];
    const std::span<float> row(logits.data_ptr<float>(), size_t(logits.numel()));
    tokens_.push_back(ops::sample(row, tokens_, {0.8, 200, 3}, tokens_.size()));
  }

  engine::Runtime& gpt_;
  std::vector<ops::Memory> memories_;
  std::vector<int32_t> tokens_;
};

double read_rate(const at::Tensor& memory) {
  const Stopwatch watch;
  ops::sum_of_squares({memory.data_ptr<float>(), size_t(memory.numel())});
  return double(memory.nbytes()) / watch.seconds();
}

int run(int argc, char** argv) {
  keep_freed_memory();
  ops::use_page_allocator();
  CLI::App app{"Times sampling from the 111M model (random weights)"};
  std::string precision = "auto";
  int64_t prompt = 64, count = 64;
  int rounds = 7;
  app.add_option("--precision", precision)->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  app.add_option("--prompt", prompt, "tokens before the first sampled one");
  app.add_option("--count", count, "tokens sampled in a round");
  app.add_option("--rounds", rounds, "of which the medians are taken");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(core_count());
  auto gpt = make_gpt(config_111m(precision), /*training=*/false);
  gpt.store.initialise(1, {});
  const bool bf16 = gpt.store.precision() == engine::Precision::kBf16;
  // All but the position table, of which a token needs one row.
  const double parameters =
      double(engine::parameter_count(engine::specs_of(gpt.model))) - 2048.0 * 768;
  const double bytes = parameters * (bf16 ? 2 : 4);
  const at::Tensor memory = at::ones({1 << 26}, at::kFloat);
  Decoding decoding(gpt);
  std::vector<double> token_s, prompt_s, rates;
  for (int round = 0; round < rounds; ++round) {
    prompt_s.push_back(decoding.prompt_s(prompt));
    for (int64_t i = 0; i < count; ++i) token_s.push_back(decoding.token_s());
    rates.push_back(read_rate(memory));
  }
  const double per_s = 1 / median(token_s), possible = median(rates) / bytes;
  fmt::print(
      "{}: {:.1f} tokens/s after a prompt of {} ({:.0f} ms); reading memory at {:.1f} GB/s "
      "allows {:.1f}: {:.0f} %\n",
      engine::precision_name(gpt.store.precision()), per_s, prompt, median(prompt_s) * 1e3,
      median(rates) / 1e9, possible, per_s / possible * 100);
  return 0;
}

}  // namespace
}  // namespace gigagpt::bench

int main(int argc, char** argv) {
  return gigagpt::bench::run(argc, argv);
}
