// A model's parameters as layers work with them: weights and gradients as tensors over the memory
// of a Storage, for one visit at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "engine/model/layer.h"
#include "engine/storage/storage.h"

namespace gigagpt::engine {

// One stay in a layer.
struct Visit {
  size_t layer = 0;
  bool backward = false;  // gradients are added up
  bool keep = false;      // weights stay from the forward to the backward pass, as graphs hold them
  bool last = false;      // the step's last backward visit to the layer: its gradient is complete
};

// A loss or gradient that is infinite or not a number.
class NonFinite : public Error {
 public:
  using Error::Error;
};

// Use from one thread.
class Store {
 public:
  explicit Store(std::unique_ptr<Storage> storage);
  // A store in RAM.
  Store(std::vector<LayerSpec> layers, const StateForm& form);
  ~Store();

  size_t layer_count() const { return layout().layer_count(); }
  const LayerSpec& layer(size_t i) const { return layout().spec(i); }
  const StateForm& form() const { return layout().form(); }
  Precision precision() const { return form().precision; }

  // Draws every parameter from its initial distribution: a function of (seed, full name) alone.
  void initialise(uint64_t seed, const Progress& progress);

  // Begins a training step, before its visits are announced: they overwrite the gradients, which
  // are for `update`. With GradientForm::kNone each layer is updated at the end of its last visit,
  // its gradient clipped by itself; leave() throws NonFinite for a gradient that is not finite.
  void begin_step(const Update& update);
  bool updates_in_visits() const { return layout().form().gradient == GradientForm::kNone; }

  // Announces visits, so that a file can be read ahead; enter() and leave() then make them in that
  // order.
  void expect(std::span<const Visit> visits);
  void enter(size_t layer);
  void leave(size_t layer);
  void abandon();  // forgets the visits that are left and this step's gradients
  // The parameters of an entered layer. With `gradients`, values ask autograd for gradients and the
  // ops' are added to the layer's accumulators in a backward visit; a shared parameter has one of
  // its own per use.
  Weights weights(size_t layer, bool gradients);

  // Ends a step's backward pass: gradients are those of all systems from here on. Returns the sums
  // of what each passes.
  std::vector<double> finish_reduction(std::vector<double> losses);
  // The L2 norm of all gradients, after finish_reduction(). Throws NonFinite, naming the layer, if
  // it is not finite.
  double gradient_norm() const;

  // Hands the update over: from here on a file may say that the step is done. Gradients are scaled
  // down so that their norm is at most update.max_norm; parameters with fewer than two dimensions
  // do not decay. A layer is updated as its weights are next asked for, or by settle(). If layers
  // are updated in their visits there is nothing left to do.
  void commit(const Update& update, double norm);
  void settle() { storage_->settle(); }
  int64_t step() const { return storage_->step(); }

  const ParamSpec& param(const std::string& name) const { return layout().param(place(name)); }
  // Values of a parameter from its element `first`, after all updates; gradients until an update.
  // All systems ask for the same, and the one that leads gets them.
  void read(Array kept, const std::string& name, int64_t first, std::span<float> values);
  std::vector<float> read(Array kept, const std::string& name);
  // Between storage().begin_writing() and finish_writing().
  void write(Array kept, const std::string& name, int64_t first, std::span<const float> values);

  Storage& storage() { return *storage_; }
  std::string file_id() const { return storage_->file_id(); }
  Cluster& cluster() const { return storage_->cluster(); }
  IoCounts io_since_last_asked();

 private:
  struct LayerState;

  const StateLayout& layout() const { return storage_->layout(); }
  StateLayout::Place place(const std::string& name) const { return layout().place(name); }
  std::vector<Request> requests_of(const Visit& visit) const;
  void forget_gradients();
  void make_gradients();
  void bind(const Request& request, std::byte* memory);
  void assemble_gradient(size_t layer);
  void hand_over_gradient(const Request& request);
  void reduce_early(size_t layer);
  double reduced_square_sum(size_t layer);
  void update_in_visit(size_t layer);

  std::unique_ptr<Storage> storage_;
  const bool alone_;  // else gradients are added up over all systems
  std::vector<LayerState> states_;
  std::deque<std::pair<Visit, std::vector<Request>>>
      announced_;                   // visits, with the memory they need
  Update update_;                   // of this step
  std::optional<size_t> reducing_;  // layer to be updated when its gradient is added up
  IoCounts told_;                   // by io_since_last_asked
};

}  // namespace gigagpt::engine
