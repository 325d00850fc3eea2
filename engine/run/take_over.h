// State from the files of a run on another number of systems, or by an older version.
#pragma once

#include "engine/run/resume.h"
#include "engine/run/store.h"

namespace gigagpt::engine {

// How many numbers are kept of each parameter's.
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

// Fills the store from `other_files`, which must be there for the system that leads, and removes
// them where the store is in files of its own.
void load_files(const ResumePoint& from, Store& store, const Progress& progress);

}  // namespace gigagpt::engine
