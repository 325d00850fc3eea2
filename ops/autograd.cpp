#include "ops/autograd.h"

#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace gigagpt::ops {
namespace {

class OpNode : public torch::autograd::Node {
 public:
  explicit OpNode(Recording::Backward backward) : backward_(std::move(backward)) {}
  void release_variables() override { backward_ = nullptr; }

 protected:
  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    GIGAGPT_ASSERT(backward_ != nullptr);
    return backward_(gradients);
  }

 private:
  Recording::Backward backward_;
};

}  // namespace

Recording::Recording(std::vector<at::Tensor> inputs)
    : inputs_(std::move(inputs)), grad_mode_(at::GradMode::is_enabled()) {
  const auto asks = [](const at::Tensor& x) { return x.defined() && x.requires_grad(); };
  wanted_ = grad_mode_ && std::any_of(inputs_.begin(), inputs_.end(), asks);
  at::GradMode::set_enabled(false);
}

Recording::~Recording() {
  at::GradMode::set_enabled(grad_mode_);
}

void Recording::record(std::initializer_list<at::Tensor> outputs, Backward backward) {
  if (!wanted_) return;
  const std::shared_ptr<OpNode> node(new OpNode(std::move(backward)), torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs_));
  for (at::Tensor output : outputs) torch::autograd::set_history(output, node);
}

}  // namespace gigagpt::ops
