// The system that this process is: what its machine can do, and its place among others.
#pragma once

#include "engine/cluster.h"
#include "engine/machine.h"

namespace gigagpt::engine {

struct System {
  Machine machine = {};
  Cluster& cluster = Cluster::alone();
};

}  // namespace gigagpt::engine
