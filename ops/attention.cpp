// Attention over chunks of batch rows and heads. Only q, k and v are kept for the backward pass,
// which computes the probabilities again: they are T x T per head and would dwarf everything else.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "ops/dropout.h"
#include "ops/gemm.h"
#include "ops/ops.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kChunkElements = 1 << 24;  // scores computed at once: 64 MiB in fp32

struct Settings {
  int64_t heads;
  double dropout_p;
  uint64_t key;
};

// Batch rows [b, b + nb) and heads [h, h + nh): some rows with all heads, or some heads of one row,
// so that their scores are contiguous among all [B, H, Tq, Tk].
struct Chunk {
  int64_t b, nb, h, nh;
  Tensor of(const Tensor& x) const { return x.narrow(0, b, nb).narrow(1, h, nh); }
};

std::vector<Chunk> make_chunks(int64_t B, int64_t H, int64_t scores_per_head) {
  const int64_t fit = std::max<int64_t>(kChunkElements / scores_per_head, 1);  // heads
  const int64_t nb = std::max<int64_t>(fit / H, 1);
  const int64_t nh = std::min(fit, H);
  std::vector<Chunk> chunks;
  for (int64_t b = 0; b < B; b += nb) {
    for (int64_t h = 0; h < H; h += nh) {
      chunks.push_back({b, std::min(nb, B - b), h, std::min(nh, H - h)});
    }
  }
  return chunks;
}

Tensor split_heads(const Tensor& x, int64_t heads) {  // B T C -> B H T D, a view
  return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}

// One chunk's computation, forward and backward.
class ChunkAttention {
 public:
  ChunkAttention(const Settings& settings, const Chunk& chunk, const Tensor& q, const Tensor& k,
                 const Tensor& v, const Tensor& mask)
      : settings_(settings),
        q_(chunk.of(split_heads(q, settings.heads))),
        k_(chunk.of(split_heads(k, settings.heads))),
        v_(chunk.of(split_heads(v, settings.heads))),
        scale_(1.0 / std::sqrt(double(q_.size(3)))),
        first_((chunk.b * settings.heads + chunk.h) * q.size(1) * k.size(1)) {
    const int64_t B = q.size(0), Tq = q.size(1), Tk = k.size(1);
    if (mask.defined()) mask_ = chunk.of(mask.expand({B, settings.heads, Tq, Tk}));
  }

  void forward(const Tensor& y) const {  // b h Tq D
    gemm(dropped(probabilities()).to(v_.scalar_type()), v_, y);
  }

  void backward(const Tensor& dy, const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
    const Tensor p = probabilities();  // b h Tq Tk
    gemm(dropped(p).to(dy.scalar_type()).transpose(2, 3), dy, dv);
    Tensor dp = at::empty(p.sizes(), at::kFloat);  // b h Tq Tk
    gemm(dy, v_.transpose(2, 3), dp);
    dp = dropped(dp);
    const Tensor ds = (p * (dp - (dp * p).sum({3}, true)) * scale_).to(dy.scalar_type());
    gemm(ds, k_, dq);
    gemm(ds.transpose(2, 3), q_, dk);
  }

 private:
  Tensor probabilities() const {  // b h Tq Tk, before dropout
    const int64_t Tq = q_.size(2), Tk = k_.size(2);
    Tensor scores = at::empty({q_.size(0), q_.size(1), Tq, Tk}, at::kFloat);
    gemm(q_, k_.transpose(2, 3), scores);
    scores.mul_(scale_);
    if (mask_.defined()) {
      scores.add_(mask_);
    } else if (Tq > 1) {
      const Tensor later = at::ones({Tq, Tk}, at::kBool).triu(1 + Tk - Tq);
      scores.masked_fill_(later, -std::numeric_limits<float>::infinity());
    }
    return at::softmax(scores, -1);
  }

  Tensor dropped(const Tensor& x) const {
    return settings_.dropout_p == 0.0 ? x : drop(x, settings_.dropout_p, settings_.key, first_);
  }

  const Settings& settings_;
  Tensor q_, k_, v_;  // b h T D
  Tensor mask_;       // b h Tq Tk, or undefined: causal
  double scale_;
  int64_t first_;  // of the scores, among all of the batch
};

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const c10::optional<Tensor>& mask, const Settings& settings) {
    ctx->save_for_backward({q, k, v});
    ctx->saved_data["mask"] = mask;
    ctx->saved_data["heads"] = settings.heads;
    ctx->saved_data["dropout_p"] = settings.dropout_p;
    ctx->saved_data["key"] = static_cast<int64_t>(settings.key);
    const Tensor y = at::empty(q.sizes(), q.options());  // B Tq C
    for (const Chunk& chunk : make_chunks(q.size(0), settings.heads, q.size(1) * k.size(1))) {
      ChunkAttention(settings, chunk, q, k, v, mask.value_or(Tensor()))
          .forward(chunk.of(split_heads(y, settings.heads)));
    }
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const auto mask = ctx->saved_data["mask"].toOptional<Tensor>().value_or(Tensor());
    const Settings settings{ctx->saved_data["heads"].toInt(),
                            ctx->saved_data["dropout_p"].toDouble(),
                            static_cast<uint64_t>(ctx->saved_data["key"].toInt())};
    const auto heads_of = [&](const Tensor& x) { return split_heads(x, settings.heads); };
    const Tensor dy = outputs[0].to(q.scalar_type()).contiguous();  // B Tq C
    const Tensor dq = at::empty(q.sizes(), q.options());            // B Tq C
    const Tensor dk = at::empty(k.sizes(), k.options());            // B Tk C
    const Tensor dv = at::empty(v.sizes(), v.options());            // B Tk C
    for (const Chunk& chunk : make_chunks(q.size(0), settings.heads, q.size(1) * k.size(1))) {
      ChunkAttention(settings, chunk, q, k, v, mask)
          .backward(chunk.of(heads_of(dy)), chunk.of(heads_of(dq)), chunk.of(heads_of(dk)),
                    chunk.of(heads_of(dv)));
    }
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads,
                 const Tensor& mask, double dropout_p, uint64_t key) {
  const auto given = mask.defined() ? c10::optional<Tensor>(mask) : c10::nullopt;
  return Attention::apply(q, k, v, given, Settings{heads, dropout_p, key});
}

}  // namespace gigagpt::ops
