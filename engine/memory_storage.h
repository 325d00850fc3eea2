// A model's state in RAM.
#pragma once

#include <vector>

#include "base/async_file.h"
#include "engine/segment_math.h"
#include "engine/storage.h"

namespace gigagpt::engine {

class MemoryStorage : public Storage {
 public:
  MemoryStorage(std::vector<LayerSpec> specs, Precision precision, bool training);

  void expect(std::span<const Need>) override {}
  std::byte* acquire(const Need& need) override;
  void release(const Need&) override {}
  void abandon() override {}
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
    PageBuffer master, gradient, exp_avg, exp_avg_sq;  // fp32; only for training
    PageBuffer working;                                // none if the masters are that
    bool pending = false;                              // its update is still to be made
  };
  SegmentArrays arrays(size_t layer) const;
  void update(size_t layer);

  std::vector<LayerMemory> memory_;  // per layer
  PendingUpdate update_;
};

}  // namespace gigagpt::engine
