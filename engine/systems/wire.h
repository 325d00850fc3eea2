// Messages between the systems that train together: the seam between MPI and the mailboxes of
// tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace gigagpt::engine {

// Use from the thread that made it. Messages of one tag from one system to another arrive in the
// order in which they were sent; memory is lent until poll() tells the id. Messages have less than
// 2^31 bytes, tags are below 2^30.
class Wire {
 public:
  virtual ~Wire() = default;
  virtual int rank() const = 0;
  virtual int systems() const = 0;
  virtual void send(uint64_t id, int to, int tag, std::span<const std::byte> bytes) = 0;
  virtual void receive(uint64_t id, int from, int tag, std::span<std::byte> bytes) = 0;
  // Moves things on; appends the ids of what is complete. Never waits.
  virtual void poll(std::vector<uint64_t>& complete) = 0;
};

using WireMaker = std::function<std::unique_ptr<Wire>()>;

// Joins the processes that mpirun or srun started, one wire a process. Throws Error.
std::unique_ptr<Wire> make_mpi_wire();

}  // namespace gigagpt::engine
