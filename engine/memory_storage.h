// A model's state in RAM. Gradients are in fp32, whatever their form in a file is; with
// GradientForm::kNone they have memory until their layer is updated.
#pragma once

#include <vector>

#include "base/async_file.h"
#include "engine/segment_math.h"
#include "engine/storage.h"

namespace gigagpt::engine {

class MemoryStorage : public Storage {
 public:
  MemoryStorage(std::vector<LayerSpec> specs, const StateForm& form);

  void expect(std::span<const Need>) override {}
  std::byte* acquire(const Need& need) override;
  void release(const Need&) override {}
  void abandon() override {}
  void update_layer(size_t layer, const PendingUpdate& update) override;
  void defer(const PendingUpdate& update) override;
  void settle() override;
  int64_t step() const override { return update_.step; }
  void read(Kept kept, size_t layer, int64_t first, std::span<float> values) override;
  void write(Kept kept, size_t layer, int64_t first, std::span<const float> values) override;
  void begin_writing(int64_t step) override { update_.step = step; }
  void finish_writing() override {}
  IoCounts counts() const override { return {}; }

 private:
  struct LayerMemory {
    PageBuffer gradient, exp_avg, exp_avg_sq;  // only for training
    PageBuffer master;                         // only beside working weights
    PageBuffer working;
    bool pending = false;  // its update is still to be made
  };
  const Segment& whole(size_t layer) const {
    return layout().segments()[layout().first_segment(layer)];
  }
  SegmentArrays arrays(size_t layer) const;
  void update(size_t layer, const PendingUpdate& update);

  std::vector<LayerMemory> memory_;  // per layer
  std::vector<PageBuffer> unused_;   // gradients that are not kept give their memory to others
  PendingUpdate update_;             // the last one
};

}  // namespace gigagpt::engine
