#include "engine/store.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <set>

#include "base/error.h"
#include "base/random.h"
#include "base/trace.h"
#include "ops/gemm.h"
#include "ops/gradient.h"
#include "ops/pointers.h"

namespace gigagpt::engine {
namespace {

constexpr int64_t kAlign = 16;  // floats: parameters begin on a cache line

int64_t padded(int64_t count) {
  return (count + kAlign - 1) / kAlign * kAlign;
}

}  // namespace

Precision choose_precision(const std::string& wanted) {
  const bool bf16 = wanted == "bf16" || (wanted == "auto" && ops::has_native_bf16());
  return bf16 ? Precision::kBf16 : Precision::kFp32;
}

const char* precision_name(Precision precision) {
  return precision == Precision::kBf16 ? "bf16" : "fp32";
}

double measure_peak_flops(Precision precision) {
  return ops::measure_gemm_flops(precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat);
}

Store::Store(std::vector<LayerSpec> layers, Precision precision, bool training)
    : precision_(precision) {
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerState state;
    state.spec = std::move(layers[i]);
    for (size_t p = 0; p < state.spec.params.size(); ++p) {
      const auto [_, fresh] =
          places_.emplace(state.spec.prefix + state.spec.params[p].name, Place{i, p});
      GIGAGPT_ASSERT(fresh);
      state.offsets.push_back(state.size);
      state.size += padded(state.spec.params[p].count());
    }
    const auto reserve = [&](at::ScalarType type) { return at::zeros({state.size}, type); };
    state.master = reserve(at::kFloat);
    if (precision == Precision::kBf16) state.compute = reserve(at::kBFloat16);
    if (training) {
      state.grad = reserve(at::kFloat);
      state.exp_avg = reserve(at::kFloat);
      state.exp_avg_sq = reserve(at::kFloat);
    }
    layers_.push_back(std::move(state));
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (size_t p = 0; p < layers_[i].spec.params.size(); ++p) {
      const bool copy =
          precision_ == Precision::kBf16 && layers_[i].spec.params[p].shape.size() >= 2;
      layers_[i].values.push_back(view(copy ? layers_[i].compute : layers_[i].master, {i, p}));
    }
  }
  if (training) make_gradients();
}

void Store::make_gradients() {
  for (size_t i = 0; i < layers_.size(); ++i) {
    LayerState& state = layers_[i];
    for (size_t p = 0; p < state.spec.params.size(); ++p) {
      const ParamSpec& spec = state.spec.params[p];
      state.grads.push_back({view(state.grad, {i, p})});
      state.lookups.emplace_back();
      if (spec.looked_up)
        state.lookups.back().rows = std::make_unique<ops::RowSums>(spec.shape.front());
    }
  }
  std::set<std::string> taken;  // looked up ones whose dense gradient another layer's use fills
  for (LayerState& state : layers_) {
    state.shared_grads.resize(state.spec.shared.size());
    for (size_t s = 0; s < state.spec.shared.size(); ++s) {
      const std::string& name = state.spec.shared[s];
      const Place owner = place(name);
      if (param(name).looked_up && taken.insert(name).second) {
        state.shared_uses.push_back(&layers_[owner.layer].grads[owner.param]);
        continue;
      }
      state.shared_grads[s].sum = at::zeros(param(name).shape, at::kFloat);
      state.shared_uses.push_back(&state.shared_grads[s]);
    }
  }
}

void Store::initialise(uint64_t seed, const Progress& progress) {
  if (progress) progress(0);
  for (size_t i = 0; i < layers_.size(); ++i) {
    for (size_t p = 0; p < layers_[i].spec.params.size(); ++p) {
      const ParamSpec& spec = layers_[i].spec.params[p];
      const uint64_t key = mix(seed, hash_name(layers_[i].spec.prefix + spec.name));
      const auto values = span_of(layers_[i].master, {i, p});
      at::parallel_for(0, (spec.count() + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
        const int64_t count = std::min(4 * end, spec.count()) - 4 * begin;
        fill_normal(values.subspan(size_t(4 * begin), size_t(count)), uint64_t(4 * begin), key,
                    float(spec.init_mean), float(spec.init_std));
      });
    }
    refresh_compute_weights(i);
    if (progress) progress(double(i + 1) / double(layers_.size()));
  }
}

Weights Store::weights(size_t layer, bool gradients) {
  LayerState& state = layers_[layer];
  Weights weights;
  const auto add = [&](const std::string& name, Place place, ops::GradientSum* grad) {
    // detach: a leaf of its own for every visit, as two visits may be alive at once.
    at::Tensor value = layers_[place.layer].values[place.param].detach();
    if (gradients) value.requires_grad_(true);
    weights.add(name, {value, grad});
  };
  for (size_t p = 0; p < state.spec.params.size(); ++p) {
    const bool rows = state.spec.params[p].looked_up;
    auto& grads = rows ? state.lookups : state.grads;
    add(state.spec.params[p].name, {layer, p}, gradients ? &grads[p] : nullptr);
  }
  for (size_t s = 0; s < state.spec.shared.size(); ++s) {
    const std::string& name = state.spec.shared[s];
    add(name, place(name), gradients ? state.shared_uses[s] : nullptr);
  }
  return weights;
}

void Store::forget_gradients() {
  for (LayerState& state : layers_) {
    for (auto* sums : {&state.grads, &state.shared_grads}) {
      for (ops::GradientSum& grad : *sums) grad.state = ops::GradientSum::kEmpty;
    }
    for (ops::GradientSum& grad : state.lookups) {
      if (grad.rows != nullptr) grad.rows->forget();
    }
  }
}

void Store::finish_gradients() {
  const Zone zone("shared gradients");
  for (LayerState& state : layers_) {
    for (size_t s = 0; s < state.shared_grads.size(); ++s) {
      const Place owner = place(state.spec.shared[s]);
      if (state.shared_grads[s].state == ops::GradientSum::kEmpty) continue;
      ops::add_gradient(layers_[owner.layer].grads[owner.param], state.shared_grads[s].sum);
    }
  }
  for (LayerState& state : layers_) {
    for (size_t p = 0; p < state.grads.size(); ++p) {
      ops::fill_gradient(state.grads[p]);
      if (state.lookups[p].rows != nullptr) state.lookups[p].rows->add_to(state.grads[p].sum);
    }
  }
}

double Store::gradient_square_sum(size_t layer) const {
  const at::Tensor& grad = layers_[layer].grad;  // the padding holds zeros
  return ops::sum_of_squares({grad.data_ptr<float>(), size_t(grad.numel())});
}

void Store::update(size_t layer, const ops::UpdateRule& rule, double lr, double grad_scale,
                   int64_t step) {
  const LayerState& state = layers_[layer];
  std::vector<ops::ParamState> params;
  for (size_t p = 0; p < state.spec.params.size(); ++p) {
    const Place place{layer, p};
    auto* compute = precision_ == Precision::kBf16
                        ? ops::data<ops::kernels::Bf16>(state.compute) + state.offsets[p]
                        : nullptr;
    params.push_back({span_of(state.master, place), span_of(state.grad, place),
                      span_of(state.exp_avg, place), span_of(state.exp_avg_sq, place), compute,
                      /*decays=*/state.spec.params[p].shape.size() >= 2});
  }
  ops::update(params, rule, lr, grad_scale, step);
}

const ParamSpec& Store::param(const std::string& name) const {
  const Place where = place(name);
  return layers_[where.layer].spec.params[where.param];
}

std::span<float> Store::values(Kept kept, const std::string& name) {
  const Place where = place(name);
  const LayerState& state = layers_[where.layer];
  const at::Tensor& array = kept == Kept::kMaster   ? state.master
                            : kept == Kept::kExpAvg ? state.exp_avg
                                                    : state.exp_avg_sq;
  return span_of(array, where);
}

std::span<float> Store::gradient(const std::string& name) {
  const Place where = place(name);
  return span_of(layers_[where.layer].grad, where);
}

void Store::refresh_compute_weights(size_t layer) {
  LayerState& state = layers_[layer];
  if (precision_ == Precision::kBf16) state.compute.copy_(state.master);
}

const Store::Place& Store::place(const std::string& name) const {
  const auto found = places_.find(name);
  GIGAGPT_ASSERT(found != places_.end());
  return found->second;
}

at::Tensor Store::view(const at::Tensor& array, Place place) const {
  const LayerState& state = layers_[place.layer];
  const ParamSpec& spec = state.spec.params[place.param];
  return array.narrow(0, state.offsets[place.param], spec.count()).view(spec.shape);
}

std::span<float> Store::span_of(const at::Tensor& array, Place place) const {
  const LayerState& state = layers_[place.layer];
  return {array.data_ptr<float>() + state.offsets[place.param],
          size_t(state.spec.params[place.param].count())};
}

}  // namespace gigagpt::engine
