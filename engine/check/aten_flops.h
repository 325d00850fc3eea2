// What ATen's own matrix products compute.
#pragma once

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
  unsigned long handle_;
};

}  // namespace gigagpt::engine
