// Models of other programs: the directories of tools/hf_models.py, against the logits that PyTorch
// computed from the same files.
#include <gtest/gtest.h>

#include "engine/run/checkpoint.h"
#include "gpt/model.h"
#include "gpt/testing.h"
#include "ops/testing.h"

namespace gigagpt {
namespace {

using at::Tensor;
using formats::SafetensorsReader;

class Import : public testing::TestWithParam<const char*> {
 protected:
  Import() : expected_(model_ / "expected.safetensors") {}

  // As I64 and F64.
  Tensor expected(const std::string& name) const {
    const auto bytes = expected_.bytes(name);
    const auto type = name == "tokens" ? at::kLong : at::kDouble;
    const auto& shape = expected_.info(name).shape;
    return at::from_blob(const_cast<std::byte*>(bytes.data()), shape, type).clone();
  }

  Tensor logits(const Path& checkpoint, const std::string& store) const {
    GPTConfig config = GPTConfig::of_checkpoint(checkpoint);
    config.precision = "fp32";
    config.storage.store = store;
    config.out_dir = folder_.path().string();
    auto gpt = make_gpt(config, /*training=*/false);
    engine::load_checkpoint(checkpoint, gpt.store, /*optimizer=*/false, 0, {});
    return gpt.executor.infer({expected("tokens")}, {});
  }

  // A run that goes on from the model, for one step that changes nothing.
  Path pass_through() {
    GPTConfig config = GPTConfig::of_checkpoint(model_);
    config.sequence_length = 12;
    config.batch_size = 2;
    config.num_steps = 1;
    config.optim.learning_rate = 0;
    config.precision = "fp32";
    config.dropout = 0;
    config.saves.checkpoint_path = model_.string();
    config.dataset = (folder_.path() / "data").string();
    config.out_dir = (folder_.path() / "out").string();
    write_dataset(config.dataset, config.vocab_size, 200);
    engine::Cluster alone;
    train(config, {{}, alone}, quiet());
    return folder_.path() / "out" / "checkpoint_1";
  }

  const Path model_ = Path(GIGAGPT_BINARY_DIR) / "hf_models" / GetParam();
  TemporaryDirectory folder_;
  SafetensorsReader expected_;
};

// The tolerance is that of the fixtures in model_test.cpp, for logits of fp32.
TEST_P(Import, LogitsAreThoseOfPyTorch) {
  const Tensor wanted = expected("logits");
  EXPECT_GT(wanted.std().item<double>(), 0.1) << "a flat model would show nothing";
  const Tensor in_ram = logits(model_, "memory");
  ops::expect_close(in_ram, wanted, 4e-5);
  ops::expect_same_bits(logits(model_, (folder_.path() / "model.store").string()), in_ram);
}

TEST_P(Import, TrainingGoesOnFromItAndWritesTheSameModel) {
  const Tensor before = logits(model_, "memory");
  const Path checkpoint = pass_through();
  ops::expect_same_bits(logits(checkpoint, "memory"), before);
  // Bit for bit, in our names and fp32.
  const auto layout = engine::stored_tensors(GPTConfig::of_checkpoint(model_).layers());
  const formats::StoredWeights theirs(model_, layout), ours(checkpoint, layout);
  for (const auto& tensor : layout) {
    if (tensor.foreign) continue;
    const size_t count = size_t(ours.file_of(tensor).info(tensor.name).count());
    std::vector<float> a(count), b(count);
    theirs.read_floats(tensor, 0, a);
    ours.read_floats(tensor, 0, b);
    EXPECT_EQ(a, b) << tensor.name;
  }
  EXPECT_EQ(GPTConfig::of_checkpoint(checkpoint).activation,
            GPTConfig::of_checkpoint(model_).activation);
}

INSTANTIATE_TEST_SUITE_P(Layouts, Import,
                         testing::Values("gpt2", "cerebras", "half", "shards", "shards_head",
                                         "default"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace gigagpt
