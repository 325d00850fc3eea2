// What a run makes of the machine it is given.
#include "engine/plan/plan.h"

#include <gtest/gtest.h>

#include "base/testing.h"
#include "engine/plan/forecast.h"
#include "engine/state/state_file.h"
#include "ops/optimizers/muon.h"

namespace gigagpt::engine {
namespace {

// Like a GPT of 0.4e9 parameters: an embedding that the last layer shares, and 20 blocks.
std::vector<LayerSpec> specs() {
  std::vector<LayerSpec> specs;
  specs.push_back({"embedding", "", {{"wte.weight", {50257, 1024}, {.looked_up = true}}}});
  for (int i = 0; i < 20; ++i) {
    const std::string name = "block." + std::to_string(i);
    specs.push_back({name, name + ".", {{"a", {8192, 1024}}, {"b", {1024, 8192}}, {"c", {1024}}}});
  }
  specs.push_back({"head", "", {{"bias", {1024}}}, {{"wte.weight"}}});
  return specs;
}

class PlanTest : public testing::Test {
 protected:
  Plan plan(double memory_gb, StoreRules rules = {}) {
    rules.memory_gb = memory_gb;
    return make_plan(specs(), precision_, size_, rules, directory_.path(), machine_, 0,
                     [](const Path&) { return uint64_t{80'000'000'000}; });
  }
  TemporaryDirectory directory_;
  Precision precision_ = Precision::kBf16;
  Machine machine_;
  RunSize size_{.batch_size = 16, .micro_batch_size = 4, .sequence_length = 1024};
};

constexpr double kParameters = 20 * 16.78e6 + 51.46e6;

TEST_F(PlanTest, TakesLessAsMemoryShrinks) {
  const Plan plenty = plan(40);
  EXPECT_TRUE(plenty.execution.file.empty());
  EXPECT_FALSE(plenty.execution.recompute);
  EXPECT_NEAR(plenty.state_gb, 18 * kParameters / 1e9, 0.01);
  std::vector<std::string> kinds;
  int64_t window = 1 << 20;
  for (double memory_gb = 40; memory_gb > 1.8; memory_gb *= 0.97) {
    const Plan p = plan(memory_gb);
    EXPECT_EQ(p.refusal, "");
    EXPECT_LE(p.peak_gb, memory_gb) << p.note();
    const std::string kind = std::string(p.execution.file.empty() ? "RAM" : "file") +
                             (p.execution.recompute ? ", twice" : "");
    if (kinds.empty() || kinds.back() != kind) {
      kinds.push_back(kind);
      window = 1 << 20;
    }
    EXPECT_LE(p.execution.window, window) << "never more for less";
    window = p.execution.window;
    if (!p.execution.file.empty()) {
      EXPECT_EQ(p.execution.file, directory_.path() / "model.store");
      EXPECT_GT(p.layer_bytes, 0U);
      EXPECT_LE(double(p.layer_bytes + p.cache_bytes + p.activation_bytes), memory_gb * 1e9);
    }
  }
  EXPECT_EQ(kinds, (std::vector<std::string>{"RAM", "RAM, twice", "file, twice"}));
  EXPECT_EQ(window, 1) << "the least is one micro-batch at a time";
  const Plan too_small = plan(1.0);
  EXPECT_NE(too_small.refusal.find("memory_gb: 1.00 is not enough: streamed one micro-batch"),
            std::string::npos);
  const Plan nearly = plan(1.6);
  EXPECT_NE(nearly.refusal.find("what would fit: micro_batch_size: 1"), std::string::npos)
      << nearly.refusal;
}

TEST_F(PlanTest, DoesAsItIsTold) {
  EXPECT_EQ(plan(40, {.store = "/x/y.store"}).execution.file, "/x/y.store");
  EXPECT_FALSE(plan(40, {.store = "/x/y.store"}).execution.recompute);
  EXPECT_EQ(plan(40, {.store = "/x/y.store"}).execution.window, 4);
  EXPECT_TRUE(plan(40, {.store = "memory", .recompute = "on"}).execution.recompute);
  EXPECT_FALSE(plan(15, {.recompute = "off"}).execution.recompute);
  EXPECT_NE(plan(5, {.store = "memory"}).refusal.find("but memory_gb is 5.0; leave store out"),
            std::string::npos);
}

// An optimizer that needs whole matrices has no compact form to be offered.
TEST_F(PlanTest, OfMuonIsRefusedWithoutAnOfferOfCompactState) {
  size_.optimizer = &ops::Muon::kInfo;
  EXPECT_EQ(plan(40).refusal, "");
  const Plan too_small = plan(1);
  EXPECT_NE(too_small.refusal.find("memory_gb: 1.00 is not enough"), std::string::npos);
  EXPECT_EQ(too_small.refusal.find("compact"), std::string::npos) << too_small.refusal;
}

// Where shards differ in size all plan with the largest, so that they choose alike.
TEST_F(PlanTest, SystemsPlanAlike) {
  for (const ops::Optimizer* optimizer : ops::optimizers()) {
    size_.optimizer = optimizer;
    size_.systems = 3;
    for (double memory_gb = 12; memory_gb > 1; memory_gb *= 0.95) {
      StoreRules rules;
      rules.memory_gb = memory_gb;
      std::vector<std::string> choices;
      for (int rank = 0; rank < 3; ++rank) {
        const Plan p = make_plan(specs(), precision_, size_, rules, directory_.path(), machine_,
                                 rank, [](const Path&) { return uint64_t{80'000'000'000}; });
        choices.push_back(fmt::format("{} {} {} {}", p.execution.file.empty(), p.execution.window,
                                      p.execution.recompute, p.peak_gb));
      }
      EXPECT_EQ(choices[0], choices[1]) << optimizer->name << " " << memory_gb;
      EXPECT_EQ(choices[0], choices[2]) << optimizer->name << " " << memory_gb;
    }
  }
}

TEST_F(PlanTest, CompactStateTakesLess) {
  const Plan ram = plan(40, {.state = "compact"});
  EXPECT_NEAR(ram.state_gb, (2 + 2 + 4 + 8.0 / 2048) * kParameters / 1e9, 0.01);
  const Plan by_layer = plan(40, {.state = "compact", .clip = "layer"});
  EXPECT_NEAR(by_layer.state_gb, (2 + 2 + 8.0 / 2048) * kParameters / 1e9, 0.01);
  EXPECT_EQ(by_layer.execution.window, 4) << "the whole step at once";
  // In a file, with some slots to spare: bf16 gradients if the step is one window.
  const Plan narrow = plan(20, {.store = "/x/y.store", .state = "compact"});
  EXPECT_EQ(narrow.execution.form.gradient, GradientForm::kBf16);
  EXPECT_EQ(narrow.execution.window, 4);
  EXPECT_NEAR(narrow.state_gb, 6.1 * kParameters / 1e9, 0.3);
  const Plan wide = plan(1.9, {.state = "compact"});
  EXPECT_EQ(wide.refusal, "");
  EXPECT_EQ(wide.execution.form.gradient, GradientForm::kFp32);
  EXPECT_LT(wide.execution.window, 4);
  precision_ = Precision::kFp32;
  EXPECT_ERROR(plan(40, {.state = "compact"}), "it needs precision: bf16");
}

TEST_F(PlanTest, ReplacesNoFileOfSomebodyElse) {
  const StoreRules rules{.store = directory_.write("thesis.txt", "years of work").string()};
  EXPECT_ERROR(plan(40, rules), "exists and is not a gigaGPT store");
  directory_.write("thesis.txt", std::string(10'000, '\0'));  // reserved, and then killed
  EXPECT_EQ(plan(40, rules).refusal, "");
}

// Models that are not trained keep working weights alone, in a file that nothing else is called.
TEST_F(PlanTest, InferenceNeedsTheWorkingWeights) {
  size_.training = false;
  const Plan resident = plan(40);
  EXPECT_TRUE(resident.execution.file.empty());
  EXPECT_NEAR(resident.state_gb, 2 * kParameters / 1e9, 0.01);
  const Plan streamed = plan(1.4);
  EXPECT_NE(streamed.execution.file, "");
  EXPECT_NE(streamed.execution.file, directory_.path() / "model.store");
  EXPECT_FALSE(streamed.execution.recompute);
}

TEST_F(PlanTest, CountsTheDiskWithItsSnapshots) {
  size_.num_steps = 100;
  size_.checkpoint_steps = 10;
  size_.keep_checkpoints = 3;
  const Plan ram = plan(40);
  EXPECT_NEAR(ram.snapshot_gb, 12 * kParameters / 1e9, 0.01);
  EXPECT_EQ(ram.snapshots, 3);
  EXPECT_NEAR(ram.disk_gb, 3 * ram.snapshot_gb, 1e-6);
  EXPECT_NEAR(ram.most_disk_gb, 4 * ram.snapshot_gb, 1e-6) << "one waits for the next to be whole";
  EXPECT_NEAR(ram.all_write_gb, 10 * ram.snapshot_gb, 1e-6);
  const Plan file = plan(4);
  EXPECT_NEAR(file.snapshot_gb, 4 * kParameters / 1e9, 0.01);
  EXPECT_NEAR(file.most_disk_gb, file.state_gb + 4 * file.snapshot_gb, 1e-6);
  EXPECT_GT(file.all_write_gb, 100 * file.write_gb);
  size_.keep_checkpoints = 1 << 20;  // more than any disk has, and told what would do
  size_.checkpoint_steps = 1;
  size_.num_steps = 1 << 20;
  const Plan too_much = plan(40);
  EXPECT_NE(too_much.refusal.find("disk: this run needs"), std::string::npos);
  EXPECT_NE(too_much.refusal.find("what would fit: keep_checkpoints: 1"), std::string::npos)
      << too_much.refusal;
}

TEST_F(PlanTest, TimeIsThatOfTheSlowest) {
  machine_ = {"cpu", 4, true, 1e12, 2e11, 30e9, {}};
  const double least_s = 6 * kParameters * 16 * 1024 / 1e12;
  const Plan ram = plan(40);
  EXPECT_GT(ram.step_s, least_s);
  EXPECT_LT(ram.step_s, 2 * least_s);
  EXPECT_EQ(ram.step_s, ram.compute_s);
  machine_.disks[disk_name(directory_.path())] = {2e9, 2e9, 2e9};
  const Plan fast_disk = plan(4);
  EXPECT_GT(fast_disk.step_flops, ram.step_flops) << "layers run twice";
  machine_.disks[disk_name(directory_.path())] = {1e7, 1e7, 1e7};
  const Plan slow_disk = plan(4);
  const double moved_s = (slow_disk.read_gb + slow_disk.write_gb) * 1e9 / 1e7;
  EXPECT_GE(slow_disk.step_s, 0.999 * moved_s);
  EXPECT_EQ(slow_disk.compute_s, fast_disk.compute_s);
}

// Of a batch that is one micro-batch, too.
TEST_F(PlanTest, SystemsShareTheBatchInSmallerMicroBatches) {
  machine_ = {"cpu", 4, true, 1e12, 2e11, 30e9, {}};
  size_.network_gbit = 1000;
  size_.micro_batch_size = size_.batch_size;
  const Plan whole = plan(40);
  ASSERT_EQ(whole.on_systems.size(), 2U);
  EXPECT_EQ(whole.on_systems[0].first, 2);
  EXPECT_EQ(whole.on_systems[1].first, 8);
  EXPECT_NEAR(whole.on_systems[0].second, whole.step_s / 2, whole.step_s * 0.1);
  EXPECT_NEAR(whole.on_systems[1].second, whole.step_s / 8, whole.step_s * 0.1);
  size_.batch_size = size_.micro_batch_size = 1;
  EXPECT_TRUE(plan(40).on_systems.empty());
}

}  // namespace
}  // namespace gigagpt::engine
