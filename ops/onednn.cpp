#include "ops/onednn.h"

#include <ATen/ops/empty.h>

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
  if (!t.defined()) return;
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

// An empty `bias` stands for none.
dnnl::matmul::primitive_desc describe_matmul(const at::Tensor& a, const at::Tensor& b,
                                             const memory::desc& bias, const at::Tensor& c,
                                             const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR < 3
  return {{describe(a), describe(b), bias, describe(c)}, attributes, cpu_engine()};
#else
  return {cpu_engine(), describe(a), describe(b), bias, describe(c), attributes};
#endif
}

constexpr size_t kMaxPrimitives = 256;

// Making a primitive costs far more than a small product: one of each kind is kept.
dnnl::matmul& cached_matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                            const memory::desc& bias, const GemmExtras& extras) {
  static thread_local std::map<std::vector<int64_t>, dnnl::matmul> cache;
  std::vector<int64_t> key = {extras.bias.defined(), extras.add, extras.residual.defined()};
  for (const at::Tensor* t : {&a, &b, &c, &extras.residual}) append_key(key, *t);
  auto found = cache.find(key);
  if (found == cache.end()) {
    dnnl::post_ops post;
    if (extras.add) post.append_sum(1.0F);
    if (extras.residual.defined()) {
      post.append_binary(dnnl::algorithm::binary_add, describe(extras.residual));
    }
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(post);
    // Sampling brings a new shape with every token; code for old ones must not pile up.
    if (cache.size() >= kMaxPrimitives) cache.clear();
    const dnnl::matmul made(describe_matmul(a, b, bias, c, attributes));
    found = cache.emplace(std::move(key), made).first;
  }
  return found->second;
}

}  // namespace

bool has_native_bf16() {
  return cpu_has(dnnl::cpu_isa::avx512_core_bf16);
}

bool has_amx() {
  return cpu_has(dnnl::cpu_isa::avx512_core_amx);
}

void onednn_gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                 const GemmExtras& extras) {
  // Without AVX-512 oneDNN has no bf16: by way of fp32.
  if (a.scalar_type() == at::kBFloat16 && !cpu_has(dnnl::cpu_isa::avx512_core)) {
    at::Tensor wide = c.scalar_type() == at::kFloat ? c : at::empty(c.sizes(), at::kFloat);
    onednn_gemm(a.to(at::kFloat), b.to(at::kFloat), wide, extras);
    if (!wide.is_same(c)) c.copy_(wide);
    return;
  }
  memory::desc bias_desc;
  if (extras.bias.defined()) {
    memory::dims dims(static_cast<size_t>(c.dim()), 1);
    dims.back() = extras.bias.numel();
    bias_desc = memory::desc(dims, memory::data_type::f32, memory::dims(dims.size(), 1));
  }
  const auto wrap = [](const memory::desc& desc, const at::Tensor& t) {
    return memory(desc, cpu_engine(), t.data_ptr());
  };
  std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, wrap(describe(a), a)},
                                               {DNNL_ARG_WEIGHTS, wrap(describe(b), b)},
                                               {DNNL_ARG_DST, wrap(describe(c), c)}};
  if (extras.bias.defined()) arguments.emplace(DNNL_ARG_BIAS, wrap(bias_desc, extras.bias));
  if (extras.residual.defined()) {
    const int place = DNNL_ARG_ATTR_MULTIPLE_POST_OP(extras.add ? 1 : 0) | DNNL_ARG_SRC_1;
    arguments.emplace(place, wrap(describe(extras.residual), extras.residual));
  }
  static thread_local dnnl::stream stream(cpu_engine());
  cached_matmul(a, b, c, bias_desc, extras).execute(stream, arguments);
  stream.wait();
}

}  // namespace gigagpt::ops
