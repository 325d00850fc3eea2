// `gigagpt inspect` on checkpoints, runs and foreign things: whole, damaged and made up.
#include "cli/inspect.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/lock.h"
#include "cli/testing.h"
#include "formats/hf_gpt2.h"
#include "formats/json.h"
#include "formats/run_files.h"
#include "gpt/config.h"

namespace gigagpt::cli {
namespace {

namespace fs = std::filesystem;

// A checkpoint as a run writes it; all weights are 3, the moments 2 and 1.
class InspectCheckpoint : public testing::Test {
 protected:
  static constexpr int64_t kDepth = 2, kWidth = 8;

  void SetUp() override { write(true); }

  void write(bool sums) {
    fs::create_directories(path_);
    const formats::HfGpt2Config hf{kDepth, 2, kWidth, 16, 31};
    formats::write_hf_config(path_, hf);
    formats::TrainerState state{
        8, 576, {{"batch_size", "6"}, {"store", "auto"}}, {{"gigagpt", "0.1.0"}}};
    std::vector<formats::TensorInfo> weights, moments;
    const GPTConfig config = GPTConfig::of_checkpoint(path_);
    for (const auto& tensor : engine::stored_tensors(config.layers()))
      weights.push_back({tensor.name, "F32", tensor.shape});
    for (const char* kept : {"exp_avg/", "exp_avg_sq/"}) {
      for (const auto& layer : config.layers()) {
        for (const auto& param : layer.params)
          moments.push_back({kept + layer.prefix + param.name, "F32", param.shape});
      }
    }
    state.files = {write_file("model.safetensors", weights, [](const auto&) { return 3.0F; }),
                   write_file("optimizer.safetensors", moments, [](const std::string& name) {
                     return name.starts_with("exp_avg/") ? 2.0F : 1.0F;
                   })};
    formats::write_trainer_state(path_, state);
    if (sums) return;
    auto root = formats::parse_json<nlohmann::ordered_json>(read_text(path_ / "trainer_state.json"),
                                                            "trainer_state.json");
    root.erase("files"), root.erase("crc32c");  // as it was before there were sums
    write_text_atomically(path_ / "trainer_state.json", root.dump());
  }

  formats::FileSum write_file(const char* name, const std::vector<formats::TensorInfo>& tensors,
                              const std::function<float(const std::string&)>& value) {
    formats::SafetensorsWriter writer(path_ / name, tensors, {{"format", "pt"}});
    for (const auto& tensor : tensors) {
      const std::vector<float> values(size_t(tensor.count()), value(tensor.name));
      writer.write(std::as_bytes(std::span(values)));
    }
    writer.finish();
    return {name, writer.file_bytes(), writer.crc32c()};
  }

  TemporaryDirectory directory_;
  Path path_ = directory_ / "checkpoint_8";
};

TEST_F(InspectCheckpoint, SaysWhatItHolds) {
  const Outcome whole = look(path_ / "");
  EXPECT_EQ(whole.error, "");
  EXPECT_TRUE(has(whole.text, "checkpoint_8: a checkpoint of step 8, after 576 tokens\n"));
  EXPECT_TRUE(
      has_line(whole.text, "model depth 2, width 8, heads 2, vocab_size 31, 16 positions\n"));
  EXPECT_TRUE(has_line(whole.text, "config batch_size 6, store auto\n"));
  EXPECT_TRUE(has_line(whole.text, "computed by gigagpt 0.1.0\n"));
  EXPECT_TRUE(has_line(whole.text, "moments in optimizer.safetensors\n"));
  EXPECT_TRUE(has(whole.text, "bytes): checksum matches\n"));
  EXPECT_TRUE(
      has_line(whole.text, fmt::format("embedding 376 [31,8] [16,8] {:.6g} {:.6g} {:.6g}\n",
                                       3 * std::sqrt(376), 2 * std::sqrt(376), std::sqrt(376))));
  EXPECT_TRUE(has_line(whole.text, "decoder.1 872 6*[8] [24,8] [24] [8,8] [32,8] [32] [8,32] "));
  write(false);
  const Outcome old = look(path_);
  EXPECT_EQ(old.error, "");
  EXPECT_TRUE(has(old.text, ": no checksums\n"));
  fs::remove(path_ / "trainer_state.json");
  fs::remove(path_ / "optimizer.safetensors");
  const Outcome alone = look(path_);
  EXPECT_EQ(alone.error, "");
  EXPECT_TRUE(has_line(alone.text, "moments none: weights alone\n"));
}

TEST_F(InspectCheckpoint, ListsAllThatIsWrong) {
  const std::string model = (path_ / "model.safetensors").string();
  flip_bit(model, fs::file_size(model) - 5);
  const Outcome one = look(path_);
  EXPECT_TRUE(has(one.error, model + ": its "));
  EXPECT_TRUE(has(one.error, "as trainer_state.json says: file or disk are damaged"));
  fs::resize_file(path_ / "optimizer.safetensors", 3000);
  const Outcome two = look(path_);
  EXPECT_TRUE(has(two.error, "2 things are wrong with this checkpoint"));
  EXPECT_TRUE(has(two.text, "optimizer.safetensors: its header of") ||
              has(two.text, "it is truncated"));
  fs::remove(path_ / "optimizer.safetensors");
  EXPECT_TRUE(has(look(path_).text, "optimizer.safetensors is missing"));
  fs::remove(model);
  EXPECT_TRUE(has(look(path_).text, "model.safetensors is missing"));
  write(false);
  formats::write_hf_config(path_, {1 << 24, 2, kWidth, 16, 31});
  EXPECT_TRUE(has(look(path_).error, "n_layer is 16777216, not a whole number from 1 to 262144"));
  formats::write_hf_config(path_, {1 << 18, 2, kWidth, 16, 31});
  EXPECT_TRUE(has(look(path_).error, "n_layer is 262144, but its weights are "));
  formats::write_hf_config(path_, {kDepth, 2, 16, 16, 31});
  EXPECT_TRUE(has(look(path_).error, "is [31, 8], but this configuration needs [31, 16]"));
}

TEST_F(InspectCheckpoint, DamageNeverCrashes) {
  std::mt19937_64 random(12);
  for (const char* name : {"trainer_state.json", "config.json", "model.safetensors"}) {
    const std::string whole = read_text(path_ / name);
    for (int i = 0; i < 300; ++i) {
      File::create(path_ / name).write(damaged(whole, random));
      look(path_);
      look(path_ / name);
    }
    File::create(path_ / name).write(whole);
  }
  EXPECT_EQ(look(path_).error, "");
}

TEST_F(InspectCheckpoint, OfASafetensorsFileEachTensor) {
  const Outcome whole = look(path_ / "model.safetensors");
  EXPECT_EQ(whole.error, "");
  EXPECT_TRUE(has(whole.text, "model.safetensors: safetensors, "));
  EXPECT_TRUE(has_line(whole.text, "format pt\n"));
  EXPECT_TRUE(has_line(whole.text, fmt::format("transformer.wpe.weight 128 [16,8] F32 {:.6g}\n",
                                               3 * std::sqrt(128))));
  formats::SafetensorsWriter writer(directory_ / "odd",
                                    {{"ids\x1B[2J", "I64", {1}}, {"none", "F32", {0}}}, {});
  writer.write(std::as_bytes(std::span("12345678", 8)));
  writer.finish();
  const Outcome odd = look(directory_ / "odd");
  EXPECT_EQ(odd.error, "");
  EXPECT_TRUE(has_line(odd.text, "ids?[2J 1 [1] I64 -\n"));
  EXPECT_TRUE(has_line(odd.text, "none 0 [0] F32 -\n"));
}

TEST_F(InspectCheckpoint, OfARunWhatIsInItsOutDir) {
  const Path out = directory_.path();
  directory_.write(
      "metrics.jsonl",
      "{\"step\":7,\"loss\":3}\n{\"step\":8,\"loss\":2.5,\"note\":\"x\"}\n{\"step\":9,\"lo");
  const Outcome idle = look(out);
  EXPECT_EQ(idle.error, "");
  EXPECT_TRUE(has(idle.text, ": a run's out_dir, which no process uses\n"));
  EXPECT_TRUE(has_line(idle.text, "store none"));
  EXPECT_TRUE(has_line(idle.text, "last metrics step 8, loss 2.5, note \"x\"\n"));
  EXPECT_TRUE(has_line(idle.text, "checkpoint_8 8 576\n"));
  {
    const DirectoryLock lock(out, "out_dir", "training");
    EXPECT_TRUE(has(look(out).text, ": a run's out_dir, in use by process "));
  }
  directory_.write("checkpoint_12/trainer_state.json", "{");
  const Outcome damaged = look(out);
  EXPECT_TRUE(has(damaged.error, "checkpoint_12/trainer_state.json"));
  EXPECT_TRUE(has_line(damaged.text, "checkpoint_12 12 damaged\n"));
  directory_.write("model.store", "x");
  EXPECT_TRUE(has(look(out).text, "which holds no completed state"));
}

TEST(Inspect, SaysWhatForeignThingsSeemToBe) {
  const TemporaryDirectory directory;
  const auto error_of = [&](const Path& path) {
    const Outcome outcome = look(path);
    EXPECT_EQ(outcome.text, "");
    return outcome.error;
  };
  for (const auto& [content, seems] : std::vector<std::pair<std::string, std::string>>{
           {"", "empty"},
           {"some text\n", "text"},
           {"{\"a\": 1}", "JSON"},
           {std::string(9000, '\0'), "zeros, as of a store that was never completed"},
           {"\x7F"
            "ELF\x01",
            "binary data of another program, or damaged"}}) {
    const Path file = directory.write("x/file", content);
    EXPECT_TRUE(error_of(file).ends_with("it seems to be " + seems)) << error_of(file);
  }
  EXPECT_TRUE(has(error_of(directory.write("x/a.safetensors", "short")), "5 bytes are too few"));
  EXPECT_TRUE(has(error_of(directory / "no"), "no: No such file or directory"));
  EXPECT_TRUE(has(error_of("/dev/null"), "is neither a file nor a directory"));
  fs::create_directory(directory / "empty");
  EXPECT_TRUE(has(error_of(directory / "empty"), "is an empty directory"));
  directory.write("data/train.bin", "");
  directory.write("data/val.bin", "");
  EXPECT_TRUE(has(error_of(directory / "data"), "seems to be a data set"));
  EXPECT_TRUE(has(error_of(directory / "x"), "seems to be another directory"));
  directory.write(".checkpoint_3.gigagpt-partial/config.json", "{}");
  EXPECT_TRUE(has(error_of(directory / ".checkpoint_3.gigagpt-partial"), "left half-written"));
}

}  // namespace
}  // namespace gigagpt::cli
