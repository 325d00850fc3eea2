// What a run makes of the memory it is given.
#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include "base/testing.h"

namespace gigagpt::engine {
namespace {

// Like a GPT of 0.4e9 parameters: an embedding that the last layer shares, and 20 blocks.
std::vector<LayerSpec> specs() {
  std::vector<LayerSpec> specs;
  specs.push_back({"embedding", "", {{"wte.weight", {50257, 1024}, 0, 0.02, true}}});
  for (int i = 0; i < 20; ++i) {
    const std::string name = "block." + std::to_string(i);
    specs.push_back({name, name + ".", {{"a", {8192, 1024}}, {"b", {1024, 8192}}, {"c", {1024}}}});
  }
  specs.push_back({"head", "", {{"bias", {1024}}}, {"wte.weight"}});
  return specs;
}

class MemoryPlanTest : public testing::Test {
 protected:
  MemoryPlan plan(double memory_gb, const std::string& store = "auto",
                  const std::string& recompute = "auto") {
    return plan_memory(specs(), Precision::kBf16, size_,
                       {store, recompute, memory_gb, directory_.path()});
  }
  TemporaryDirectory directory_;
  RunSize size_{.batch_size = 16, .micro_batch_size = 4, .sequence_length = 1024};
};

TEST_F(MemoryPlanTest, TakesLessAsMemoryShrinks) {
  const MemoryPlan plenty = plan(40);
  EXPECT_TRUE(plenty.file.empty());
  EXPECT_FALSE(plenty.recompute);
  // 18 bytes for each of 16.8e6 parameters of 20 blocks and 51.5e6 of the embedding.
  EXPECT_NEAR(plenty.state_gb, 18 * (20 * 16.78e6 + 51.46e6) / 1e9, 0.01);
  std::vector<std::string> kinds;
  int64_t window = 1 << 20;
  for (double memory_gb = 40; memory_gb > 1.8; memory_gb *= 0.97) {
    const MemoryPlan p = plan(memory_gb);
    EXPECT_LE(p.peak_gb, memory_gb) << p.note;
    const std::string kind =
        std::string(p.file.empty() ? "RAM" : "file") + (p.recompute ? ", twice" : "");
    if (kinds.empty() || kinds.back() != kind) {
      kinds.push_back(kind);
      window = 1 << 20;
    }
    EXPECT_LE(p.window, window) << "never more for less";
    window = p.window;
    if (!p.file.empty()) {
      EXPECT_EQ(p.file, directory_.path() / "model.store");
      EXPECT_GT(p.layer_bytes, 0U);
      EXPECT_LE(double(p.layer_bytes + p.cache_bytes + p.activation_bytes), memory_gb * 1e9);
    }
  }
  EXPECT_EQ(kinds, (std::vector<std::string>{"RAM", "RAM, twice", "file, twice"}));
  EXPECT_EQ(window, 1) << "the least is one micro-batch at a time";
  EXPECT_ERROR(plan(1.0), "memory_gb: 1.00 is not enough: streamed one micro-batch at a time");
}

TEST_F(MemoryPlanTest, DoesAsItIsTold) {
  EXPECT_EQ(plan(40, "/x/y.store").file, "/x/y.store");
  EXPECT_FALSE(plan(40, "/x/y.store").recompute);
  EXPECT_EQ(plan(40, "/x/y.store").window, 4);
  EXPECT_TRUE(plan(40, "memory", "on").recompute);
  EXPECT_FALSE(plan(15, "auto", "off").recompute);
  EXPECT_ERROR(plan(5, "memory"), "but memory_gb is 5.0; leave store out to stream from a file");
}

// Models that are not trained keep working weights alone, in a file that nothing else is called.
TEST_F(MemoryPlanTest, InferenceNeedsTheWorkingWeights) {
  size_.training = false;
  const MemoryPlan resident = plan(40);
  EXPECT_TRUE(resident.file.empty());
  EXPECT_NEAR(resident.state_gb, 2 * (20 * 16.78e6 + 51.46e6) / 1e9, 0.01);
  const MemoryPlan streamed = plan(1.4);
  EXPECT_NE(streamed.file, "");
  EXPECT_NE(streamed.file, directory_.path() / "model.store");
  EXPECT_FALSE(streamed.recompute);
}

}  // namespace
}  // namespace gigagpt::engine
