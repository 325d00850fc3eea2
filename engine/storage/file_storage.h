// A model's state in a file, streamed past the compute: a thread of its own reads what will be
// needed next, makes deferred updates on the way, and writes behind.
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "engine/storage/schedule.h"
#include "engine/storage/segment_io.h"
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
  // Called on the caller's thread, for an optimizer that needs parameters whole.
  ops::DirectionMaker direction = nullptr;
  EngineMaker engine = {};
};

// Two threads meet at a mailbox. The caller's leaves messages for the storage's own, which has a
// Schedule decide and a SegmentIo do, and answers. The mailbox's mutex guards the mailbox alone:
// nothing is decided, read, written or synced under it. The cluster's thread only leaves messages.
// A direction that takes a whole parameter is much work: the caller makes it, whose threads
// compute, while it waits or when it next asks for something.
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
  // Ends the thread, then what systems send each other, then the file, then the memory of both.
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
  std::string file_id() const override { return io_.file().id(); }
  // How often each layer's weights were read, with an update or alone.
  std::vector<int64_t> weight_reads();
  // Where in the file a segment is; only after settle().
  uint64_t slot_offset(size_t segment);
  // After opening, all systems: a crash may have left some with the gradients of a step that others
  // have not. Nobody has begun its update, so that those go back.
  void meet_at_one_step();
  // Back to the step before the one that the file was opened at.
  void take_back_step();

 private:
  // What the storage's thread is asked, or told.
  struct Message {
    enum class Kind {
      kExpect,
      kWait,
      kAcquired,
      kRelease,
      kReduce,
      kReleaseReduced,
      kUpdateLayer,
      kDefer,
      kSettle,
      kAbandon,
      kWork,
      kDirected,
      kReduced,
      kWeightsSent,
      kWeightsReceived,
      kAllMet
    };
    Kind kind;
    size_t index = 0;  // layer, or segment
    Request request = {};
    bool hold = false;
    Update update = {};
    SegmentJob job = {};
  };
  // Directions that the update of a segment needs.
  struct Directions {
    SegmentJob job;
    std::vector<ops::WholeParam> params;
    Update update;
  };
  struct Mailbox {
    std::vector<Message> messages;
    std::deque<std::pair<Request, std::byte*>> answers;  // to acquire()
    std::vector<bool> reduced;                           // per layer
    bool settling = false, abandoning = false;           // asked for, and not done yet
    const std::function<void()>* work = nullptr;         // likewise
    std::deque<Directions> directions;                   // to be made by the caller
    bool stopping = false;
    std::exception_ptr error;
    int64_t step = 0;
    IoCounts counts;
  };

  // The calling thread's.
  void ask(const Message& message) EXCLUDES(mutex_);
  void post(const Message& message) EXCLUDES(mutex_);  // also from other threads
  void leave(const Message& message) REQUIRES(mutex_);
  // The milliseconds that it waited, and made no directions.
  template <class Asked>
  double wait_while(const Asked& asked) REQUIRES(mutex_);
  void make_directions() REQUIRES(mutex_);
  // Has the storage's thread do something once nothing is under way, and waits until it is done.
  void run_on_thread(const std::function<void()>& work) EXCLUDES(mutex_);

  // The storage's thread.
  void run();
  void take_in(const Message& message) REQUIRES(thread_role_);
  void perform(const Action& action) EXCLUDES(mutex_) REQUIRES(thread_role_);
  const Update& update_of(const SegmentJob& job) REQUIRES(thread_role_);
  void begin_update(const SegmentJob& job) EXCLUDES(mutex_) REQUIRES(thread_role_);
  void make_update(SegmentJob job) REQUIRES(thread_role_);
  void start_broadcast(size_t segment) REQUIRES(thread_role_);
  void answer(const Action& action) EXCLUDES(mutex_) REQUIRES(thread_role_);
  void write_settled() EXCLUDES(mutex_) REQUIRES(thread_role_);
  void do_work() EXCLUDES(mutex_) REQUIRES(thread_role_);
  void count_bytes() EXCLUDES(mutex_) REQUIRES(thread_role_);
  SegmentPlace place_of(size_t segment) REQUIRES(thread_role_);
  template <class Values, class Visit>
  void in_segments(size_t layer, int64_t first, Values values, const Visit& visit);
  void begin_edit(size_t segment, int64_t step) REQUIRES(thread_role_);
  void store_edited(int64_t step) REQUIRES(thread_role_);
  bool keeps_gradients() const { return layout().form().gradient != GradientForm::kNone; }

  const ops::DirectionMaker direction_;
  mutable Mutex mutex_;
  CondVar changed_;
  Mailbox mailbox_ GUARDED_BY(mutex_);

  ThreadRole thread_role_;  // of the storage's thread
  // That thread's, but for the file's path and id, and to wake the thread.
  SegmentIo io_;
  Schedule schedule_ GUARDED_BY(thread_role_);
  // As handed over last; and the one that is being made: that one or, until the schedule begins
  // with it, the one before.
  Update deferred_ GUARDED_BY(thread_role_), update_ GUARDED_BY(thread_role_);
  std::vector<Update> layer_updates_ GUARDED_BY(thread_role_);  // that were asked for at once
  Exchange exchange_;
  std::thread thread_;
};

}  // namespace gigagpt::engine
