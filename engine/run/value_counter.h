// How far the reading or writing of a whole state is.
#pragma once

#include "engine/run/store.h"

namespace gigagpt::engine {

// Numbers that are kept of each element of a parameter: the weight and the optimizer's.
inline int arrays_of(const Store& store) {
  return 1 + store.form().optimizer->kept();
}

// Tells the share of all values that have been read or written.
class ValueCounter {
 public:
  ValueCounter(Store& store, int copies, const Progress& progress)
      : progress_(progress),
        all_(copies * double(parameter_count(store.storage().layout().specs()))) {
    add(0);
  }
  void add(int64_t values) {
    done_ += double(values);
    if (progress_) progress_(done_ / all_);
  }

 private:
  const Progress& progress_;
  const double all_;
  double done_ = 0;
};

}  // namespace gigagpt::engine
