// An op as one node of autograd's graph, with a backward pass of its own.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <functional>
#include <initializer_list>
#include <vector>

namespace gigagpt::ops {

// Lives for an op's forward pass, which builds no graph meanwhile, and records its outputs.
class Recording {
 public:
  // Gradients of the outputs -> gradients of the inputs, undefined ones where there is none.
  // Gradients of outputs that nothing depends on are undefined. What it captures is kept until the
  // backward pass has been through here; it must not capture an output.
  using Backward = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

  // Undefined inputs are left out of the graph.
  explicit Recording(std::vector<at::Tensor> inputs);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // Whether any input asks for a gradient, where gradients are asked for at all.
  bool wanted() const { return wanted_; }
  // Makes the outputs, new tensors that are no input, depend on the inputs.
  void record(std::initializer_list<at::Tensor> outputs, Backward backward);

 private:
  std::vector<at::Tensor> inputs_;
  bool wanted_;
  bool grad_mode_;
};

}  // namespace gigagpt::ops
