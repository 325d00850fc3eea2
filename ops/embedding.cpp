// Embeddings: rows of weights looked up, their gradients as sums of rows.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "base/trace.h"
#include "ops/gradient.h"
#include "ops/kernels/optimizer.h"
#include "ops/kernels/rows.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/pointers.h"
#include "ops/row_sums.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// to[token] += the sum of the rows [R, C] of that token, taken in order. One addition per token and
// call keeps the bits those of a dense gradient that is added as a whole.
void add_rows(const Tensor& from, std::span<const int64_t> token_of_row, RowSums& to) {
  const auto C = static_cast<size_t>(from.size(-1));
  std::vector<size_t> order(token_of_row.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return token_of_row[a] < token_of_row[b]; });
  std::vector<size_t> starts;  // of the groups of one token each in `order`
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < order.size(); ++i) {
    if (!tokens.empty() && tokens.back() == token_of_row[order[i]]) continue;
    starts.push_back(i);
    tokens.push_back(token_of_row[order[i]]);
  }
  starts.push_back(order.size());
  to.touch(tokens, int64_t(C));
  const auto add = kernels::optimizer_kernels().add;
  parallel_parts(tokens.size(), 8, [&](size_t begin, size_t end, size_t) {
    std::vector<float> sum(C);
    for (size_t group = begin; group < end; ++group) {
      std::fill(sum.begin(), sum.end(), 0.0F);
      for (size_t i = starts[group]; i < starts[group + 1]; ++i)
        add(data<float>(from) + order[i] * C, 1.0F, C, sum.data());
      add(sum.data(), 1.0F, C, to.at(tokens[group]));
    }
  });
}

// The gradient of wte: into its sum, or for autograd.
Tensor deliver_rows(GradientSum* sum, int64_t row_count, const Tensor& from,
                    std::span<const int64_t> token_of_row) {
  if (sum != nullptr && sum->rows != nullptr) {
    add_rows(from, token_of_row, *sum->rows);
    return {};
  }
  RowSums rows(row_count);
  add_rows(from, token_of_row, rows);
  if (sum != nullptr) fill_gradient(*sum);
  const Tensor dense =
      sum != nullptr ? sum->sum : at::zeros({row_count, from.size(-1)}, at::kFloat);
  rows.add_to(dense);
  return sum != nullptr ? Tensor() : dense;
}

// wte[token] + wpe[first_position + t]: B T C fp32.
Tensor look_up(const Tensor& tokens, const Tensor& wte, const Tensor& wpe, int64_t first_position) {
  const auto C = static_cast<size_t>(wte.size(1)), T = static_cast<size_t>(tokens.size(1));
  const Tensor y = at::zeros({tokens.size(0), tokens.size(1), wte.size(1)}, at::kFloat);
  const int64_t* ids = tokens.data_ptr<int64_t>();
  dispatch_type(wte, [&](auto element) {
    using E = decltype(element);
    const auto add = kernels::row_kernels<E>().add_scaled;
    parallel_parts(size_t(tokens.numel()), 16, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) {
        float* row = data<float>(y) + i * C;
        add(1.0F, data<E>(wte) + size_t(ids[i]) * C, C, row);
        add(1.0F, data<E>(wpe) + (size_t(first_position) + i % T) * C, C, row);
      }
    });
  });
  return y;
}

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(AutogradContext* ctx, const Tensor& tokens, const Tensor& wte,
                        const Tensor& wpe, const Gradients& grads, int64_t first_position) {
    const Zone zone("embedding forward");
    ctx->save_for_backward({tokens});
    ctx->saved_data["wte_rows"] = wte.size(0);
    ctx->saved_data["wpe_rows"] = wpe.size(0);
    ctx->saved_data["first_position"] = first_position;
    save(ctx, grads);
    return look_up(tokens.contiguous(), wte, wpe, first_position);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const Zone zone("embedding backward");
    const Tensor tokens = ctx->get_saved_variables()[0].contiguous();  // B T
    const Tensor dx = outputs[0].to(at::kFloat).contiguous();          // B T C
    const int64_t T = tokens.size(1), first = ctx->saved_data["first_position"].toInt();
    const Tensor dwte = deliver_rows(gradient_sum(ctx, 0), ctx->saved_data["wte_rows"].toInt(), dx,
                                     {tokens.data_ptr<int64_t>(), size_t(tokens.numel())});
    GradientSum* sum = gradient_sum(ctx, 1);
    if (sum != nullptr) fill_gradient(*sum);
    const Tensor dwpe =
        sum != nullptr ? sum->sum
                       : at::zeros({ctx->saved_data["wpe_rows"].toInt(), dx.size(2)}, at::kFloat);
    dwpe.narrow(0, first, T).add_(dx.sum({0}));
    return {Tensor(), dwte, sum != nullptr ? Tensor() : dwpe, Tensor(), Tensor()};
  }
};

}  // namespace

Tensor embedding(const Tensor& tokens, const Weight& wte, const Weight& wpe,
                 int64_t first_position) {
  return Embedding::apply(tokens, wte.value, wpe.value, Gradients{wte.grad, wpe.grad},
                          first_position);
}

}  // namespace gigagpt::ops
