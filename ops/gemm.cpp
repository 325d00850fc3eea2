#include "ops/gemm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <dnnl.hpp>
#include <map>
#include <vector>

#include "base/error.h"

namespace gigagpt::ops {
namespace {

using dnnl::memory;

bool cpu_has(dnnl::cpu_isa isa) {
  const int effective = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (effective & static_cast<int>(isa)) == static_cast<int>(isa);
}

memory::desc describe(const at::Tensor& t) {
  const auto type =
      t.scalar_type() == at::kFloat ? memory::data_type::f32 : memory::data_type::bf16;
  return {t.sizes().vec(), type, t.strides().vec()};
}

void append_key(std::vector<int64_t>& key, const at::Tensor& t) {
  key.push_back(static_cast<int64_t>(t.scalar_type()));
  key.insert(key.end(), t.sizes().begin(), t.sizes().end());
  key.insert(key.end(), t.strides().begin(), t.strides().end());
}

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine = [] {
    dnnl::set_primitive_cache_capacity(0);  // ours below does
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

constexpr size_t kMaxPrimitives = 256;

// Making a primitive costs far more than a small product: one of each kind is kept.
dnnl::matmul& cached_matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                            const memory::desc& bias) {
  static std::map<std::vector<int64_t>, dnnl::matmul> cache;
  std::vector<int64_t> key = {bias.data.ndims};
  for (const at::Tensor* t : {&a, &b, &c}) append_key(key, *t);
  auto found = cache.find(key);
  if (found == cache.end()) {
    const auto desc = bias.data.ndims == 0
                          ? dnnl::matmul::desc(describe(a), describe(b), describe(c))
                          : dnnl::matmul::desc(describe(a), describe(b), bias, describe(c));
    // Sampling brings a new shape with every token; code for old ones must not pile up.
    if (cache.size() >= kMaxPrimitives) cache.clear();
    dnnl::matmul primitive(dnnl::matmul::primitive_desc(desc, cpu_engine()));
    found = cache.emplace(std::move(key), std::move(primitive)).first;
  }
  return found->second;
}

}  // namespace

bool has_native_bf16() {
  return cpu_has(dnnl::cpu_isa::avx512_core_bf16);
}

bool onednn_has_bf16() {
  return cpu_has(dnnl::cpu_isa::avx512_core);
}

void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, const at::Tensor& bias) {
  GIGAGPT_ASSERT(a.dim() == b.dim() && a.dim() == c.dim() && a.scalar_type() == b.scalar_type());
  GIGAGPT_ASSERT(a.size(-1) == b.size(-2) && a.size(-2) == c.size(-2) && b.size(-1) == c.size(-1));
  if (c.numel() == 0) return;
  if (a.scalar_type() == at::kBFloat16 && !onednn_has_bf16()) {
    at::Tensor wide = at::empty(c.sizes(), at::kFloat);
    gemm(a.to(at::kFloat), b.to(at::kFloat), wide, bias);
    c.copy_(wide);
    return;
  }
  memory::desc bias_desc;
  if (bias.defined()) {
    memory::dims dims(static_cast<size_t>(c.dim()), 1);
    dims.back() = bias.numel();
    bias_desc = memory::desc(dims, memory::data_type::f32, memory::dims(dims.size(), 1));
  }
  const auto wrap = [](const memory::desc& desc, const at::Tensor& t) {
    return memory(desc, cpu_engine(), t.data_ptr());
  };
  std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, wrap(describe(a), a)},
                                               {DNNL_ARG_WEIGHTS, wrap(describe(b), b)},
                                               {DNNL_ARG_DST, wrap(describe(c), c)}};
  if (bias.defined()) arguments.emplace(DNNL_ARG_BIAS, wrap(bias_desc, bias));
  static dnnl::stream stream(cpu_engine());
  cached_matmul(a, b, c, bias_desc).execute(stream, arguments);
  stream.wait();
}

double measure_gemm_flops(at::ScalarType type) {
  constexpr int64_t M = 1024, K = 1024, N = 3072;
  const at::Tensor a = at::ones({M, K}, type), b = at::ones({K, N}, type),
                   c = at::empty({M, N}, type);
  using Clock = std::chrono::steady_clock;
  double best_s = 1e30;
  const auto start = Clock::now();
  for (int i = 0; i < 4 || Clock::now() - start < std::chrono::milliseconds(300); ++i) {
    const auto before = Clock::now();
    gemm(a, b, c);
    best_s = std::min(best_s, std::chrono::duration<double>(Clock::now() - before).count());
  }
  return 2.0 * M * K * N / best_s;
}

}  // namespace gigagpt::ops
