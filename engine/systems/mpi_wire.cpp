// A Wire through MPI. All calls come from one thread, which makes it advance: Open MPI moves
// nothing outside of its calls.
#include <mpi.h>

#include <climits>
#include <utility>

#include "base/error.h"
#include "engine/systems/wire.h"

namespace gigagpt::engine {
namespace {

class MpiWire : public Wire {
 public:
  MpiWire() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    if (provided < MPI_THREAD_FUNNELED) fail("MPI: this library does not allow threads");
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &systems_);
    MPI_Type_contiguous(1024, MPI_BYTE, &kilobyte_);
    MPI_Type_commit(&kilobyte_);
  }

  // What is left are receives that nobody will answer.
  ~MpiWire() override {
    for (MPI_Request& request : requests_) {
      MPI_Cancel(&request);
      MPI_Wait(&request, MPI_STATUS_IGNORE);
    }
    MPI_Type_free(&kilobyte_);
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int systems() const override { return systems_; }

  void send(uint64_t id, int to, int tag, std::span<const std::byte> bytes) override {
    const auto [count, type] = counted(bytes.size());
    MPI_Isend(bytes.data(), count, type, to, tag, MPI_COMM_WORLD, &begin(id));
  }

  void receive(uint64_t id, int from, int tag, std::span<std::byte> bytes) override {
    const auto [count, type] = counted(bytes.size());
    MPI_Irecv(bytes.data(), count, type, from, tag, MPI_COMM_WORLD, &begin(id));
  }

  void poll(std::vector<uint64_t>& complete) override {
    const size_t count = requests_.size();
    indices_.resize(count);
    int done = 0;
    MPI_Testsome(int(count), requests_.data(), &done, indices_.data(), MPI_STATUSES_IGNORE);
    if (done == MPI_UNDEFINED || done == 0) return;
    for (int i = 0; i < done; ++i) complete.push_back(ids_[size_t(indices_[size_t(i)])]);
    size_t kept = 0;
    for (size_t i = 0; i < count; ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      requests_[kept] = requests_[i];
      ids_[kept++] = ids_[i];
    }
    requests_.resize(kept);
    ids_.resize(kept);
  }

 private:
  // MPI counts in an int, which is too little for the bytes of the largest segments; those have
  // whole kilobytes.
  std::pair<int, MPI_Datatype> counted(size_t bytes) const {
    if (bytes <= size_t(INT_MAX)) return {int(bytes), MPI_BYTE};
    GIGAGPT_ASSERT(bytes % 1024 == 0);
    return {int(bytes / 1024), kilobyte_};
  }
  MPI_Request& begin(uint64_t id) {
    ids_.push_back(id);
    return requests_.emplace_back(MPI_REQUEST_NULL);
  }

  int rank_ = 0, systems_ = 1;
  MPI_Datatype kilobyte_ = MPI_DATATYPE_NULL;
  std::vector<MPI_Request> requests_;  // under way
  std::vector<uint64_t> ids_;          // theirs
  std::vector<int> indices_;
};

}  // namespace

std::unique_ptr<Wire> make_mpi_wire() {
  return std::make_unique<MpiWire>();
}

}  // namespace gigagpt::engine
