// How far the reading or writing of a whole state is.
#pragma once

#include "engine/run/store.h"

namespace gigagpt::engine {

// Tells the share of all values that have been read or written.
class ValueCounter {
 public:
  // With `moments` what the optimizer keeps as well as the weights.
  ValueCounter(Store& store, bool moments, const Progress& progress)
      : progress_(progress), all_(count_values(store, moments)) {
    add(0);
  }
  void add(int64_t values) {
    done_ += double(values);
    if (progress_) progress_(done_ / all_);
  }

  static double count_values(Store& store, bool moments) {
    double count = 0;
    for (const LayerSpec& layer : store.storage().layout().specs()) {
      for (const ParamSpec& param : layer.params) {
        count += double(param.count());
        if (!moments) continue;
        for (const Array kept : {Array::kExpAvg, Array::kExpAvgSq})
          count += double(store.form().kept_count(param, kept));
      }
    }
    return count;
  }

 private:
  const Progress& progress_;
  const double all_;
  double done_ = 0;
};

}  // namespace gigagpt::engine
