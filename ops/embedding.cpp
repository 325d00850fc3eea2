#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "ops/gradient.h"
#include "ops/ops.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// to[token] += the sum of the rows of that token, taken in order. One addition per token and call
// keeps the bits those of a dense gradient that is added as a whole.
void scatter_rows(const Tensor& from, const std::vector<int64_t>& token_of_row, const Tensor& to) {
  const int64_t C = to.size(1);
  std::vector<int64_t> order(token_of_row.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return token_of_row[size_t(a)] < token_of_row[size_t(b)];
  });
  std::vector<size_t> group_starts;
  for (size_t i = 0; i < order.size(); ++i) {
    const bool first =
        i == 0 || token_of_row[size_t(order[i])] != token_of_row[size_t(order[i - 1])];
    if (first) group_starts.push_back(i);
  }
  const int64_t groups = static_cast<int64_t>(group_starts.size());
  group_starts.push_back(order.size());
  const float* source = from.data_ptr<float>();
  float* target = to.data_ptr<float>();
  at::parallel_for(0, groups, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(static_cast<size_t>(C));
    for (auto group = size_t(begin); group < size_t(end); ++group) {
      std::fill(sum.begin(), sum.end(), 0.0F);
      for (size_t i = group_starts[group]; i < group_starts[group + 1]; ++i) {
        const float* row = source + order[i] * C;
        for (int64_t j = 0; j < C; ++j) sum[size_t(j)] += row[j];
      }
      float* row = target + token_of_row[size_t(order[group_starts[group]])] * C;
      for (int64_t j = 0; j < C; ++j) row[j] += sum[size_t(j)];
    }
  });
}

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(AutogradContext* ctx, const Tensor& tokens, const Tensor& wte,
                        const Tensor& wpe, const Gradients& grads, int64_t first_position) {
    const Tensor positions = wpe.narrow(0, first_position, tokens.size(1));  // T C
    ctx->save_for_backward({tokens});
    ctx->saved_data["wte_rows"] = wte.size(0);
    ctx->saved_data["wpe_rows"] = wpe.size(0);
    ctx->saved_data["first_position"] = first_position;
    save(ctx, grads);
    return at::embedding(wte, tokens).to(at::kFloat) + positions.to(at::kFloat);  // B T C
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    const Tensor tokens = ctx->get_saved_variables()[0].contiguous();  // B T
    const Tensor dx = outputs[0].to(at::kFloat).contiguous();          // B T C
    const int64_t C = dx.size(2);
    const int64_t first = ctx->saved_data["first_position"].toInt();
    const auto sum_or_zeros = [&](int index, const char* rows_key) {
      GradientSum* sum = gradient_sum(ctx, index);
      if (sum == nullptr) return at::zeros({ctx->saved_data[rows_key].toInt(), C}, at::kFloat);
      fill_gradient(*sum);
      return sum->sum;
    };
    const Tensor dwte = sum_or_zeros(0, "wte_rows");  // V C
    const Tensor dwpe = sum_or_zeros(1, "wpe_rows");  // P C
    const int64_t* ids = tokens.data_ptr<int64_t>();
    scatter_rows(dx, std::vector<int64_t>(ids, ids + tokens.numel()), dwte);
    dwpe.narrow(0, first, tokens.size(1)).add_(dx.sum({0}));
    const bool to_autograd = gradient_sum(ctx, 0) == nullptr;
    return {Tensor(), to_autograd ? dwte : Tensor(), to_autograd ? dwpe : Tensor(), Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor embedding(const Tensor& tokens, const Weight& wte, const Weight& wpe,
                 int64_t first_position) {
  return Embedding::apply(tokens, wte.value, wpe.value, Gradients{wte.grad, wpe.grad},
                          first_position);
}

}  // namespace gigagpt::ops
