// Each op of a block and a head at the size of the 111M model, fast beside its plain reference,
// interleaved in one run: medians, their ratio, and the share of what the machine was measured to
// reach in the same rounds, in products or in memory.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "base/system.h"
#include "ops/gelu_testing.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "ops/optimizer.h"
#include "ops/page_allocator.h"
#include "ops/reference_testing.h"

namespace gigagpt::bench {
namespace {

using at::Tensor;
using ops::Affine;
using ops::Weight;

constexpr int64_t B = 1, T = 2048, C = 768, H = 12, V = 50257;

struct Case {
  std::string name;
  double flops = 0;  // or
  double bytes = 0;  // that must move
  std::function<void()> fast, reference;
};

double seconds_of(const std::function<void()>& work) {
  const Stopwatch watch;
  work();
  return watch.seconds();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A product by our kernel or oneDNN, b as the linear layers have it.
struct Product {
  Product(at::ScalarType type, int64_t M, int64_t K, int64_t N)
      : a(at::randn({M, K}).to(type)),
        b(at::randn({N, K}).to(type)),
        c(at::empty({M, N}, type)),
        flops(2.0 * double(M) * double(K) * double(N)) {}
  double seconds(bool own) const {
    ops::use_own_gemm(own);
    const double s = seconds_of([&] { ops::gemm(a, b.t(), c); });
    ops::use_own_gemm(true);
    return s;
  }
  Tensor a, b, c;
  double flops;
};

std::vector<Product> products(at::ScalarType type) {
  return {{type, T, C, 3 * C}, {type, T, C, 4 * C}, {type, T, 4 * C, C}, {type, T, 2048, 2048}};
}

// The best rate: of the medians of each shape and implementation, the highest.
double best_gemm_rate(at::ScalarType type, int rounds) {
  double best = 0;
  for (const Product& product : products(type)) {
    std::vector<double> own, onednn;
    product.seconds(true), product.seconds(false);
    for (int i = 0; i < rounds; ++i) {
      own.push_back(product.seconds(true));
      onednn.push_back(product.seconds(false));
    }
    best = std::max({best, product.flops / median(own), product.flops / median(onednn)});
  }
  return best;
}

double read_rate(int rounds) {
  const Tensor memory = at::ones({1 << 26}, at::kFloat);
  std::vector<double> seconds;
  for (int i = 0; i < rounds; ++i) {
    seconds.push_back(seconds_of([&] {
      ops::sum_of_squares({memory.data_ptr<float>(), size_t(memory.numel())});
    }));
  }
  return double(memory.nbytes()) / median(seconds);
}

// A forward pass alone, or with everything that comes back.
Case forward(const std::string& name, double flops, double bytes,
             const std::function<Tensor()>& fast, const std::function<Tensor()>& reference) {
  return {name, flops, bytes,
          [=] {
            at::NoGradGuard none;
            fast();
          },
          [=] {
            at::NoGradGuard none;
            reference();
          }};
}

void backward_of(const Tensor& y, const std::vector<Tensor>& leaves, const Tensor& dy) {
  torch::autograd::grad({y}, leaves, {dy.to(y.scalar_type())}, false, false, true);
}

std::vector<Case> make_cases(at::ScalarType type) {
  const auto leaf = [](const Tensor& x) { return x.requires_grad_(true); };
  const auto matrix = [&](int64_t n, int64_t k) {
    return leaf((at::randn({n, k}) * 0.02).to(type));
  };
  const auto vector = [&](int64_t n) { return leaf(at::randn({n})); };
  std::vector<Case> cases;
  const auto both = [&](const std::string& name, double flops, double bytes,
                        const std::vector<Tensor>& leaves, const std::function<Tensor()>& fast,
                        const std::function<Tensor()>& reference) {
    cases.push_back(forward(name + " forward", flops, bytes, fast, reference));
    const Tensor dy = at::randn(fast().sizes());
    cases.push_back({name + " and backward", 3 * flops, 3 * bytes,
                     [=] { backward_of(fast(), leaves, dy); },
                     [=] { backward_of(reference(), leaves, dy); }});
  };
  const Tensor x = leaf(at::randn({B, T, C})), x_type = leaf(at::randn({B, T, C}).to(type));
  const Tensor w = matrix(4 * C, C), b = vector(4 * C);
  const Affine affine{{w, {}}, {b, {}}};
  const double R = double(B * T), element = type == at::kFloat ? 4 : 2;
  both(
      "linear", 2 * R * double(C * 4 * C), 0, {x_type, w, b},
      [=] { return ops::linear(x_type, affine); },
      [=] { return ops::reference::linear(x_type, w, b.to(type)); });
  const Tensor qkv = leaf(at::randn({B, T, 3 * C}).to(type));
  both(
      "attention", 2 * R * double((T + 1) * C), 0, {qkv}, [=] { return ops::attention(qkv, {H}); },
      [=] {
        const auto parts = qkv.chunk(3, -1);
        return ops::reference::attention(parts[0], parts[1], parts[2], {H});
      });
  const Tensor g = vector(C), bias = vector(C);
  const Affine norm{{g, {}}, {bias, {}}};
  both(
      "layer norm", 0, R * double(C) * (4 + element), {x, g, bias},
      [=] { return ops::layer_norm(x, norm, type); },
      [=] { return ops::reference::layer_norm(x, g, bias).to(type); });
  const Tensor h = leaf(at::randn({B, T, 4 * C}).to(type));
  both(
      "gelu", 0, R * double(4 * C) * 2 * element, {h}, [=] { return ops::gelu(h); },
      [=] { return ops::reference::gelu(h); });
  const Tensor wte = matrix(V, C), labels = at::randint(0, V, {B, T}, at::kLong);
  both(
      "head and loss", 2 * R * double(C * V), 0, {x_type, wte},
      [=] {
        return ops::cross_entropy(x_type, {wte, {}}, labels);
      },
      [=] { return ops::reference::cross_entropy(x_type, wte, labels); });
  return cases;
}

void run_case(const Case& c, int rounds, double gemm_rate, double memory_rate) {
  std::vector<double> fast, reference;
  c.fast();
  c.reference();
  for (int i = 0; i < rounds; ++i) {
    fast.push_back(seconds_of(c.fast));
    reference.push_back(seconds_of(c.reference));
  }
  const double s = median(fast);
  const double share = c.flops > 0 ? c.flops / s / gemm_rate : c.bytes / s / memory_rate;
  fmt::print("{:<26}{:>10.2f}{:>14.2f}{:>9.1f}x{:>9.0f} % of {}\n", c.name, s * 1e3,
             median(reference) * 1e3, median(reference) / s, share * 100,
             c.flops > 0 ? "products" : "memory");
}

void compare_products(at::ScalarType type, int rounds) {
  fmt::print("\n{:<26}{:>10}{:>14}\n", "product, GFLOP/s", "ours", "oneDNN");
  for (const Product& product : products(type)) {
    std::vector<double> own, onednn;
    for (int i = 0; i <= rounds; ++i) {
      own.push_back(product.seconds(true));
      onednn.push_back(product.seconds(false));
    }
    const std::string shape =
        fmt::format("{} x {} x {}", product.a.size(0), product.a.size(1), product.b.size(0));
    fmt::print("{:<26}{:>10.0f}{:>14.0f}\n", shape, product.flops / median(own) / 1e9,
               product.flops / median(onednn) / 1e9);
  }
}

int run(int argc, char** argv) {
  keep_freed_memory();
  ops::use_page_allocator();
  CLI::App app{"Times the ops at the size of the 111M model (1 x 2048 tokens)"};
  std::string only_gemm, precision = ops::has_native_bf16() ? "bf16" : "fp32";
  int rounds = 7;
  app.add_option("--gemm", only_gemm, "print only the best rate of products in GFLOP/s")
      ->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--precision", precision)->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--rounds", rounds, "of which the medians are taken");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(core_count());
  at::manual_seed(1);
  const auto type_of = [](const std::string& p) {
    return p == "bf16" ? at::kBFloat16 : at::kFloat;
  };
  if (!only_gemm.empty()) {
    fmt::print("{:.1f}\n", best_gemm_rate(type_of(only_gemm), rounds) / 1e9);
    return 0;
  }
  const auto type = type_of(precision);
  const double gemm_rate = best_gemm_rate(type, rounds), memory_rate = read_rate(rounds);
  fmt::print("{}; products reach {:.0f} GFLOP/s, reading memory {:.1f} GB/s\n\n", precision,
             gemm_rate / 1e9, memory_rate / 1e9);
  fmt::print("{:<26}{:>10}{:>14}{:>10}{:>11}\n", "op", "ms", "reference ms", "ratio", "share");
  for (const Case& c : make_cases(type)) run_case(c, rounds, gemm_rate, memory_rate);
  if (type == at::kBFloat16) compare_products(type, rounds);
  return 0;
}

}  // namespace
}  // namespace gigagpt::bench

int main(int argc, char** argv) {
  return gigagpt::bench::run(argc, argv);
}
