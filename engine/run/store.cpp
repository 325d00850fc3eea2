#include "engine/run/store.h"

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "engine/storage/memory_storage.h"
#include "engine/storage/row_slices.h"
#include "formats/stored_weights.h"
#include "ops/gradient.h"
#include "ops/pointers.h"

namespace gigagpt::engine {
struct Store::LayerState {
  std::byte* weights = nullptr;   // what `values` are views of
  std::byte* gradient = nullptr;  // what `grads` are views of
  std::vector<at::Tensor> values;
  std::vector<ops::GradientSum> grads;    // per parameter
  std::vector<ops::GradientSum> lookups;  // per parameter: rows of one that is looked up
  // Per shared use: with memory of its own, or the sum in `grads` if the parameter is looked up.
  std::vector<ops::GradientSum> shared_grads;
  std::vector<ops::GradientSum*> shared_uses;
  std::vector<size_t> owners;           // other layers whose weights a visit requests,
  std::vector<size_t> gradient_owners;  // and whose gradients
  // Parameters of others whose dense gradient is complete after this layer's last visit.
  std::vector<StateLayout::Place> completes;
  bool looks_up = false;
  double square_sum = 0;
};

Store::~Store() = default;

Store::Store(std::vector<LayerSpec> layers, const StateForm& form)
    : Store(std::make_unique<MemoryStorage>(std::move(layers), form)) {}

Store::Store(std::unique_ptr<Storage> storage)
    : storage_(std::move(storage)), alone_(cluster().is_alone()), states_(layout().layer_count()) {
  for (size_t i = 0; i < states_.size(); ++i) {
    states_[i].values.resize(layer(i).params.size());
    states_[i].owners = layout().owners_of_shared(i);
  }
  if (layout().training()) make_gradients();
}

void Store::make_gradients() {
  std::map<std::string, int> uses;  // of shared parameters
  for (size_t i = 0; i < states_.size(); ++i) {
    LayerState& state = states_[i];
    for (const ParamSpec& spec : layer(i).params) {
      state.grads.emplace_back();
      state.lookups.emplace_back();
      if (!spec.rule.looked_up) continue;
      state.lookups.back().rows = std::make_unique<ops::RowSums>(spec.shape.front());
      state.looks_up = true;
    }
    for (const SharedParam& use : layer(i).shared) ++uses[use.name];
  }
  std::set<std::string> taken;  // looked up ones whose dense gradient another layer's use fills
  for (size_t i = 0; i < states_.size(); ++i) {
    LayerState& state = states_[i];
    state.shared_grads.resize(layer(i).shared.size());
    for (size_t s = 0; s < layer(i).shared.size(); ++s) {
      const std::string& name = layer(i).shared[s].name;
      const auto owner = place(name);
      if (param(name).rule.looked_up && taken.insert(name).second) {
        state.shared_uses.push_back(&states_[owner.layer].grads[owner.param]);
        auto& owners = state.gradient_owners;
        if (std::find(owners.begin(), owners.end(), owner.layer) == owners.end()) {
          owners.push_back(owner.layer);
        }
        if (uses[name] == 1) state.completes.push_back(owner);
        continue;
      }
      state.shared_grads[s].sum = at::zeros(param(name).shape, at::kFloat);
      state.shared_uses.push_back(&state.shared_grads[s]);
    }
  }
}

void Store::initialise(uint64_t seed, const Progress& progress) {
  if (progress) progress(0);
  storage_->begin_writing(0);
  std::vector<float> values;
  for (size_t i = 0; i < layer_count(); ++i) {
    for (const ParamSpec& spec : layer(i).params) {
      const std::string name = layer(i).prefix + spec.name;
      const uint64_t key = mix(seed, hash_name(name));
      formats::in_pieces(spec.count(), [&](int64_t first, size_t size) {
        values.resize(size);
        const auto count = int64_t(size);
        at::parallel_for(0, (count + 3) / 4, 4096, [&](int64_t begin, int64_t end) {
          const auto part = std::span(values).subspan(size_t(4 * begin),
                                                      size_t(std::min(4 * end, count) - 4 * begin));
          const Init init = spec.init();
          fill_normal(part, uint64_t(first + 4 * begin), key, float(init.mean),
                      float(init.deviation), init.cut);
        });
        write(Array::kMaster, name, first, values);
      });
    }
    if (progress) progress(double(i + 1) / double(layer_count()));
  }
  storage_->finish_writing();
}

std::vector<Request> Store::requests_of(const Visit& visit) const {
  const LayerState& state = states_[visit.layer];
  std::vector<Request> requests = {{visit.layer, false, visit.keep && !visit.backward}};
  for (const size_t owner : state.owners) requests.push_back({owner, false, visit.keep});
  if (!visit.backward) return requests;
  requests.push_back({visit.layer, true});
  // Without fp32 in between it must not be rounded before the owner has added its part.
  const bool keep = layout().form().gradient != GradientForm::kFp32;
  for (const size_t owner : state.gradient_owners) requests.push_back({owner, true, keep});
  return requests;
}

void Store::begin_step(const Update& update) {
  update_ = update;
  forget_gradients();
  if (updates_in_visits()) storage_->begin_updates();
}

void Store::expect(std::span<const Visit> visits) {
  std::vector<Request> all;
  for (const Visit& visit : visits) {
    announced_.emplace_back(visit, requests_of(visit));
    const auto& requests = announced_.back().second;
    all.insert(all.end(), requests.begin(), requests.end());
  }
  storage_->expect(all);
}

void Store::enter(size_t layer) {
  GIGAGPT_ASSERT(!announced_.empty() && announced_.front().first.layer == layer);
  for (const Request& request : announced_.front().second)
    bind(request, storage_->acquire(request));
}

void Store::leave(size_t layer) {
  const auto [visit, requests] = std::move(announced_.front());
  announced_.pop_front();
  GIGAGPT_ASSERT(visit.layer == layer);
  if (visit.last) assemble_gradient(layer);
  for (const Request& request : requests) {
    const bool complete = visit.last && request.gradient && request.layer == layer;
    complete ? hand_over_gradient(request) : storage_->release(request);
  }
  if (visit.last && !alone_) reduce_early(layer);
}

// The tied embedding's gradient is the largest, and all but its rows' part is complete first.
void Store::reduce_early(size_t layer_index) {
  for (const auto& place : states_[layer_index].completes) {
    ops::fill_gradient(states_[place.layer].grads[place.param]);
    storage_->reduce_early(place.layer, layout().offset(place), layout().end(place));
  }
}

void Store::hand_over_gradient(const Request& request) {
  if (alone_) {
    updates_in_visits() ? update_in_visit(request.layer) : storage_->release(request);
    return;
  }
  storage_->reduce(request.layer, /*hold=*/states_[request.layer].looks_up);
  if (!updates_in_visits()) return;
  // The layer before has had this one's time to be added up.
  if (reducing_) update_in_visit(*reducing_);
  reducing_ = request.layer;
}

void Store::update_in_visit(size_t layer_index) {
  double& square_sum = states_[layer_index].square_sum;
  if (!alone_) square_sum = cluster().sum(reduced_square_sum(layer_index));
  const double norm = std::sqrt(square_sum);
  if (!std::isfinite(norm)) {
    throw NonFinite("the gradient is not finite, first in layer " + layer(layer_index).name);
  }
  storage_->update_layer(layer_index, update_.scaled_for(norm));
}

// Of this system's shard, rows that were looked up added.
double Store::reduced_square_sum(size_t layer_index) {
  const double dense = storage_->reduced_square_sum(layer_index);
  LayerState& state = states_[layer_index];
  if (!state.looks_up) return dense;
  auto* gradient = reinterpret_cast<float*>(state.gradient);
  // Few rows are touched, so each goes by itself to where its state is kept, and is added there in
  // the order of systems.
  for (size_t p = 0; p < state.lookups.size(); ++p) {
    if (state.lookups[p].rows == nullptr) continue;
    const auto mine = pack_rows(layout(), {layer_index, p}, *state.lookups[p].rows);
    for (const auto& part : cluster().swap(mine)) add_rows(part, precision(), gradient);
  }
  const Segment shard = layout().shard_of(layer_index);
  const std::span sums(gradient + shard.begin, size_t(shard.count));
  if (layout().form().compact) ops::round_to_bf16(sums);
  const double all = ops::sum_of_squares(sums);
  storage_->release_reduced(layer_index);
  return all;
}

std::vector<double> Store::finish_reduction(std::vector<double> losses) {
  if (alone_) return losses;
  if (updates_in_visits()) {
    update_in_visit(*std::exchange(reducing_, std::nullopt));
    return cluster().sums(losses);
  }
  std::vector<double> mine;
  for (size_t i = 0; i < layer_count(); ++i) mine.push_back(reduced_square_sum(i));
  mine.insert(mine.end(), losses.begin(), losses.end());
  const auto all = cluster().sums(mine);
  for (size_t i = 0; i < layer_count(); ++i) states_[i].square_sum = all[i];
  return {all.begin() + int64_t(layer_count()), all.end()};
}

double Store::gradient_norm() const {
  double square_sum = 0;
  for (size_t i = layer_count(); i-- > 0;) {  // the order in which the backward pass ends
    square_sum += states_[i].square_sum;
    if (!std::isfinite(square_sum)) {
      throw NonFinite("the gradient is not finite, first in layer " + layer(i).name);
    }
  }
  return std::sqrt(square_sum);
}

void Store::commit(const Update& update, double norm) {
  if (!updates_in_visits()) storage_->defer(update.scaled_for(norm));
}

void Store::abandon() {
  storage_->abandon();
  announced_.clear();
  forget_gradients();
}

// Makes views of memory that is elsewhere than before.
void Store::bind(const Request& request, std::byte* memory) {
  LayerState& state = states_[request.layer];
  std::byte*& bound = request.gradient ? state.gradient : state.weights;
  if (bound == memory) return;
  bound = memory;
  const auto& params = layer(request.layer).params;
  for (size_t p = 0; p < params.size(); ++p) {
    const int64_t offset = layout().layer(request.layer).offsets[p];
    if (request.gradient) {
      state.grads[p].sum = at::from_blob(memory + 4 * offset, params[p].shape, at::kFloat);
      continue;
    }
    const bool rounded = precision() == Precision::kBf16 && params[p].is_matrix();
    state.values[p] = at::from_blob(memory + layout().working_at(request.layer, offset),
                                    params[p].shape, rounded ? at::kBFloat16 : at::kFloat);
  }
}

Weights Store::weights(size_t layer_index, bool gradients) {
  LayerState& state = states_[layer_index];
  const LayerSpec& spec = layer(layer_index);
  Weights weights(precision() == Precision::kBf16 ? at::kBFloat16 : at::kFloat, spec.params.size());
  const auto add = [&](StateLayout::Place place, double multiplier, ops::GradientSum* grad) {
    // detach: a leaf of its own for every visit, as two visits may be alive at once.
    at::Tensor value = states_[place.layer].values[place.param].detach();
    if (gradients) value.requires_grad_(true);
    weights.add({value, grad, multiplier});
  };
  for (size_t p = 0; p < spec.params.size(); ++p) {
    auto& grads = spec.params[p].rule.looked_up ? state.lookups : state.grads;
    add({layer_index, p}, spec.params[p].rule.multiplier, gradients ? &grads[p] : nullptr);
  }
  for (size_t s = 0; s < spec.shared.size(); ++s) {
    const auto& [name, multiplier] = spec.shared[s];
    add(place(name), multiplier, gradients ? state.shared_uses[s] : nullptr);
  }
  return weights;
}

void Store::forget_gradients() {
  for (LayerState& state : states_) {
    for (auto* sums : {&state.grads, &state.shared_grads}) {
      for (ops::GradientSum& grad : *sums) {
        grad.state = ops::GradientSum::kEmpty;
        grad.meanwhile = nullptr;
      }
    }
    for (ops::GradientSum& grad : state.lookups) {
      if (grad.rows != nullptr) grad.rows->forget();
    }
  }
}

// Layers that share a parameter come after its owner, so the backward pass has been through them.
void Store::assemble_gradient(size_t layer_index) {
  LayerState& state = states_[layer_index];
  for (size_t i = 0; i < states_.size(); ++i) {
    for (size_t s = 0; s < states_[i].shared_grads.size(); ++s) {
      const auto owner = place(layer(i).shared[s].name);
      const ops::GradientSum& shared = states_[i].shared_grads[s];
      if (owner.layer != layer_index || shared.state == ops::GradientSum::kEmpty) continue;
      ops::add_gradient(state.grads[owner.param], shared.sum);
    }
  }
  for (size_t p = 0; p < state.grads.size(); ++p) {
    ops::fill_gradient(state.grads[p]);
    const auto& rows = state.lookups[p].rows;
    if (rows != nullptr && alone_) rows->add_to(state.grads[p].sum);
  }
  const LayerLayout& whole = layout().layer(layer_index);
  const std::span all(reinterpret_cast<float*>(state.gradient), size_t(whole.size));
  for (const auto& [begin, end] : whole.padding) {
    std::fill(all.begin() + begin, all.begin() + end, 0.0F);
  }
  if (!alone_) return;  // the sum over all systems is what counts
  if (layout().form().compact) ops::round_to_bf16(all);
  state.square_sum = ops::sum_of_squares(all);
}

void Store::read(Array kept, const std::string& name, int64_t first, std::span<float> values) {
  const auto where = place(name);
  storage_->settle();
  const int64_t element = layout().offset(where) + first;
  for (int rank = 0; rank < layout().shard().systems; ++rank) {
    const Segment shard = layout().shard_of(where.layer, rank);
    const Segment part = shard.overlap(element, int64_t(values.size()));
    if (part.count == 0) continue;
    const auto piece = values.subspan(size_t(part.begin - element), size_t(part.count));
    if (layout().is_own(part)) storage_->read(kept, where.layer, part.begin, piece);
    cluster().bring(rank, std::as_writable_bytes(piece));
  }
}

std::vector<float> Store::read(Array kept, const std::string& name) {
  std::vector<float> values(size_t(form().kept_count(param(name), kept)));
  read(kept, name, 0, values);
  return values;
}

void Store::write(Array kept, const std::string& name, int64_t first,
                  std::span<const float> values) {
  const auto where = place(name);
  storage_->write(kept, where.layer, layout().offset(where) + first, values);
}

IoCounts Store::io_since_last_asked() {
  const IoCounts now = storage_->counts(), before = std::exchange(told_, now);
  return {now.read_bytes - before.read_bytes, now.write_bytes - before.write_bytes,
          now.sent_bytes - before.sent_bytes, now.stall_ms - before.stall_ms};
}

}  // namespace gigagpt::engine
