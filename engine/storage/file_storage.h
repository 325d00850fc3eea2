// A model's state in a file, streamed past the compute: a thread of its own reads what will be
// needed next, makes deferred updates on the way, and writes behind.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/async_file.h"
#include "engine/state/segment_math.h"
#include "engine/state/state_file.h"
#include "engine/storage/storage.h"
#include "engine/systems/exchange.h"

namespace gigagpt::engine {

struct StreamOptions {
  int64_t segment_elements = StateLayout::kSegmentElements;
  size_t buffers = 8;  // segments that are on their way through an update at once, in memory
  size_t ahead = 4;    // needs that are filled before they are acquired
  // For weights and gradients of layers; what is waited for gets its memory in any case.
  uint64_t memory_bytes = ~uint64_t{0};
  // For segments whose state stays in memory, written but not read again: those of the first
  // layers, whose update a step waits for as it begins.
  uint64_t cache_bytes = 0;
  bool poison = false;      // released memory is filled with NaNs, for tests
  int64_t step_tokens = 0;  // of the run; kept in the file, see StateFile::peek
  uint64_t run_id = 0;      // as StateFile::create
  EngineMaker engine = {};
};

class FileStorage : public Storage {
 public:
  enum class Mode { kCreate, kOpen };
  // Creating replaces a file of that name; its content counts after finish_writing().
  // With several systems each has a file of its own.
  FileStorage(std::vector<LayerSpec> specs, const StateForm& form, const Path& path, Mode mode,
              const StreamOptions& options, Cluster& cluster = Cluster::alone());
  // The shard of a system that is not there, to be settled and read.
  FileStorage(std::vector<LayerSpec> specs, const StateForm& form, const Path& path,
              const Shard& shard, const StreamOptions& options);
  ~FileStorage() override;

  void expect(std::span<const Need> needs) override;
  std::byte* acquire(const Need& need) override;
  void release(const Need& need) override;
  void abandon() override;
  void reduce(size_t layer, bool hold) override;
  double reduced_square_sum(size_t layer) override;
  void release_reduced(size_t layer) override;
  void begin_updates() override;
  void update_layer(size_t layer, const Update& update) override;
  void defer(const Update& update) override;
  void settle() override;
  int64_t step() const override { return step_; }
  void read(Kept kept, size_t layer, int64_t first, std::span<float> values) override;
  void begin_writing(int64_t step) override;
  void write(Kept kept, size_t layer, int64_t first, std::span<const float> values) override;
  void finish_writing() override;
  IoCounts counts() const override;
  std::string file_id() const override { return file_->id(); }
  // How often each layer's weights were read, with an update or alone.
  std::vector<int64_t> weight_reads() const;
  // Where in the file a segment is; only after settle().
  uint64_t slot_offset(size_t segment) const { return file_->slot_offset(segment); }
  // After opening, all systems: a crash may have left some with the gradients of a step that others
  // have not. Nobody has begun its update, so that those go back.
  void meet_at_one_step();
  // Back to the step before the one that the file was opened at.
  void take_back_step();

 private:
  FileStorage(StateLayout layout, const Path& path, Mode mode, const StreamOptions& options,
              Cluster& cluster);

  // A layer's working weights, or its gradient, in memory.
  struct Held {
    PageBuffer memory;
    size_t missing = 0;     // segments still to arrive, or to be written
    bool present = false;   // there is memory, filled or being filled
    bool busy = false;      // from the start of a need to its release, or until it is written
    size_t leaving = 0;     // segments that are being sent, or written, from here
    bool dropped = false;   // released, and free when none is
    bool reducing = false;  // each missing segment counts in reducing_ too
    bool held = false;      // when reduced, until it is released
  };
  enum class Job {
    kLoadWeights,
    kLoadGradient,
    kStoreGradient,
    kUpdate,     // with the gradient in the file
    kUpdateNow,  // with the one in memory
    kWriteBack,
    kStoreWeights,  // that another system has updated
    kSync
  };
  // A layer's segments on their way in or out.
  struct Move {
    Job job;
    size_t layer = 0;
    size_t next = 0;      // segment of the layer
    bool deliver = true;  // an update's weights are wanted in memory
    bool share = false;   // and by the other systems, which send theirs
  };
  // One transfer under way.
  struct Flight {
    Job job;
    size_t segment = 0;
    size_t block = 0;   // of info_blocks_, or of buffers_ for a slot's content
    uint32_t slot = 0;  // where an update goes
    bool deliver = true;
    bool share = false;
    int64_t step = 0;  // that what is written back is of
  };
  // What was done with a segment, mostly by the cluster's thread.
  struct News {
    enum Kind { kReduced, kReleased, kSharedOwn, kSharedOthers, kAllMet } kind;
    size_t segment = 0;
  };
  // The first cached_ of this system's segments have buffers of their own.
  size_t buffer_of(size_t segment) const {
    return options_.buffers + layout().place_among_own(segment);
  }
  bool is_cached(size_t index) const {
    return layout().is_own(segment(index)) && layout().place_among_own(index) < cached_;
  }

  // What the thread does; file_storage_thread.cpp.
  void run();
  bool accept();
  void take_news();
  void take(const News& news);
  void tell(const News& news);
  void receive_weights(size_t layer);
  void share(size_t segment);
  bool start(const Need& need);
  bool finish_requests();
  bool give_memory(Held& held, uint64_t bytes);
  void take_memory(Held& held);
  void one_left(Held& held);
  bool issue();
  void issue_ready();
  bool issue_next(Move& move);
  bool issue_update(Flight flight);
  bool issue_part(Flight flight);
  void start_flight(const Flight& flight, const Transfer& transfer);
  void complete(uint64_t id);
  void update_segment(Flight flight, bool from_disk);
  void gradient_done(size_t layer);
  void write_back();
  void arrived(const Flight& flight);
  void give_back(std::vector<uint32_t>& slots);
  bool idle() const {
    return moves_.empty() && stores_.empty() && write_backs_.empty() && flights_.empty() &&
           ready_gradients_.empty() && ready_weights_.empty() && reducing_ == 0 && sharing_ == 0;
  }

  Held& held(const Need& need) {
    return need.gradient ? gradients_[need.layer] : weights_[need.layer];
  }
  bool keeps_gradients() const { return layout().form().gradient != GradientForm::kNone; }
  const Segment& segment(size_t index) const { return layout().segments()[index]; }

  // Reading and writing single values; file_storage_values.cpp. On the thread.
  void errand(const std::function<void()>& work);
  template <class Values, class Visit>
  void in_segments(size_t layer, int64_t first, Values values, const Visit& visit);
  SegmentArrays edited_arrays(size_t segment) const {
    return arrays_in_slot(layout(), this->segment(segment), buffers_[0].data());
  }
  void load_for_edit(size_t segment);
  void store_edited();
  void load_part(size_t segment, Kept kept);

  // Waits until `done`, and throws what the thread threw.
  template <class Done>
  void wait(std::unique_lock<std::mutex>& lock, const Done& done);

  const StreamOptions options_;
  int64_t step_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Need> expected_;              // not started
  std::deque<Need> started_;               // not acquired
  std::vector<Held> weights_, gradients_;  // per layer; the memory of busy ones is not guarded
  std::vector<bool> gradient_written_;     // per layer, in this step
  std::vector<bool> pending_;              // per layer: the update is still to be made
  std::vector<bool> stale_;                // per layer: the others' weights are to come from them
  std::vector<News> news_;
  std::vector<size_t> unreduced_;  // per layer: segments of its gradient
  size_t reducing_ = 0;            // segments of gradients, until they are stored or sent
  size_t sharing_ = 0;             // segments of weights on their way from or to other systems
  std::optional<Update> deferring_;
  std::vector<Update> layer_updates_;  // per layer, the last that was asked for at once
  bool waiting_ = false;               // in acquire
  bool settling_ = false, abandoning_ = false, stopping_ = false;
  std::function<void()> errand_;
  std::exception_ptr error_;
  IoCounts counts_;
  std::vector<int64_t> weight_reads_;  // per layer

  // The thread's own.
  std::deque<Move> moves_, stores_;  // in order; what frees gradients goes first
  std::deque<Flight> write_backs_;   // updated segments that wait for a slot, or the header
  std::deque<size_t> ready_gradients_, ready_weights_;  // segments to be written
  std::map<uint64_t, Flight> flights_;
  Update update_;             // the last one that was deferred
  bool header_due_ = false;   // its gradients are not all durable yet
  bool headers_due_ = false;  // nor those of all systems
  size_t cached_ = 0;         // segments, the first ones
  // Per segment: its buffer holds the current state; only of cached ones.
  std::vector<bool> in_cache_;
  uint64_t next_id_ = 1;
  std::vector<PageBuffer> buffers_;  // of a slot each
  std::vector<size_t> free_buffers_;
  PageBuffer info_blocks_;
  std::vector<size_t> free_blocks_;
  std::vector<PageBuffer> unused_;           // memory that can be given again
  uint64_t held_bytes_ = 0;                  // given out and unused
  std::vector<size_t> state_writes_;         // per layer: updates that are not in the file yet,
  std::vector<size_t> others_writes_;        // and weights from other systems
  std::vector<uint32_t> retired_, syncing_;  // old slots of segments, before and during a sync
  size_t edited_ = kNone;                    // segment whose content is in buffers_[0]
  size_t part_segment_ = kNone;              // the same for one part of it
  Kept part_ = Kept::kMaster;
  static constexpr size_t kNone = ~size_t{0};

  std::unique_ptr<StateFile> file_;  // goes early, as it waits for transfers into the buffers
  Exchange exchange_;
  std::thread thread_;
};

}  // namespace gigagpt::engine
