// What a run takes from the model that it goes on from.
#include "cli/run_settings.h"

#include <gtest/gtest.h>

#include "base/testing.h"
#include "formats/dataset.h"
#include "formats/hf_gpt2.h"

namespace gigagpt::cli {
namespace {

class RunSettings : public testing::Test {
 protected:
  RunSettings() {
    write_model("gpt2", 5);
    base_ = {{"out_dir", out_, "x.yaml:1"}, {"batch_size", "3", "x.yaml:2"}};
  }

  void write_model(const std::string& name, int64_t depth) {
    std::filesystem::create_directories(folder_ / name);
    formats::write_hf_config(folder_ / name, {.n_layer = depth,
                                              .n_head = 4,
                                              .n_embd = 64,
                                              .n_positions = 128,
                                              .vocab_size = 99,
                                              .activation = "gelu_new",
                                              .dropout = 0.1});
  }

  GPTConfig apply(const std::vector<Setting>& more) {
    auto settings = base_;
    settings.insert(settings.end(), more.begin(), more.end());
    GPTConfig config;
    apply_run_settings(settings, config);
    return config;
  }

  Setting from(const std::string& path, const std::string& origin = "x.yaml:3") {
    return {"checkpoint_path", path, origin};
  }

  TemporaryDirectory folder_;
  const std::string out_ = (folder_ / "out").string(), gpt2_ = (folder_ / "gpt2").string();
  std::vector<Setting> base_;
};

TEST_F(RunSettings, TheVocabularyIsThatOfTheDataUnlessItIsSet) {
  const Path data = folder_ / "data";
  const Setting here = {"dataset", data.string(), "x.yaml:3"};
  EXPECT_EQ(apply({here}).vocab_size, GPTConfig().vocab_size) << "there is no such folder";
  std::filesystem::create_directories(data);
  EXPECT_EQ(apply({here}).vocab_size, GPTConfig().vocab_size) << "nothing says how many";
  formats::write_dataset_meta(data, {2048, 2});
  EXPECT_EQ(apply({here}).vocab_size, 2048);
  EXPECT_EQ(apply({here, {"vocab_size", "4096", "--vocab_size"}}).vocab_size, 4096);
  EXPECT_EQ(apply({here, from(gpt2_)}).vocab_size, 99) << "that of the checkpoint";
}

TEST_F(RunSettings, TheModelIsThatOfTheCheckpoint) {
  const GPTConfig config = apply({from(gpt2_)});
  EXPECT_EQ(config.depth, 5);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.width, 64);
  EXPECT_EQ(config.vocab_size, 99);
  EXPECT_EQ(config.max_position_embeddings, 128);
  EXPECT_EQ(config.activation, "gelu_new");
  EXPECT_EQ(config.sequence_length, 128);  // no longer than the model's
  EXPECT_EQ(config.batch_size, 3);
  EXPECT_EQ(config.dropout, 0.0);  // of this run, not of that one
  EXPECT_EQ(apply({}).depth, GPTConfig().depth);
}

TEST_F(RunSettings, WhatIsSetMustAgree) {
  EXPECT_EQ(apply({from(gpt2_), {"depth", "5", "x.yaml:4"}}).depth, 5);
  EXPECT_ERROR(apply({from(gpt2_), {"depth", "12", "x.yaml:4"}}),
               "x.yaml:4: depth is 12, but the model in " + gpt2_ + " has 5; leave the key out");
  // The last one counts.
  EXPECT_EQ(apply({from(gpt2_), {"depth", "12", "x.yaml:4"}, {"depth", "5", "--depth"}}).depth, 5);
  EXPECT_EQ(apply({from(gpt2_), {"sequence_length", "32", "x.yaml:4"}}).sequence_length, 32);
  EXPECT_EQ(apply({from(gpt2_), {"dropout", "0.2", "x.yaml:4"}}).dropout, 0.2);
}

TEST_F(RunSettings, LatestIsTheRunIfThereIsOneElseWhatItBeganWith) {
  const Setting latest = from("latest", "--checkpoint_path");
  const GPTConfig begins = apply({from(gpt2_), latest});
  EXPECT_EQ(begins.saves.checkpoint_path, gpt2_);
  EXPECT_EQ(begins.depth, 5);
  EXPECT_EQ(apply({latest}).saves.checkpoint_path, "latest");
  write_model("out/checkpoint_2", 7);
  write_model("out/checkpoint_10", 8);
  const GPTConfig goes_on = apply({from(gpt2_), latest});
  EXPECT_EQ(goes_on.saves.checkpoint_path, "latest");
  EXPECT_EQ(goes_on.depth, 8);
  EXPECT_EQ(apply({from(out_)}).depth, 8);
}

TEST_F(RunSettings, AModelThatIsNotOursIsRefusedWithTheReason) {
  TemporaryDirectory other;
  other.write("config.json", R"({"model_type": "llama"})");
  EXPECT_ERROR(apply({from(other.path().string())}), "model_type is \"llama\"");
}

}  // namespace
}  // namespace gigagpt::cli
