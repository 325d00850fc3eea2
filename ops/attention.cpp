// Attention: kernels for the causal mask, the plain formula for any other.
#include <ATen/ops/empty.h>

#include <cmath>

#include "base/trace.h"
#include "ops/autograd.h"
#include "ops/gemm.h"
#include "ops/kernels/attention.h"
#include "ops/kernels/rows.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/pointers.h"
#include "ops/reference.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using kernels::AttentionArgs;
using kernels::Bf16;

// One allocation per pass, cut into pieces for heads or threads.
class Pieces {
 public:
  Pieces(size_t count, size_t bytes)
      : bytes_(bytes), memory_(at::empty({int64_t(count * bytes)}, at::kByte)) {}
  std::byte* operator[](size_t i) const { return bytes_of(memory_) + i * bytes_; }

 private:
  size_t bytes_;
  Tensor memory_;
};

// Two products with C terms for each query and key it sees.
double forward_flops(const Tensor& q, const Tensor& k) {
  const double B = double(q.size(0)), Tq = double(q.size(1)), Tk = double(k.size(1));
  return 4 * B * double(q.size(2)) * Tq * (Tk - (Tq - 1) / 2);
}

// q [B, Tq, C], k and v [B, Tk, C]: views whose last dimension is contiguous, k and v alike.
template <class T>
AttentionArgs<T> arguments(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                           const Tensor& lse, const AttentionRule& rule) {
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  return {size(q.size(0)),   size(rule.heads),  size(q.size(2) / rule.heads),
          size(q.size(1)),   size(k.size(1)),   data<T>(q),
          data<T>(k),        data<T>(v),        size(q.stride(1)),
          size(q.stride(0)), size(k.stride(1)), size(k.stride(0)),
          data<T>(y),        size(y.stride(1)), size(y.stride(0)),
          data<float>(lse),  rule.dropout_p,    rule.key};
}

template <class T>
void run_forward(const AttentionArgs<T>& args) {
  const auto& kernel = kernels::attention_kernels<T>();
  const size_t heads = args.B * args.H;
  const size_t blocks = (args.Tq + kernels::kQueryBlock - 1) / kernels::kQueryBlock;
  const Pieces packed(heads, kernel.packed_bytes(args));
  const Pieces scratch(size_t(thread_count()), kernel.forward_scratch_bytes(args));
  parallel_tasks(heads, [&](size_t head, int) { kernel.pack(args, head, packed[head]); });
  parallel_tasks(heads * blocks, [&](size_t task, int thread) {
    const size_t head = task % heads, block = blocks - 1 - task / heads;  // the longest first
    kernel.forward(args, head, block, packed[head], scratch[size_t(thread)]);
  });
}

template <class T>
void run_backward(const AttentionArgs<T>& args) {
  const auto& kernel = kernels::attention_kernels<T>();
  const Pieces scratch(size_t(thread_count()), kernel.backward_scratch_bytes(args));
  parallel_tasks(args.B * args.H, [&](size_t head, int thread) {
    kernel.backward(args, head, scratch[size_t(thread)]);
  });
}

struct Parts {
  Tensor q, k, v;  // B T C each, views
};
Parts split(const Tensor& qkv) {
  const int64_t C = qkv.size(2) / 3;
  return {qkv.narrow(2, 0, C), qkv.narrow(2, C, C), qkv.narrow(2, 2 * C, C)};
}

// bf16 where there is no instruction for it: by way of fp32.
at::ScalarType type_for_kernels(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && kernels::has_avx512_bf16() ? at::kBFloat16
                                                                        : at::kFloat;
}

Tensor causal_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse,
                      const AttentionRule& rule) {
  const Zone zone("attention forward", forward_flops(q, k));
  const Tensor y = at::empty(q.sizes(), q.scalar_type());  // B Tq C
  dispatch_type(q, [&](auto element) {
    run_forward<decltype(element)>(arguments<decltype(element)>(q, k, v, y, lse, rule));
  });
  return y;
}

Tensor causal_attention(const Tensor& qkv_any, const AttentionRule& rule) {
  Recording recording({qkv_any});
  const auto type = qkv_any.scalar_type();
  const Tensor qkv = as_type(qkv_any.contiguous(), type_for_kernels(qkv_any));  // B T 3C
  const Tensor lse = at::empty({qkv.size(0), rule.heads, qkv.size(1)}, at::kFloat);
  const Parts parts = split(qkv);
  const Tensor y = causal_forward(parts.q, parts.k, parts.v, lse, rule);
  const Tensor result = as_type(y, type);
  recording.record({result}, [=, y = y.detach()](const std::vector<Tensor>& gradients) {
    const Tensor dy = as_type(gradients[0].contiguous(), qkv.scalar_type());  // B T C
    const Tensor dqkv = at::empty(qkv.sizes(), qkv.scalar_type());            // B T 3C
    const Parts from = split(qkv), to = split(dqkv);
    const Zone zone("attention backward", 2.5 * forward_flops(from.q, from.k));
    dispatch_type(qkv, [&](auto element) {
      using T = decltype(element);
      AttentionArgs<T> args = arguments<T>(from.q, from.k, from.v, y, lse, rule);
      args.dy = data<T>(dy);
      args.dq = data<T>(to.q);
      args.dk = data<T>(to.k);
      args.dv = data<T>(to.v);
      run_backward<T>(args);
    });
    return std::vector{as_type(dqkv, type)};
  });
  return result;
}

// One query per batch row: bound by reading keys and values, a head a task.
template <class T>
void attend_one(const AttentionArgs<T>& a) {
  const auto& rows = kernels::row_kernels<T>();
  const Tensor memory = at::empty({int64_t(a.B * a.H), int64_t(a.Tk + 2 * a.D)}, at::kFloat);
  parallel_tasks(a.B * a.H, [&](size_t head, int) {
    float* p = data<float>(memory) + head * (a.Tk + 2 * a.D);
    float *q = p + a.Tk, *y = q + a.D;
    const size_t of_q = a.head_at(head, a.q_batch);
    const size_t of_kv = a.head_at(head, a.kv_batch);
    std::fill_n(q, 2 * a.D, 0.0F);
    rows.add_scaled(1.0F / std::sqrt(float(a.D)), a.q + of_q, a.D, q);
    for (size_t j = 0; j < a.Tk; ++j) p[j] = rows.dot(q, a.k + of_kv + j * a.kv_row, a.D);
    const float sum = rows.exponentials(p, a.Tk, 1.0F);
    for (size_t j = 0; j < a.Tk; ++j)
      rows.add_scaled(p[j] / sum, a.v + of_kv + j * a.kv_row, a.D, y);
    rows.from_floats(y, a.D, a.y + a.head_at(head, a.y_batch));
  });
}

Tensor cached_attention(const Parts& parts, const AttentionRule& rule, KVCache& cache) {
  const auto [k, v] = cache.append(parts.k, parts.v);  // B length C
  const Tensor& q = parts.q;
  if (rule.mask.defined()) return reference::attention(q, k, v, rule);
  if (q.size(1) == 1 && rule.dropout_p == 0.0) {
    const Zone zone("attention, one query");
    const Tensor y = at::empty(q.sizes(), q.scalar_type());
    dispatch_type(q, [&, k = k, v = v](auto element) {
      using T = decltype(element);
      attend_one<T>(arguments<T>(q, k, v, y, at::empty({1}, at::kFloat), rule));
    });
    return y;
  }
  const Tensor lse = at::empty({q.size(0), rule.heads, q.size(1)}, at::kFloat);
  const auto type = type_for_kernels(q);
  return causal_forward(as_type(q, type), as_type(k, type), as_type(v, type), lse, rule)
      .to(q.scalar_type());
}

}  // namespace

Tensor attention(const Tensor& qkv, const AttentionRule& rule, KVCache* cache) {
  if (cache != nullptr) return cached_attention(split(qkv), rule, *cache);
  if (!rule.mask.defined()) return causal_attention(qkv, rule);
  const auto parts = qkv.chunk(3, -1);  // B T C each
  return reference::attention(parts[0], parts[1], parts[2], rule);
}

}  // namespace gigagpt::ops
