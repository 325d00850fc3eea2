// A model's state in RAM. Gradients are in fp32, whatever their form in a file is; with
// GradientForm::kNone they have memory until their layer is updated.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/async_file.h"
#include "engine/state/segment_math.h"
#include "engine/storage/storage.h"
#include "engine/systems/exchange.h"

namespace gigagpt::engine {

class MemoryStorage : public Storage {
 public:
  MemoryStorage(std::vector<LayerSpec> specs, const StateForm& form,
                Cluster& cluster = Cluster::alone());

  void expect(std::span<const Need>) override {}
  std::byte* acquire(const Need& need) override;
  void release(const Need&) override {}
  void abandon() override {}
  void reduce(size_t layer, bool hold) override;
  void reduce_early(size_t layer, int64_t begin, int64_t end) override;
  double reduced_square_sum(size_t layer) override;
  void update_layer(size_t layer, const Update& update) override;
  void defer(const Update& update) override;
  void settle() override;
  int64_t step() const override { return update_.step; }
  void read(Kept kept, size_t layer, int64_t first, std::span<float> values) override;
  void write(Kept kept, size_t layer, int64_t first, std::span<const float> values) override;
  void begin_writing(int64_t step) override { update_.step = step; }
  void finish_writing() override {}
  IoCounts counts() const override;

 private:
  struct LayerMemory {
    PageBuffer exp_avg, exp_avg_sq, master;  // of the shard; masters only beside working weights
    PageBuffer gradient, working;            // of the whole layer
    bool pending = false;                    // its update is still to be made
    size_t reducing = 0, arriving = 0;       // segments on their way, guarded by mutex_
    std::vector<size_t> early = {};          // segments that have been on their way
  };
  SegmentArrays arrays(size_t layer) const;
  std::byte* working_at(size_t layer, int64_t element) const {
    return memory_[layer].working.data() + layout().working_at(layer, element);
  }
  void update(size_t layer, const Update& update);
  void reduce_segment(size_t segment);
  void share(size_t layer);
  void wait(const size_t& missing);

  std::vector<LayerMemory> memory_;  // per layer
  std::vector<PageBuffer> unused_;   // gradients that are not kept give their memory to others
  Update update_;                    // the last one
  std::mutex mutex_;
  std::condition_variable changed_;
  double stall_ms_ = 0;
  Exchange exchange_;
};

}  // namespace gigagpt::engine
