// What goes with what: every optimizer, in every form of state, in RAM and in files, stopped and
// gone on with, alone and on several systems, to the same bits.
#include "base/testing.h"
#include "gpt/systems_testing.h"
#include "ops/optimizers/list.h"

namespace gigagpt {
namespace {

struct Cell {
  std::string optimizer;
  std::string precision, state, clip;
};

std::vector<Cell> all_cells() {
  std::vector<Cell> cells;
  for (const std::string& optimizer : ops::optimizer_names()) {
    for (const char* clip : {"global", "layer"}) {
      cells.push_back({optimizer, "fp32", "full", clip});
      cells.push_back({optimizer, "bf16", "full", clip});
      cells.push_back({optimizer, "bf16", "compact", clip});
    }
  }
  return cells;
}

class OptimizerTable : public SystemsTest, public testing::WithParamInterface<Cell> {
 protected:
  OptimizerTable() {
    config_.optim.optimizer = GetParam().optimizer;
    config_.precision = GetParam().precision;
    config_.storage.state = GetParam().state;
    config_.storage.clip = GetParam().clip;
    config_.num_steps = 4;
  }
};

TEST_P(OptimizerTable, HasTheSameBitsEverywhere) {
  const bool whole = ops::find_optimizer(GetParam().optimizer)->whole != ops::Whole::kNone;
  if (whole && GetParam().state == "compact") {
    EXPECT_ERROR(train_here(config("out", 1), engine::Cluster::alone()), "needs whole matrices");
    return;
  }
  for (const int64_t systems : {1, 2}) {
    SCOPED_TRACE(systems);
    const std::string name = std::to_string(systems);
    const GPTConfig resident = config("ram" + name, systems);
    ASSERT_TRUE(run(resident));
    const std::string expected = weights(resident);
    const GPTConfig streamed = config("file" + name, systems, /*file=*/true);
    ASSERT_TRUE(run(streamed));
    EXPECT_EQ(weights(streamed), expected);
    for (const bool file : {false, true}) {
      GPTConfig stopped = config((file ? "cutfile" : "cut") + name, systems, file);
      ASSERT_TRUE(run(stopped, /*stop_after=*/2));
      stopped.saves.checkpoint_path = "latest";
      ASSERT_TRUE(run(stopped));
      EXPECT_EQ(weights(stopped), expected) << "resumed from " << (file ? "a file" : "RAM");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Optimizers, OptimizerTable, testing::ValuesIn(all_cells()),
                         [](const auto& info) {
                           const Cell& cell = info.param;
                           return cell.optimizer + "_" + cell.precision + "_" + cell.state + "_" +
                                  cell.clip;
                         });

}  // namespace
}  // namespace gigagpt
