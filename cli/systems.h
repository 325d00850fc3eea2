// The systems of a run, joined, and made sure to be of one mind.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "engine/systems/cluster.h"

namespace gigagpt::cli {

// Joins config.num_systems processes that were started together; of one, nothing is started.
// Throws Error.
std::unique_ptr<engine::Cluster> join_systems(const GPTConfig& config);

// Throws AgreedError, naming the first difference, unless all systems have this configuration,
// program and data set.
void check_alike(engine::Cluster& cluster, GPTConfig& config, const std::string& split);

// Gives all systems the configuration of the one that leads.
void share_config(engine::Cluster& cluster, GPTConfig& config);

// Gives them the keys of its model alone, which may come from a checkpoint that others do not see.
void share_model(engine::Cluster& cluster, const std::vector<Setting>& settings, GPTConfig& config);

}  // namespace gigagpt::cli
