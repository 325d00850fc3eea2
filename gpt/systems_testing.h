// For tests only: small GPTs that train on systems which are processes of this machine. The parent
// computes nothing, so that it can fork.
#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/run/checkpoint.h"
#include "engine/systems/systems_testing.h"
#include "gpt/model.h"
#include "gpt/testing.h"

namespace gigagpt {

class SystemsTest : public testing::Test {
 protected:
  SystemsTest() {
    write_dataset(folder_ / "data", 31, 1000);
    config_ = tiny_config(folder_.path());
    config_.batch_size = 8;
    config_.micro_batch_size = 1;  // so that micro-batches, and dropout, are alike on all numbers
    config_.dropout = 0.1;
    config_.num_steps = 6;
    config_.width = 64;  // layers of several shards
  }

  GPTConfig config(const std::string& out, int64_t systems, bool file = false) const {
    GPTConfig config = config_;
    config.num_systems = systems;
    config.out_dir = (folder_ / out).string();
    config.storage.store = file ? config.out_dir + "/model.store" : "memory";
    return config;
  }

  static void train_here(const GPTConfig& config, engine::Cluster& cluster,
                         int64_t stop_after = 0) {
    at::set_num_threads(1);
    const engine::System system{{}, cluster};
    train(config, system, quiet(nullptr, stop_after));
  }
  static bool run(const GPTConfig& config, int64_t stop_after = 0) {
    return engine::run_systems(int(config.num_systems), [&](engine::Cluster& cluster) {
      train_here(config, cluster, stop_after);
    });
  }
  static Path last(const GPTConfig& config) {
    return engine::checkpoint_directory(config.out_dir,
                                        engine::checkpoint_steps(config.out_dir).back());
  }
  static std::string weights(const GPTConfig& config) {
    return read_text(last(config) / "model.safetensors");
  }

  TemporaryDirectory folder_;
  GPTConfig config_;
};

}  // namespace gigagpt
