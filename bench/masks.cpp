// Attention under rules that let a query see fewer keys, beside the whole causal mask: forward and
// backward passes of the 111M model's heads, interleaved in one run, medians.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "base/system.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "ops/page_allocator.h"

namespace gigagpt::bench {
namespace {

using at::Tensor;

constexpr int64_t C = 768, H = 12;

struct Kind {
  std::string name;
  ops::AttentionRule rule;
  std::vector<double> seconds = {};
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<Kind> kinds(int64_t T, int64_t document) {
  const Tensor documents =
      (at::arange(T, at::kLong).div(document, "floor") * document).unsqueeze(0);
  const auto apart = [document](int64_t, int64_t position, int64_t key) {
    return position / document == key / document;
  };
  return {
      {"causal", {.heads = H}},
      {fmt::format("documents of {}", document), {.heads = H, .documents = documents.contiguous()}},
      {"the same as a function", {.heads = H, .sees = apart}},
      {fmt::format("window of {}", T / 8), {.heads = H, .window = T / 8}}};
}

int run(int argc, char** argv) {
  keep_freed_memory();
  ops::use_page_allocator();
  CLI::App app{"Times attention under rules beside causal attention"};
  std::string precision = ops::has_native_bf16() ? "bf16" : "fp32";
  int64_t T = 2048, document = 200;
  int rounds = 7;
  app.add_option("--precision", precision)->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--length", T, "tokens");
  app.add_option("--document", document, "tokens of a document");
  app.add_option("--rounds", rounds, "of which the medians are taken");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(core_count());
  at::manual_seed(1);
  const auto type = precision == "bf16" ? at::kBFloat16 : at::kFloat;
  const Tensor qkv = at::randn({1, T, 3 * C}).to(type).requires_grad_(true);
  const Tensor dy = at::randn({1, T, C}).to(type);
  auto all = kinds(T, document);
  for (int round = -1; round < rounds; ++round) {
    for (Kind& kind : all) {
      const Stopwatch watch;
      torch::autograd::grad({ops::attention(qkv, kind.rule)}, {qkv}, {dy});
      if (round >= 0) kind.seconds.push_back(watch.seconds());
    }
  }
  fmt::print("{}, {} tokens, {} heads of {}\n{:<26}{:>10}{:>10}\n", precision, T, H, C / H,
             "forward and backward", "ms", "ratio");
  for (const Kind& kind : all) {
    const double s = median(kind.seconds);
    fmt::print("{:<26}{:>10.2f}{:>9.2f}x\n", kind.name, s * 1e3, median(all[0].seconds) / s);
  }
  fmt::print("peak memory {:.2f} GB\n", peak_rss_gb());
  return 0;
}

}  // namespace
}  // namespace gigagpt::bench

int main(int argc, char** argv) {
  return gigagpt::bench::run(argc, argv);
}
