// What a person is told of a plan.
#include "cli/plan_text.h"

#include <gtest/gtest.h>

#include "base/testing.h"

namespace gigagpt::cli {
namespace {

class PlanText : public testing::Test {
 protected:
  PlanText() { config_.out_dir = directory_.path().string(); }
  std::string text(double memory_gb) {
    config_.storage.memory_gb = memory_gb;
    plan_ = engine::make_plan(config_.layers(), engine::Precision::kBf16, config_.run_size(true),
                              config_.storage, config_.out_dir, machine_);
    return plan_text(config_, plan_, machine_);
  }
  static bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }

  TemporaryDirectory directory_;
  GPTConfig config_;
  engine::Plan plan_;
  engine::Machine machine_{"a fine CPU", 2, true, 9e11, 2e11, 22e9, {}};
};

TEST_F(PlanText, HasALinePerQuestion) {
  config_.batch_size = 8;
  config_.sequence_length = 1024;
  config_.saves.keep_checkpoints = 1;
  const std::string in_ram = text(40);
  EXPECT_TRUE(has(in_ram, "model        125,226,240 parameters; 8.19e+07 tokens in 10,000 steps"))
      << in_ram;
  EXPECT_TRUE(has(in_ram, "\nstate        2.25 GB, 18 bytes a parameter, in RAM\n"));
  EXPECT_TRUE(has(in_ram, "1 of 2 micro-batches at once"));
  EXPECT_TRUE(has(in_ram, "at most: 1 checkpoint of 1.50 GB; "));
  EXPECT_TRUE(has(in_ram, " TFLOP; about "));
  EXPECT_TRUE(has(in_ram, "\nthe run      about "));
  EXPECT_TRUE(has(in_ram, "\non systems   2: "));
  EXPECT_TRUE(has(in_ram, "2 cores of a fine CPU; bf16 products 900 GFLOP/s; memory 22 GB/s"));
  EXPECT_FALSE(has(in_ram, "DOES NOT FIT"));
  const std::string in_file = text(2);
  EXPECT_TRUE(has(in_file, "streamed from " + config_.out_dir + "/model.store"));
  EXPECT_TRUE(has(in_file, "layers run again in the backward pass"));
  EXPECT_TRUE(has(in_file, "; reads "));
  const std::string too_little = text(0.4);
  EXPECT_TRUE(has(too_little, "\nDOES NOT FIT memory_gb: 0.40 is not enough")) << too_little;
}

TEST_F(PlanText, SaysNothingOfTimeThatIsNotKnown) {
  machine_ = {};
  const std::string unknown = text(40);
  EXPECT_TRUE(has(unknown, "this machine not measured"));
  EXPECT_FALSE(has(unknown, "about"));
}

TEST_F(PlanText, ComparesWithWhatWasMeasured) {
  engine::Plan plan;
  plan.step_s = 10;
  plan.peak_gb = 4;
  plan.disk_gb = 1200;
  EXPECT_EQ(comparison_text(plan, {12, 3.8, 1200}),
            "               planned    measured\n"
            "a step            10 s        12 s  +20.0 %\n"
            "memory         4.00 GB     3.80 GB  -5.0 %\n"
            "disk            1.2 TB      1.2 TB  +0.0 %");
  plan.disk_gb = 0.001;
  EXPECT_FALSE(has(comparison_text(plan, {12, 3.8, 0.004}), "disk"));
  plan.step_s = 0.01;
  EXPECT_FALSE(has(comparison_text(plan, {12, 3.8, 1200}), "a step"));
}

}  // namespace
}  // namespace gigagpt::cli
