// The optimizer step over a whole store.
#pragma once

#include "engine/executor.h"
#include "engine/store.h"

namespace gigagpt::engine {

// Has every layer updated (when its weights are next asked for) with its gradients, scaled down so
// that their global L2 norm is at most `max_norm`; `step` counts from 1. Returns the norm before
// clipping. Throws NonFinite naming the layer, before anything is changed, if a gradient is not
// finite.
double apply_gradients(Store& store, const ops::UpdateRule& rule, double lr, double max_norm,
                       int64_t step);

}  // namespace gigagpt::engine
