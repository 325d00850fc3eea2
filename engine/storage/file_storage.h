// A model's state in a file, streamed past the compute: a thread of its own reads what will be
// needed next, makes deferred updates on the way, and writes behind.
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/async_file.h"
#include "base/mutex.h"
#include "engine/state/segment_math.h"
#include "engine/state/state_file.h"
#include "engine/storage/storage.h"
#include "engine/systems/exchange.h"

namespace gigagpt::engine {

struct StreamOptions {
  int64_t segment_elements = StateLayout::kSegmentElements;
  size_t buffers = 8;  // segments that are on their way through an update at once, in memory
  size_t ahead = 4;    // requests that are filled before they are acquired
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

// Two threads meet here. The caller's announces, acquires and releases; the storage's own moves
// segments and makes updates. What both touch is guarded by a mutex, under which nothing is read,
// written or synced; the rest is the storage's thread's. The cluster's thread only posts events.
class FileStorage : public Storage {
 public:
  using Mode = AsyncFile::Mode;  // kCreate or kOpen
  // Creating replaces a file of that name; its content counts after finish_writing().
  // With several systems each has a file of its own.
  FileStorage(std::vector<LayerSpec> specs, const StateForm& form, const Path& path, Mode mode,
              const StreamOptions& options, Cluster& cluster = Cluster::alone());
  // The file of a shard; without the others of its cluster to be settled and read.
  FileStorage(StateLayout layout, const Path& path, Mode mode, const StreamOptions& options,
              Cluster& cluster);
  ~FileStorage() override;

  void expect(std::span<const Request> requests) override;
  std::byte* acquire(const Request& request) override;
  void release(const Request& request) override;
  void abandon() override;
  void reduce(size_t layer, bool hold) override;
  double reduced_square_sum(size_t layer) override;
  void release_reduced(size_t layer) override;
  void begin_updates() override;
  void update_layer(size_t layer, const Update& update) override;
  void defer(const Update& update) override;
  void settle() override;
  int64_t step() const override;
  void read(Array kept, size_t layer, int64_t first, std::span<float> values) override;
  void begin_writing(int64_t step) override;
  void write(Array kept, size_t layer, int64_t first, std::span<const float> values) override;
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
  // A layer's working weights, or its gradient, in memory.
  struct LayerBuffer {
    PageBuffer memory;
    size_t missing = 0;     // segments still to arrive, or to be written
    bool present = false;   // there is memory, filled or being filled
    bool busy = false;      // from the start of a request to its release, or until it is written
    size_t leaving = 0;     // segments that are being sent, or written, from here
    bool dropped = false;   // released, and free when none is leaving
    bool reducing = false;  // each missing segment counts in reducing_ too
    bool held = false;      // when reduced, until it is released
  };
  enum class Job : int;
  // One transfer under way; in a queue that of a layer's next segment, which those after it follow.
  struct SegmentTransfer {
    Job job;
    size_t segment = 0;
    bool deliver = true;     // an update's weights are wanted in memory
    bool broadcast = false;  // and by the other systems, which send theirs
    size_t block = 0;        // of info_blocks_, or of buffers_ for a slot's content
    uint32_t slot = 0;       // where an update goes
    int64_t step = 0;        // of the state that is written back
  };
  // What the storage's thread makes of what another has done with a layer or a segment.
  using Event = void (FileStorage::*)(size_t);

  // The calling thread's.
  void rethrow_error() REQUIRES(mutex_);
  void wait_while(const bool& asked) REQUIRES(mutex_);
  void post(Event event, size_t index) EXCLUDES(mutex_);
  // Has the storage's thread do something once nothing is under way, and waits until it is done.
  void run_on_thread(const std::function<void()>& work) EXCLUDES(mutex_);
  std::byte* gradient_at(size_t segment) EXCLUDES(mutex_);
  std::byte* weights_at(size_t segment) EXCLUDES(mutex_);
  bool give_memory(LayerBuffer& buffer, uint64_t bytes) REQUIRES(mutex_, thread_role_);
  void take_memory(LayerBuffer& buffer) REQUIRES(mutex_);

  // The storage's thread; file_storage_thread.cpp.
  void run();
  void gradient_released(size_t layer) REQUIRES(mutex_, thread_role_);
  void update_asked(size_t layer) REQUIRES(mutex_, thread_role_);  // with the gradient in memory
  void reduced(size_t segment) REQUIRES(mutex_, thread_role_);     // over all systems
  void reduction_released(size_t segment) REQUIRES(mutex_, thread_role_);
  void own_weights_sent(size_t segment) REQUIRES(mutex_, thread_role_);
  void weights_received(size_t segment) REQUIRES(mutex_, thread_role_);
  void all_met(size_t) REQUIRES(mutex_, thread_role_);  // all systems' headers are durable
  std::function<void()> accept() REQUIRES(mutex_, thread_role_);
  std::function<void()> due_work() REQUIRES(mutex_, thread_role_);
  void write_pending_header() EXCLUDES(mutex_);
  void finish_settling() EXCLUDES(mutex_);
  void count_bytes() REQUIRES(mutex_, thread_role_);
  void drop_all() REQUIRES(mutex_, thread_role_);
  bool start(const Request& request) REQUIRES(mutex_, thread_role_);
  void receive_weights(size_t layer) REQUIRES(mutex_, thread_role_);
  void broadcast_weights(size_t segment) REQUIRES(mutex_);
  void segment_left(LayerBuffer& buffer) REQUIRES(mutex_);
  void gradient_done(size_t layer) REQUIRES(mutex_);
  bool issue() EXCLUDES(mutex_) REQUIRES(thread_role_);
  void queue_layer(std::deque<SegmentTransfer>& queue, size_t layer, SegmentTransfer first);
  bool issue_layers(std::deque<SegmentTransfer>& queue) EXCLUDES(mutex_) REQUIRES(thread_role_);
  void issue_ready() EXCLUDES(mutex_) REQUIRES(thread_role_);
  bool issue_next(SegmentTransfer transfer) EXCLUDES(mutex_) REQUIRES(thread_role_);
  bool issue_update(SegmentTransfer transfer) EXCLUDES(mutex_) REQUIRES(thread_role_);
  bool issue_part(SegmentTransfer transfer) EXCLUDES(mutex_) REQUIRES(thread_role_);
  void start_transfer(const SegmentTransfer& transfer, const Transfer& bytes)
      REQUIRES(thread_role_);
  void complete(uint64_t id) EXCLUDES(mutex_) REQUIRES(thread_role_);
  void complete_part(const SegmentTransfer& transfer) EXCLUDES(mutex_) REQUIRES(thread_role_);
  void update_segment(SegmentTransfer transfer, bool from_disk) EXCLUDES(mutex_)
      REQUIRES(thread_role_);
  void write_back() REQUIRES(thread_role_);
  void arrived(const SegmentTransfer& transfer) EXCLUDES(mutex_) REQUIRES(thread_role_);
  void give_back(std::vector<uint32_t>& slots) REQUIRES(thread_role_);
  bool idle() const REQUIRES(mutex_, thread_role_);

  LayerBuffer& buffer_of(const Request& request) REQUIRES(mutex_) {
    return request.gradient ? gradients_[request.layer] : weights_[request.layer];
  }
  bool keeps_gradients() const { return layout().form().gradient != GradientForm::kNone; }
  const Segment& segment(size_t index) const { return layout().segments()[index]; }
  // The first cached_ of this system's segments have slot buffers of their own.
  size_t cache_buffer(size_t segment) const {
    return options_.buffers + layout().place_of(segment);
  }
  bool is_cached(size_t index) const {
    return layout().is_own(segment(index)) && layout().place_of(index) < cached_;
  }

  // Reading and writing single values on the storage's thread; file_storage_values.cpp.
  template <class Values, class Visit>
  void in_segments(size_t layer, int64_t first, Values values, const Visit& visit);
  SegmentArrays edited_arrays(size_t segment) const REQUIRES(thread_role_) {
    return arrays_in_slot(layout(), this->segment(segment), buffers_[0].data());
  }
  void load_for_edit(size_t segment) REQUIRES(thread_role_);
  void store_edited() REQUIRES(thread_role_);
  void load_part(size_t segment, Array kept) REQUIRES(thread_role_);

  const StreamOptions options_;
  const bool has_peers_;  // other systems, to whom updated weights go
  size_t cached_ = 0;     // segments whose state stays in memory

  mutable Mutex mutex_;
  CondVar changed_;
  int64_t step_ GUARDED_BY(mutex_) = 0;
  std::deque<Request> expected_ GUARDED_BY(mutex_);  // not started
  std::deque<Request> started_ GUARDED_BY(mutex_);   // not acquired
  // Per layer. The memory of busy ones is their user's, without the mutex.
  std::vector<LayerBuffer> weights_ GUARDED_BY(mutex_), gradients_ GUARDED_BY(mutex_);
  std::vector<PageBuffer> unused_ GUARDED_BY(mutex_);      // memory that can be given again
  uint64_t held_bytes_ GUARDED_BY(mutex_) = 0;             // given out and unused
  std::vector<bool> gradient_written_ GUARDED_BY(mutex_);  // per layer, in this step
  // Per layer: the other systems' weights are still to come from them.
  std::vector<bool> stale_ GUARDED_BY(mutex_);
  std::vector<std::pair<Event, size_t>> events_ GUARDED_BY(mutex_);
  std::vector<size_t> unreduced_ GUARDED_BY(mutex_);  // per layer: segments of its gradient
  // Segments of gradients, until they are stored or sent, and of weights on their way between
  // systems.
  size_t reducing_ GUARDED_BY(mutex_) = 0, broadcasting_ GUARDED_BY(mutex_) = 0;
  std::optional<Update> deferring_ GUARDED_BY(mutex_);
  // Per layer, the last update that was asked for at once.
  std::vector<Update> layer_updates_ GUARDED_BY(mutex_);
  bool waiting_ GUARDED_BY(mutex_) = false;  // in acquire()
  bool settling_ GUARDED_BY(mutex_) = false, abandoning_ GUARDED_BY(mutex_) = false;
  bool stopping_ GUARDED_BY(mutex_) = false;
  const std::function<void()>* work_ GUARDED_BY(mutex_) = nullptr;  // for run_on_thread()
  std::exception_ptr error_ GUARDED_BY(mutex_);
  IoCounts counts_ GUARDED_BY(mutex_);
  std::vector<int64_t> weight_reads_ GUARDED_BY(mutex_);  // per layer

  ThreadRole thread_role_;  // of the storage's thread, whose own the following is
  // In order; what frees gradients goes first.
  std::deque<SegmentTransfer> stores_ GUARDED_BY(thread_role_), loads_ GUARDED_BY(thread_role_);
  // Updated segments that wait for a slot, or the header.
  std::deque<SegmentTransfer> write_backs_ GUARDED_BY(thread_role_);
  // Segments to be written.
  std::deque<size_t> ready_gradients_ GUARDED_BY(thread_role_), ready_weights_
      GUARDED_BY(thread_role_);
  std::map<uint64_t, SegmentTransfer> transfers_ GUARDED_BY(thread_role_);
  uint64_t next_id_ GUARDED_BY(thread_role_) = 1;
  Update update_ GUARDED_BY(thread_role_);              // the last one that was deferred
  std::vector<bool> pending_ GUARDED_BY(thread_role_);  // per layer: its update is still to be made
  // The update's gradients are not all durable yet, nor those of all systems.
  bool header_due_ GUARDED_BY(thread_role_) = false, headers_due_ GUARDED_BY(thread_role_) = false;
  // Per segment: its buffer holds the current state; only of cached ones.
  std::vector<bool> in_cache_ GUARDED_BY(thread_role_);
  std::vector<PageBuffer> buffers_ GUARDED_BY(thread_role_);  // of a slot each
  std::vector<size_t> free_buffers_ GUARDED_BY(thread_role_);
  PageBuffer info_blocks_ GUARDED_BY(thread_role_);
  std::vector<size_t> free_blocks_ GUARDED_BY(thread_role_);
  // Per layer: updates that are not in the file yet, and weights from other systems.
  std::vector<size_t> state_writes_ GUARDED_BY(thread_role_), others_writes_
      GUARDED_BY(thread_role_);
  // Old slots of segments, before and during a sync.
  std::vector<uint32_t> retired_ GUARDED_BY(thread_role_), syncing_ GUARDED_BY(thread_role_);
  static constexpr size_t kNone = ~size_t{0};
  // The segment whose content is in buffers_[0], or one part of whose content is.
  size_t edited_ GUARDED_BY(thread_role_) = kNone, part_segment_ GUARDED_BY(thread_role_) = kNone;
  Array part_ GUARDED_BY(thread_role_) = Array::kMaster;

  // The storage's thread's, but for its path and id, and to wake the thread. It goes early, as it
  // waits for transfers into the buffers.
  std::unique_ptr<StateFile> file_;
  Exchange exchange_;
  std::thread thread_;
};

}  // namespace gigagpt::engine
