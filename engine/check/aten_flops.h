// The FLOPs of ATen's own matrix products.
#pragma once

#include <cstdint>

namespace gigagpt::engine {

// Counts those of the thread that made it, forward and backward, as long as it lives.
class AtenFlops {
 public:
  AtenFlops();
  ~AtenFlops();
  AtenFlops(const AtenFlops&) = delete;
  AtenFlops& operator=(const AtenFlops&) = delete;
  double so_far() const;

 private:
  uint64_t handle_;
};

}  // namespace gigagpt::engine
