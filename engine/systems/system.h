// The system that this process is: what its machine can do, and its place among others.
#pragma once

#include "engine/plan/machine.h"
#include "engine/systems/cluster.h"

namespace gigagpt::engine {

struct System {
  Machine machine = {};
  Cluster& cluster = Cluster::alone();
};

}  // namespace gigagpt::engine
