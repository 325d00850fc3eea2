// A model's state in RAM. Gradients are in fp32, whatever their form in a file is; with
// GradientForm::kNone they have memory until their layer is updated.
#pragma once

#include <vector>

#include "base/async_file.h"
#include "base/mutex.h"
#include "engine/state/segment_math.h"
#include "engine/storage/storage.h"
#include "engine/systems/exchange.h"

namespace gigagpt::engine {

class MemoryStorage : public Storage {
 public:
  MemoryStorage(std::vector<LayerSpec> specs, const StateForm& form,
                Cluster& cluster = Cluster::alone());
  ~MemoryStorage() override;

  void expect(std::span<const Request>) override {}
  std::byte* acquire(const Request& request) override;
  void release(const Request&) override {}
  void abandon() override {}
  void reduce(size_t layer, bool hold) override;
  void reduce_early(size_t layer, int64_t begin, int64_t end) override;
  double reduced_square_sum(size_t layer) override;
  void update_layer(size_t layer, const Update& update) override;
  void defer(const Update& update) override;
  void settle() override;
  int64_t step() const override { return update_.step; }
  void read(Array kept, size_t layer, int64_t first, std::span<float> values) override;
  void write(Array kept, size_t layer, int64_t first, std::span<const float> values) override;
  void begin_writing(int64_t step) override { update_.step = step; }
  void finish_writing() override {}
  IoCounts counts() const override;

 private:
  struct LayerMemory;
  SegmentArrays arrays(size_t layer) const;
  std::byte* working_at(size_t layer, int64_t element) const;
  void update(size_t layer, const Update& update);
  void reduce_segment(size_t segment);
  void gather_weights(size_t layer) EXCLUDES(mutex_);
  void wait_for(const size_t& missing) REQUIRES(mutex_);

  std::vector<LayerMemory> memory_;  // per layer
  std::vector<PageBuffer> unused_;   // gradients that are not kept give their memory to others
  Update update_;                    // the last one
  double stall_ms_ = 0;

  Mutex mutex_;
  CondVar changed_;
  // Per layer: segments of its gradient, and of its weights, that are on their way.
  std::vector<size_t> reducing_ GUARDED_BY(mutex_), arriving_ GUARDED_BY(mutex_);
  Exchange exchange_;
};

}  // namespace gigagpt::engine
