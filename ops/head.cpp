// The head of a language model: product with the vocabulary and cross-entropy, together. Its
// products have an operand that no cache holds, which oneDNN is better at than our own kernel.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/trace.h"
#include "ops/gemm.h"
#include "ops/gradient.h"
#include "ops/kernels/rows.h"
#include "ops/onednn.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows at once. More read the weights and the gradient less often but need memory; in fp32 products
// take twice as long, and reading matters half as much.
int64_t chunk_rows(at::ScalarType type) {
  return type == at::kBFloat16 ? 1024 : 512;
}

// The losses of rows of logits [n, V], whose gradients times `scale` then lie in `dlogits`
// [n, V] of the weight's type: in the same memory, the logits are gone.
struct ChunkLoss {
  double sum;
  Tensor dlogits;
};

ChunkLoss differentiate_logits(const Tensor& logits, const int64_t* labels, double scale,
                               at::ScalarType type) {
  const Zone zone("softmax and loss");
  const size_t n = size_t(logits.size(0)), V = size_t(logits.size(1));
  const size_t stride = size_t(logits.stride(0));
  std::vector<double> losses(n);
  Tensor dlogits;
  dispatch_type(type, [&](auto element) {
    using T = decltype(element);
    const size_t wide = stride * sizeof(float) / sizeof(T);
    const auto differentiate = kernels::row_kernels<T>().cross_entropy;
    parallel_parts(n, 4, [&](size_t begin, size_t end, size_t) {
      for (size_t r = begin; r < end; ++r) {
        float* x = data<float>(logits) + r * stride;
        losses[r] = differentiate(x, V, size_t(labels[r]), float(scale), reinterpret_cast<T*>(x));
      }
    });
    dlogits = at::from_blob(logits.data_ptr(), {int64_t(n), int64_t(V)}, {int64_t(wide), 1}, type);
  });
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return {sum, dlogits};
}

// The sum of the losses of all rows, alone.
double loss_of(const Tensor& logits, const int64_t* labels) {
  const size_t n = size_t(logits.size(0)), V = size_t(logits.size(1));
  const size_t stride = size_t(logits.stride(0));
  std::vector<double> losses(n);
  parallel_parts(n, 4, [&](size_t begin, size_t end, size_t) {
    for (size_t r = begin; r < end; ++r) {
      losses[r] = kernels::cross_entropy_loss(data<float>(logits) + r * stride, size_t(V),
                                              size_t(labels[r]));
    }
  });
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum;
}

// Memory for a chunk's logits [rows, V and more], kept from call to call: coming and going, the
// largest array of a step would leave holes between the others. An odd number of cache lines
// apart, rows share few places in the cache.
Tensor logits_memory(int64_t rows, int64_t V) {
  static Tensor kept;
  const int64_t stride = (V / 16 + 1) / 2 * 32 + 16;
  if (!kept.defined() || kept.numel() < rows * stride) {
    kept = Tensor();
    kept = at::empty({rows * stride}, at::kFloat);
  }
  return kept.narrow(0, 0, rows * stride).view({rows, stride});
}

// Memory for the weight's gradient until its scale is known: if nothing was added up yet, that of
// its sum.
Tensor borrow_or_make(GradientSum* sum, const Tensor& weight) {
  if (sum == nullptr || sum->state != GradientSum::kEmpty) {
    return at::empty(weight.sizes(), at::kFloat);
  }
  sum->state = GradientSum::kLent;
  return sum->sum;
}

// Gradients are made in the forward pass, while a chunk's logits exist; the backward pass has only
// to scale them.
struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
  static Tensor forward(AutogradContext* ctx, const Tensor& h_any, const Tensor& weight,
                        const Tensor& labels_any, const Gradients& grads, bool differentiate) {
    const int64_t V = weight.size(0), C = weight.size(1);
    const auto type = weight.scalar_type();
    const Tensor h = as_type(h_any.reshape({-1, C}), type).contiguous();  // R C
    const Tensor labels = labels_any.reshape({-1}).contiguous();          // R
    const int64_t R = h.size(0), rows = std::min(R, chunk_rows(type));
    const Tensor logits = logits_memory(rows, V);
    Tensor dh, dweight;
    if (differentiate) {
      dh = at::empty({R, C}, h_any.scalar_type());
      dweight = borrow_or_make(grads[0], weight);
    }
    double sum = 0;
    for (int64_t first = 0; first < R; first += rows) {
      const int64_t n = std::min(rows, R - first);
      const double flops = 2.0 * double(n) * double(C) * double(V);
      const Tensor x = h.narrow(0, first, n);                       // n C
      const Tensor chunk = logits.narrow(0, 0, n).narrow(1, 0, V);  // n V
      const int64_t* label = labels.data_ptr<int64_t>() + first;
      {
        const Zone zone("head forward", flops);
        onednn_gemm(x, weight.t(), chunk, {});
      }
      if (!differentiate) {
        sum += loss_of(chunk, label);
        continue;
      }
      const ChunkLoss loss = differentiate_logits(chunk, label, 1.0 / double(R), type);
      sum += loss.sum;
      {
        const Zone zone("head backward, input", flops);
        onednn_gemm(loss.dlogits, weight, dh.narrow(0, first, n), {});
      }
      const Zone zone("head backward, weight", flops);
      onednn_gemm(loss.dlogits.t(), x, dweight, {.add = first > 0});
    }
    if (differentiate) ctx->save_for_backward({dh, dweight});
    ctx->saved_data["h_sizes"] = h_any.sizes();
    save(ctx, grads);
    return at::scalar_tensor(sum / double(R), at::kFloat);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &dh = saved[0], &dweight = saved[1];
    const double scale = outputs[0].item<double>();
    // Kept tensors are scaled into new ones, as a graph may be walked twice.
    const Tensor scaled = scale == 1.0 ? dh : dh * scale;
    GradientSum* sum = gradient_sum(ctx, 0);
    const bool lent = sum != nullptr && sum->sum.is_same(dweight);
    if (lent) {
      if (scale != 1.0) Tensor(dweight).mul_(scale);
      sum->state = GradientSum::kFilled;
    } else if (sum != nullptr) {
      add_gradient(*sum, dweight, scale);
    }
    return {scaled.view(ctx->saved_data["h_sizes"].toIntVector()),
            sum == nullptr ? dweight * scale : Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor cross_entropy(const Tensor& h, const Weight& weight, const Tensor& labels) {
  return CrossEntropy::apply(h, weight.value, labels, Gradients{weight.grad, nullptr},
                             at::GradMode::is_enabled());
}

}  // namespace gigagpt::ops
