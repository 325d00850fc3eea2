// Attention: kernels for a mask that is a rule, the plain formula for one that is a tensor.
#include <ATen/ops/empty.h>

#include <memory>

#include "base/error.h"
#include "base/trace.h"
#include "ops/attention_mask.h"
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

using Blocks = std::shared_ptr<const MaskBlocks>;  // null: the causal mask

Blocks blocks_of(const AttentionRule& rule, const Tensor& q, const Tensor& k) {
  if (rule.is_causal()) return nullptr;
  return std::make_shared<const MaskBlocks>(rule, q.size(0), q.size(1), k.size(1));
}

// Two products with C terms for each query and key it sees.
double forward_flops(const Tensor& q, const Tensor& k, const Blocks& blocks) {
  const double B = double(q.size(0)), Tq = double(q.size(1)), Tk = double(k.size(1));
  const double pairs = blocks ? blocks->pairs() : B * Tq * (Tk - (Tq - 1) / 2);
  return 4 * double(q.size(2)) * pairs;
}

// q [B, Tq, H D], k and v [B, Tk, G D]: views whose last dimension is contiguous, k and v alike.
template <class T>
AttentionArgs<T> arguments(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                           const Tensor& lse, const AttentionRule& rule,
                           const Blocks& blocks = nullptr) {
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  const int64_t D = q.size(2) / rule.heads;
  return {size(q.size(0)),
          size(rule.heads),
          size(k.size(2) / D),
          size(D),
          size(q.size(1)),
          size(k.size(1)),
          data<T>(q),
          data<T>(k),
          data<T>(v),
          size(q.stride(1)),
          size(q.stride(0)),
          size(k.stride(1)),
          size(k.stride(0)),
          data<T>(y),
          size(y.stride(1)),
          size(y.stride(0)),
          data<float>(lse),
          rule.dropout_p,
          rule.key,
          blocks ? &blocks->view() : nullptr,
          rule.over_size};
}

template <class T>
void run_forward(const AttentionArgs<T>& args) {
  const auto& kernel = kernels::attention_kernels<T>();
  const size_t heads = args.B * args.H, kv_heads = args.B * args.G;
  const size_t blocks = (args.Tq + kernels::kQueryBlock - 1) / kernels::kQueryBlock;
  const Pieces packed(kv_heads, kernel.packed_bytes(args));
  const Pieces scratch(size_t(thread_count()), kernel.forward_scratch_bytes(args));
  parallel_tasks(kv_heads, [&](size_t head, int) { kernel.pack(args, head, packed[head]); });
  parallel_tasks(heads * blocks, [&](size_t task, int thread) {
    const size_t head = task % heads, block = blocks - 1 - task / heads;  // the longest first
    kernel.forward(args, head, block, packed[args.kv_head(head)], scratch[size_t(thread)]);
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
  Tensor q, k, v;  // B T H D, B T G D and the same, the last two dimensions as one; views
};
// Of the three in one tensor, or apart.
Parts parts_of(const std::vector<Tensor>& inputs) {
  if (inputs.size() == 3) return {inputs[0], inputs[1], inputs[2]};
  const int64_t C = inputs[0].size(2) / 3;
  return {inputs[0].narrow(2, 0, C), inputs[0].narrow(2, C, C), inputs[0].narrow(2, 2 * C, C)};
}

// bf16 where there is no instruction for it: by way of fp32.
at::ScalarType type_for_kernels(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && kernels::has_avx512_bf16() ? at::kBFloat16
                                                                        : at::kFloat;
}

Tensor fast_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& lse,
                    const AttentionRule& rule, const Blocks& blocks) {
  const Zone zone("attention forward", forward_flops(q, k, blocks));
  const Tensor y = at::empty(q.sizes(), q.scalar_type());  // B Tq C
  dispatch_type(q, [&](auto element) {
    run_forward<decltype(element)>(arguments<decltype(element)>(q, k, v, y, lse, rule, blocks));
  });
  return y;
}

// From gradients [B, T, H D] that each head of queries has to itself, [B, T, G D].
Tensor summed_by_group(const Tensor& gradients, const AttentionRule& rule, at::IntArrayRef sizes) {
  const int64_t D = gradients.size(2) / rule.heads, G = sizes[2] / D;
  return gradients.view({sizes[0], sizes[1], G, rule.heads / G, D}).sum(3).view(sizes);
}

// `inputs` as parts_of() takes them apart.
std::vector<Tensor> differentiate(const std::vector<Tensor>& inputs, const AttentionRule& rule,
                                  const Blocks& blocks, const Tensor& y, const Tensor& lse,
                                  const Tensor& dy) {
  std::vector<Tensor> gradients;
  for (const Tensor& input : inputs) gradients.push_back(at::empty(input.sizes(), dy.options()));
  const Parts from = parts_of(inputs);
  Parts to = parts_of(gradients);
  const bool grouped = from.k.size(2) != from.q.size(2);
  if (grouped) {
    for (Tensor* part : {&to.k, &to.v}) *part = at::empty(from.q.sizes(), dy.options());
  }
  const Zone zone("attention backward", 2.5 * forward_flops(from.q, from.k, blocks));
  dispatch_type(dy, [&](auto element) {
    using T = decltype(element);
    AttentionArgs<T> args = arguments<T>(from.q, from.k, from.v, y, lse, rule, blocks);
    args.dy = data<T>(dy);
    args.dq = data<T>(to.q);
    args.dk = data<T>(to.k);
    args.dv = data<T>(to.v);
    args.dkv_row = size_t(to.k.stride(1));
    args.dkv_batch = size_t(to.k.stride(0));
    run_backward<T>(args);
  });
  if (grouped) {
    gradients[1] = summed_by_group(to.k, rule, from.k.sizes());
    gradients[2] = summed_by_group(to.v, rule, from.v.sizes());
  }
  return gradients;
}

Tensor fast_attention(const std::vector<Tensor>& inputs_any, const AttentionRule& rule) {
  Recording recording(inputs_any);
  const auto type = inputs_any[0].scalar_type(), inner = type_for_kernels(inputs_any[0]);
  std::vector<Tensor> inputs;
  for (const Tensor& input : inputs_any) inputs.push_back(as_type(input.contiguous(), inner));
  const Parts parts = parts_of(inputs);
  const Tensor lse = at::empty({parts.q.size(0), rule.heads, parts.q.size(1)}, at::kFloat);
  const Blocks blocks = blocks_of(rule, parts.q, parts.k);
  const Tensor y = fast_forward(parts.q, parts.k, parts.v, lse, rule, blocks);
  const Tensor result = as_type(y, type);
  recording.record({result}, [=, y = y.detach()](const std::vector<Tensor>& dy) {
    auto gradients =
        differentiate(inputs, rule, blocks, y, lse, as_type(dy[0].contiguous(), inner));
    for (Tensor& gradient : gradients) gradient = as_type(gradient, type);
    return gradients;
  });
  return result;
}

// One query per batch row: bound by reading keys and values, a head a task.
template <class T>
void attend_one(const AttentionArgs<T>& a, const AttentionRule& rule) {
  constexpr float kMasked = -1e30F;
  const auto& rows = kernels::row_kernels<T>();
  const Tensor memory = at::empty({int64_t(a.B * a.H), int64_t(a.Tk + 2 * a.D)}, at::kFloat);
  parallel_tasks(a.B * a.H, [&](size_t head, int) {
    float* p = data<float>(memory) + head * (a.Tk + 2 * a.D);
    float *q = p + a.Tk, *y = q + a.D;
    const size_t of_q = a.head_at(head, a.q_batch);
    const size_t of_kv = a.kv_head_at(a.kv_head(head));
    std::fill_n(q, 2 * a.D, 0.0F);
    rows.add_scaled(1.0F / a.divisor(), a.q + of_q, a.D, q);
    const auto row = int64_t(head / a.H);
    const KeyRange range = keys_of(rule, row, 0, 1, int64_t(a.Tk));
    const auto begin = size_t(range.begin), end = size_t(range.end);
    for (size_t j = begin; j < end; ++j) {
      const bool hidden = rule.sees && !rule.sees(row, int64_t(a.Tk) - 1, int64_t(j));
      p[j] = hidden ? kMasked : rows.dot(q, a.k + of_kv + j * a.kv_row, a.D);
    }
    const float sum = rows.exponentials(p + begin, end - begin, 1.0F);
    for (size_t j = begin; j < end; ++j)
      rows.add_scaled(p[j] / sum, a.v + of_kv + j * a.kv_row, a.D, y);
    rows.from_floats(y, a.D, a.y + a.head_at(head, a.y_batch));
  });
}

Tensor continued_attention(const Parts& parts, const AttentionRule& rule, Memory& memory) {
  const Tensor k = memory.append("k", parts.k), v = memory.append("v", parts.v);  // B length C
  const Tensor& q = parts.q;
  if (rule.mask.defined()) return reference::attention(q, k, v, rule);
  if (q.size(1) == 1 && rule.dropout_p == 0.0) {
    const Zone zone("attention, one query");
    const Tensor y = at::empty(q.sizes(), q.scalar_type());
    dispatch_type(q, [&](auto element) {
      using T = decltype(element);
      attend_one<T>(arguments<T>(q, k, v, y, at::empty({1}, at::kFloat), rule), rule);
    });
    return y;
  }
  const Tensor lse = at::empty({q.size(0), rule.heads, q.size(1)}, at::kFloat);
  const auto type = type_for_kernels(q);
  return fast_forward(as_type(q, type), as_type(k, type), as_type(v, type), lse, rule,
                      blocks_of(rule, q, k))
      .to(q.scalar_type());
}

}  // namespace

Tensor attention(const Tensor& qkv, const AttentionRule& rule, Memory* memory) {
  if (memory == nullptr && !rule.mask.defined()) return fast_attention({qkv}, rule);
  const Parts parts = parts_of({qkv});
  if (memory != nullptr) return continued_attention(parts, rule, *memory);
  return reference::attention(parts.q, parts.k, parts.v, rule);
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionRule& rule,
                 Memory* memory) {
  GIGAGPT_ASSERT(q.size(2) == rule.heads && rule.heads % k.size(2) == 0);
  const Parts parts{q.flatten(2), k.flatten(2), v.flatten(2)};
  if (memory != nullptr) return continued_attention(parts, rule, *memory);
  if (!rule.mask.defined()) return fast_attention({parts.q, parts.k, parts.v}, rule);
  return reference::attention(parts.q, parts.k, parts.v, rule);
}

}  // namespace gigagpt::ops
