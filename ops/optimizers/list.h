// All optimizers that there are: a new one is added here, by its name.
#pragma once

#include <tuple>

#include "ops/optimizers/adafactor.h"
#include "ops/optimizers/adamw.h"
#include "ops/optimizers/lion.h"
#include "ops/optimizers/muon.h"
#include "ops/optimizers/sgd.h"

namespace gigagpt::ops {

using Optimizers = std::tuple<Adafactor, AdamW, Lion, Muon, Sgd>;

}  // namespace gigagpt::ops
