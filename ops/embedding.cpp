// Embeddings: rows of weights looked up, their gradients as sums of rows.
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "base/trace.h"
#include "ops/autograd.h"
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

// A dense gradient to which `add` adds: its sum, or zeros, which are then returned for autograd.
template <class F>
Tensor deliver_dense(GradientSum* sum, at::IntArrayRef sizes, const F& add) {
  if (sum == nullptr) {
    const Tensor dense = at::zeros(sizes, at::kFloat);
    add(dense);
    return dense;
  }
  GradientSum& to = open_sum(*sum);
  fill_gradient(to);
  add(to.sum);
  return {};
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
  return deliver_dense(sum, {row_count, from.size(-1)},
                       [&](const Tensor& dense) { rows.add_to(dense); });
}

// wte[token] + wpe[position], each times its multiplier: B T C fp32.
Tensor look_up(const Tensor& tokens, const Weight& wte_weight, const Weight& wpe_weight,
               const Tensor& positions) {
  const Tensor &wte = wte_weight.value, &wpe = wpe_weight.value;
  const auto factor = float(wte_weight.multiplier),
             factor_of_position = float(wpe_weight.multiplier);
  const auto C = static_cast<size_t>(wte.size(1)), T = static_cast<size_t>(tokens.size(1));
  const Tensor y = at::zeros({tokens.size(0), tokens.size(1), wte.size(1)}, at::kFloat);
  const int64_t* ids = tokens.data_ptr<int64_t>();
  const int64_t* places = positions.defined() ? positions.data_ptr<int64_t>() : nullptr;
  dispatch_type(wte, [&](auto element) {
    using E = decltype(element);
    const auto add = kernels::row_kernels<E>().add_scaled;
    parallel_parts(size_t(tokens.numel()), 16, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) {
        float* row = data<float>(y) + i * C;
        add(factor, data<E>(wte) + size_t(ids[i]) * C, C, row);
        if (!wpe.defined()) continue;
        const size_t position = places != nullptr ? size_t(places[i]) : i % T;
        add(factor_of_position, data<E>(wpe) + position * C, C, row);
      }
    });
  });
  return y;
}

// The gradient of wpe.
Tensor deliver_positions(GradientSum* sum, int64_t row_count, const Tensor& dx,
                         const Tensor& positions) {
  return deliver_dense(sum, {row_count, dx.size(2)}, [&](const Tensor& dense) {
    if (!positions.defined()) {
      dense.narrow(0, 0, dx.size(1)).add_(dx.sum(0));
      return;
    }
    RowSums rows(row_count);
    add_rows(dx, {positions.data_ptr<int64_t>(), size_t(positions.numel())}, rows);
    rows.add_to(dense);
  });
}

Tensor times(const Tensor& x, double factor) {
  return factor == 1.0 ? x : x.mul(factor);
}

}  // namespace

Tensor embedding(const Tensor& tokens_any, const Weight& wte, const Weight& wpe,
                 const Tensor& positions_any) {
  const Zone zone("embedding forward");
  Recording recording({wte.value, wpe.value});
  const Tensor tokens = tokens_any.contiguous();  // B T
  Tensor positions;                               // B T
  if (positions_any.defined()) positions = positions_any.contiguous();
  const Tensor y = look_up(tokens, wte, wpe, positions);
  note_magnitude(wte, y);
  recording.record({y}, [=](const std::vector<Tensor>& dy) {
    const Zone zone("embedding backward");
    const Tensor dx = dy[0].to(at::kFloat).contiguous();  // B T C
    std::vector<Tensor> gradients = {
        deliver_rows(wte.grad, wte.value.size(0), times(dx, wte.multiplier),
                     {tokens.data_ptr<int64_t>(), size_t(tokens.numel())}),
        {}};
    if (wpe.defined())
      gradients[1] =
          deliver_positions(wpe.grad, wpe.value.size(0), times(dx, wpe.multiplier), positions);
    return gradients;
  });
  return y;
}

}  // namespace gigagpt::ops
