// The head of a language model: product with the vocabulary and cross-entropy, together. Its
// products have an operand that no cache holds, which oneDNN is better at than our own kernel.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/trace.h"
#include "ops/autograd.h"
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

// Rows at once. More read the weights and the gradient less often but need memory; in fp32 products
// take twice as long, and reading matters half as much.
int64_t chunk_rows(at::ScalarType type) {
  return type == at::kBFloat16 ? 1024 : 512;
}

// The sum of loss_of(row, label) over the rows of logits [n, V] that count, added in order;
// ignore(row) is called for the others.
template <class F, class G>
double sum_of_losses(const Tensor& logits, const int64_t* labels, const F& loss_of,
                     const G& ignore) {
  const size_t stride = size_t(logits.stride(0));
  std::vector<double> losses(size_t(logits.size(0)));
  parallel_parts(losses.size(), 4, [&](size_t begin, size_t end, size_t) {
    for (size_t r = begin; r < end; ++r) {
      float* row = data<float>(logits) + r * stride;
      labels[r] == kIgnoredLabel ? ignore(row) : void(losses[r] = loss_of(row, size_t(labels[r])));
    }
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

// The sum of the losses. The gradients times `scale` then lie in the same memory as `as_gradients`
// has them; the logits are gone.
double differentiate_logits(const Tensor& logits, const int64_t* labels, double scale,
                            at::ScalarType type) {
  const Zone zone("softmax and loss");
  double sum = 0;
  dispatch_type(type, [&](auto element) {
    using T = decltype(element);
    const auto differentiate = kernels::row_kernels<T>().cross_entropy;
    const auto V = size_t(logits.size(1));
    sum = sum_of_losses(
        logits, labels,
        [&](float* x, size_t label) {
          return differentiate(x, V, label, float(scale), reinterpret_cast<T*>(x));
        },
        [&](float* x) { std::fill_n(reinterpret_cast<T*>(x), V, T{}); });
  });
  return sum;
}

// The memory of logits as that of their gradients [n, V] of that type.
Tensor as_gradients(const Tensor& logits, at::ScalarType type) {
  const auto stride = logits.stride(0) * int64_t(sizeof(float) / c10::elementSize(type));
  return at::from_blob(logits.data_ptr(), logits.sizes(), {stride, 1}, type);
}

double loss_alone(const Tensor& logits, const int64_t* labels) {
  const auto loss_of = kernels::row_kernels<float>().cross_entropy_loss;
  return sum_of_losses(
      logits, labels,
      [&](const float* x, size_t label) { return loss_of(x, size_t(logits.size(1)), label); },
      [](const float* /*x*/) {});
}

// Memory for a chunk's logits [rows, V and more], kept from call to call: coming and going, the
// largest array of a step would leave holes between the others. An odd number of cache lines
// apart, rows share few places in the cache.
Tensor logits_memory(int64_t rows, int64_t V) {
  static thread_local Tensor kept;
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
  check_dense(*sum);
  sum->state = GradientSum::kLent;
  return sum->sum;
}

// The sum of the losses, and the gradients of a `counted`-th of it, made while a chunk's logits
// exist; if they are defined.
double losses_of(const Tensor& h, const Tensor& weight, const Tensor& labels, double counted,
                 const Tensor& dh, const Tensor& dweight) {
  const int64_t V = weight.size(0), C = weight.size(1), R = h.size(0);
  const int64_t rows = std::min(R, chunk_rows(weight.scalar_type()));
  const Tensor logits = logits_memory(rows, V);
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
    if (!dh.defined()) {
      sum += loss_alone(chunk, label);
      continue;
    }
    sum += differentiate_logits(chunk, label, 1.0 / counted, weight.scalar_type());
    const Tensor dlogits = as_gradients(chunk, weight.scalar_type());  // n V
    {
      const Zone zone("head backward, input", flops);
      onednn_gemm(dlogits, weight, dh.narrow(0, first, n), {});
    }
    const Zone zone("head backward, weight", flops);
    onednn_gemm(dlogits.t(), x, dweight, {.add = first > 0});
  }
  return sum;
}

// Scales what the forward pass has made. Kept tensors are scaled into new ones, as a graph may be
// walked twice.
std::vector<Tensor> scale_gradients(const Tensor& dh, const Tensor& dweight, GradientSum* sum,
                                    double scale) {
  const Tensor scaled = scale == 1.0 ? dh : dh.mul(scale);
  const bool lent = sum != nullptr && sum->sum.is_same(dweight);
  if (lent) {
    if (scale != 1.0) dweight.mul_(scale);
    sum->state = GradientSum::kFilled;
    if (sum->meanwhile) add_gradient(*sum, std::exchange(sum->meanwhile, nullptr)->sum);
  } else if (sum != nullptr) {
    add_gradient(*sum, dweight, scale);
  }
  return {scaled, sum == nullptr ? dweight.mul(scale) : Tensor()};
}

}  // namespace

Tensor cross_entropy(const Tensor& h_any, const Weight& w, const Tensor& labels_any) {
  if (w.multiplier != 1.0)
    return cross_entropy(h_any.mul(w.multiplier), {w.value, w.grad}, labels_any);
  const Tensor& weight = w.value;
  Recording recording({h_any, weight});
  const Tensor h = as_type(h_any.reshape({-1, weight.size(1)}), weight.scalar_type()).contiguous();
  const Tensor labels = labels_any.reshape({-1}).contiguous();  // R
  Tensor dh, dweight;
  if (recording.wanted()) {
    dh = at::empty(h.sizes(), h_any.scalar_type());
    dweight = borrow_or_make(w.grad, weight);
  }
  const int64_t* label = labels.data_ptr<int64_t>();
  const auto ignored = std::count(label, label + labels.numel(), kIgnoredLabel);
  const double counted = std::max<double>(1, double(labels.numel() - ignored));
  const double sum = losses_of(h, weight, labels, counted, dh, dweight);
  const Tensor loss = at::scalar_tensor(sum / counted, at::kFloat);
  if (dh.defined()) dh = dh.view(h_any.sizes());
  recording.record({loss}, [=, to = w.grad](const std::vector<Tensor>& gradients) {
    return scale_gradients(dh, dweight, to, gradients[0].item<double>());
  });
  return loss;
}

}  // namespace gigagpt::ops
