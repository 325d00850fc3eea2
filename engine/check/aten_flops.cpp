// Compiled with NDEBUG, as LibTorch is: without it RecordFunction has one more member in its
// headers than in its library.
#include "engine/check/aten_flops.h"

#include <ATen/record_function.h>

#include <array>
#include <string_view>

namespace gigagpt::engine {
namespace {

thread_local double flops = 0;

// Each product that ATen is asked for comes down to one of these.
double flops_of(const at::RecordFunction& function) {
  struct Product {
    std::string_view name;
    size_t left;  // place of the left factor among the inputs; the right one is next
  };
  constexpr std::array<Product, 7> kProducts = {{{"aten::mm", 0},
                                                 {"aten::bmm", 0},
                                                 {"aten::mv", 0},
                                                 {"aten::dot", 0},
                                                 {"aten::addmm", 1},
                                                 {"aten::baddbmm", 1},
                                                 {"aten::addmv", 1}}};
  for (const auto& [name, left] : kProducts) {
    if (name != function.name()) continue;
    const at::Tensor& a = function.inputs()[left].toTensor();
    const at::Tensor& b = function.inputs()[left + 1].toTensor();
    const bool matrix = b.dim() == a.dim() && a.dim() >= 2;
    return 2 * double(a.numel()) * (matrix ? double(b.size(-1)) : 1);
  }
  return 0;
}

std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& function) {
  flops += flops_of(function);
  return nullptr;
}

}  // namespace

AtenFlops::AtenFlops()
    : handle_(at::addThreadLocalCallback(at::RecordFunctionCallback(count).needsInputs(true).scopes(
          {at::RecordScope::FUNCTION}))) {
  flops = 0;
}

AtenFlops::~AtenFlops() {
  at::removeCallback(handle_);
}

double AtenFlops::so_far() const {
  return flops;
}

}  // namespace gigagpt::engine
