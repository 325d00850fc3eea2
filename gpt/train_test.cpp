// Training end to end: learning, data order, checkpoints, resuming, evaluation and sampling.
#include "gpt/train.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "engine/run/checkpoint.h"
#include "formats/safetensors.h"
#include "gpt/data.h"
#include "gpt/eval.h"
#include "gpt/model.h"
#include "gpt/sample.h"
#include "gpt/testing.h"
#include "ops/testing.h"

namespace gigagpt {
namespace {

TEST_F(Training, ResumedEqualsUninterruptedBitForBit) {
  for (const char* precision : {"fp32", "bf16"}) {
    config_.precision = precision;
    config_.dropout = 0.1;
    config_.out_dir = out(std::string("whole_") + precision).string();
    train(config_, {}, quiet());
    const std::string whole = all_bytes(Path(config_.out_dir) / "checkpoint_8");

    config_.out_dir = out(std::string("parts_") + precision).string();
    config_.saves.checkpoint_path.reset();
    config_.saves.checkpoint_minutes = 0;
    config_.saves.checkpoint_steps = 2;  // a checkpoint by step, then one by the stop
    train(config_, {}, quiet(nullptr, 3));
    EXPECT_EQ(engine::checkpoint_steps(config_.out_dir), (std::vector<int64_t>{2, 3}));
    config_.saves.checkpoint_path = "latest";
    config_.saves.checkpoint_minutes = 1e-9;  // then one by time after every step
    train(config_, {}, quiet(nullptr, 2));
    train(config_, {}, quiet());
    EXPECT_EQ(engine::checkpoint_steps(config_.out_dir), (std::vector<int64_t>{6, 7, 8}));
    EXPECT_TRUE(all_bytes(Path(config_.out_dir) / "checkpoint_8") == whole) << precision;
  }
}

TEST_F(Training, DroppedStepSavesTheLastCompletedOne) {
  std::vector<formats::StepMetrics> log;
  TrainEvents events = quiet(&log);
  events.step_progress = [&](double share) { return log.size() < 3 || share < 0.5; };
  train(config_, {}, events);
  EXPECT_EQ(engine::checkpoint_steps(config_.out_dir), std::vector<int64_t>{3});
  config_.saves.checkpoint_path = "latest";
  train(config_, {}, quiet());
  const std::string resumed = all_bytes(Path(config_.out_dir) / "checkpoint_8");
  config_.out_dir = out("whole").string();
  config_.saves.checkpoint_path.reset();
  train(config_, {}, quiet());
  EXPECT_TRUE(all_bytes(Path(config_.out_dir) / "checkpoint_8") == resumed);
}

// As the 13B of Cerebras-GPT does: 4 steps of 6 sequences, then on as step 2 of 12.
TEST_F(Training, GoesOnWithAnotherBatchSizeByTokens) {
  config_.num_steps = 4;
  train(config_, {}, quiet());
  config_.saves.checkpoint_path = config_.out_dir + "/checkpoint_4";
  config_.out_dir = out("phase2").string();
  config_.num_steps = 5;
  config_.batch_size = 12;
  std::vector<formats::StepMetrics> log;
  train(config_, {}, quiet(&log));
  EXPECT_EQ(log.front().step, 3);
  EXPECT_EQ(log.back().tokens, 5 * 12 * 12);
  config_.batch_size = 7;
  config_.out_dir = out("phase3").string();
  EXPECT_ERROR(train(config_, {}, quiet()), "which is not a multiple of this batch");
  config_.out_dir = out("phase2").string();
  config_.saves.checkpoint_path = "latest";
  config_.batch_size = 6;
  EXPECT_ERROR(train(config_, {}, quiet()),
               "going on from step 5 as step 10 needs another out_dir");
}

TEST_F(Training, MetricsHaveALineAStepAndNoneTwice) {
  config_.eval_steps = 4;
  config_.saves.checkpoint_steps = 3;
  train(config_, {}, quiet(nullptr, 5));
  std::filesystem::remove_all(Path(config_.out_dir) / "checkpoint_5");  // as after a crash
  config_.saves.checkpoint_path = "latest";
  train(config_, {}, quiet());
  std::ifstream lines(Path(config_.out_dir) / "metrics.jsonl");
  int64_t step = 0;
  for (std::string line; std::getline(lines, line);) {
    ++step;
    const std::string start = fmt::format("{{\"step\":{},\"tokens\":{},\"loss\":", step, step * 72);
    EXPECT_TRUE(line.starts_with(start)) << line;
    EXPECT_EQ(line.find("val_loss") != std::string::npos, step % 4 == 0) << line;
    for (const char* key : {"grad_norm", "lr", "tokens_per_s", "mfu", "step_ms", "rss_gb"}) {
      EXPECT_NE(line.find(key), std::string::npos) << key;
    }
  }
  EXPECT_EQ(step, 8);
}

TEST_F(Training, RefusesToOverwriteARun) {
  config_.saves.checkpoint_steps = 4;
  train(config_, {}, quiet());
  EXPECT_ERROR(train(config_, {}, quiet()), "already holds a run up to step 8");
  config_.saves.checkpoint_path = config_.out_dir + "/checkpoint_4";
  EXPECT_ERROR(train(config_, {}, quiet()), "already holds a run up to step 8");
  config_.saves.checkpoint_path = "latest";
  train(config_, {}, quiet());  // complete: nothing to do, and no harm
  EXPECT_EQ(engine::checkpoint_steps(config_.out_dir), (std::vector<int64_t>{4, 8}));
}

TEST_F(Training, CheckpointIsInHuggingFaceLayout) {
  config_.bias = false;
  train(config_, {}, quiet());
  const Path checkpoint = Path(config_.out_dir) / "checkpoint_8";
  const formats::SafetensorsReader reader(checkpoint / "model.safetensors");
  EXPECT_EQ(reader.info("transformer.h.1.attn.c_attn.weight").shape,
            (std::vector<int64_t>{20, 60}));
  EXPECT_EQ(reader.info("transformer.h.0.mlp.c_fc.weight").shape, (std::vector<int64_t>{20, 80}));
  std::vector<float> zeros(60, 1.0F);
  reader.read_floats("transformer.h.1.attn.c_attn.bias", zeros);
  EXPECT_EQ(zeros, std::vector<float>(60, 0.0F));
  auto gpt = make_gpt(config_, /*training=*/true);
  engine::load_checkpoint(checkpoint, gpt.store, /*optimizer=*/true, 8, {});
  std::vector<float> stored(20 * 60);
  reader.read_floats("transformer.h.1.attn.c_attn.weight", stored);
  const auto ours = gpt.store.read(engine::Array::kMaster, "decoder.1.attn.proj_qkv.weight");
  for (size_t i = 0; i < 20; ++i) {
    for (size_t o = 0; o < 60; ++o) ASSERT_EQ(stored[i * 60 + o], ours[o * 20 + i]);
  }
  const GPTConfig read = GPTConfig::of_checkpoint(checkpoint);
  EXPECT_FALSE(read.bias);
  EXPECT_EQ(read.heads, config_.heads);
  const auto state = formats::read_trainer_state(checkpoint);
  EXPECT_EQ(state.tokens, 8 * 72);
  EXPECT_FALSE(state.manifest.empty());
}

TEST_F(Training, CheckpointOfAnotherModelIsRefused) {
  train(config_, {}, quiet());
  config_.saves.checkpoint_path = config_.out_dir + "/checkpoint_8";
  config_.out_dir = out("other").string();
  config_.width = 24;
  EXPECT_ERROR(train(config_, {}, quiet()), "is [31, 20], but this configuration needs [31, 24]");
  config_.saves.checkpoint_path = out("nowhere").string();
  EXPECT_ERROR(train(config_, {}, quiet()), "nowhere");
}

TEST_F(Training, LossThatIsNotFiniteStopsAndKeepsTheLastCheckpoint) {
  config_.num_steps = 2;
  train(config_, {}, quiet());
  const Path checkpoint = Path(config_.out_dir) / "checkpoint_2";
  const std::string before = all_bytes(checkpoint);
  config_.num_steps = 400;
  config_.saves.checkpoint_path = "latest";
  config_.optim.learning_rate = 1e30;
  config_.saves.checkpoint_steps = 0;
  EXPECT_ERROR(train(config_, {}, quiet()), "is not finite, first in layer");
  EXPECT_EQ(engine::checkpoint_steps(config_.out_dir), std::vector<int64_t>{2});
  EXPECT_TRUE(all_bytes(checkpoint) == before);
}

TEST_F(Training, BadDataLateInARunLosesNothing) {
  std::vector<uint16_t> ids(24 * 6 * 12 + 1, 3);
  ids.back() = 31;  // in some batch of the first epoch
  write_dataset(config_.dataset, 31, 1000);
  File::create(Path(config_.dataset) / "train.bin").write(std::as_bytes(std::span(ids)));
  config_.num_steps = 24;
  std::vector<formats::StepMetrics> log;
  EXPECT_ERROR(train(config_, {}, quiet(&log)),
               "train.bin: token 31 at position 1728 is not below");
  ASSERT_FALSE(log.empty());
  EXPECT_EQ(engine::checkpoint_steps(config_.out_dir), std::vector<int64_t>{log.back().step});
}

TEST_F(Training, DataMayGoAwayWhileTraining) {
  TrainEvents events = quiet();
  events.step_done = [&](const formats::StepMetrics&) {
    std::filesystem::remove_all(config_.dataset);
  };
  train(config_, {}, events);
  EXPECT_TRUE(std::filesystem::exists(config_.out_dir + "/checkpoint_8/tokenizer.json"));
}

TEST_F(Training, OneBatchIsMemorised) {
  write_dataset(out("one"), 31, 6 * 12 + 1);  // exactly one batch
  config_.dataset = out("one").string();
  config_.num_steps = 400;
  config_.optim.weight_decay = 0;
  std::vector<formats::StepMetrics> log;
  train(config_, {}, quiet(&log));
  EXPECT_NEAR(log.front().loss, std::log(31.0), 0.1) << "starts from the uniform guess";
  EXPECT_LT(log.back().loss, 0.05);
}

TEST_F(Training, SgdLearnsToo) {
  config_.optim.optimizer = "sgd";
  config_.optim.learning_rate = 0.1;
  config_.num_steps = 150;
  std::vector<formats::StepMetrics> log;
  train(config_, {}, quiet(&log));
  EXPECT_LT(log.back().loss, log.front().loss - 0.3);
}

TEST_F(Training, EachEpochSeesEveryChunkOnceInANewOrder) {
  config_.batch_size = 5;
  config_.micro_batch_size = 2;
  const TokenData data(config_, "train");
  const int64_t chunks = 999 / 12;
  std::vector<std::vector<int64_t>> epochs(2);
  for (int64_t step = 0; step * 5 < 2 * chunks; ++step) {
    int64_t i = step * 5;
    for (const auto& batch : data.train_batch(step)) {
      EXPECT_LE(batch.input.size(0), 2);
      for (int64_t row = 0; row < batch.input.size(0); ++row, ++i) {
        // Neighbours overlap by one, so labels are the inputs moved on.
        EXPECT_TRUE(
            at::equal(batch.input[row].narrow(0, 1, 11), batch.target[row].narrow(0, 0, 11)));
        int64_t hash = 0;
        for (int64_t t = 0; t < 12; ++t) hash = hash * 31 + batch.input[row][t].item<int64_t>();
        if (i < 2 * chunks) epochs[size_t(i / chunks)].push_back(hash);
      }
    }
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_EQ(std::multiset<int64_t>(epochs[0].begin(), epochs[0].end()),
            std::multiset<int64_t>(epochs[1].begin(), epochs[1].end()));
}

TEST_F(Training, BatchesAreAFunctionOfSeedAndStep) {
  const TokenData data(config_, "train"), again(config_, "train");
  EXPECT_TRUE(at::equal(data.train_batch(3)[1].input, again.train_batch(3)[1].input));
  EXPECT_FALSE(at::equal(data.train_batch(3)[0].input, data.train_batch(4)[0].input));
  config_.seed = 1;
  EXPECT_FALSE(
      at::equal(data.train_batch(3)[0].input, TokenData(config_, "train").train_batch(3)[0].input));
}

TEST_F(Training, DataMustFitTheConfig) {
  config_.vocab_size = 30;
  EXPECT_ERROR(train(config_, {}, quiet()), "set vocab_size: 31");
  config_.vocab_size = 31;
  config_.max_position_embeddings = config_.sequence_length = 1000;
  EXPECT_ERROR(train(config_, {}, quiet()), "holds 1000 tokens, but at least 1001");
  config_.dataset = "no_such_data";
  EXPECT_ERROR(train(config_, {}, quiet()), "no folder no_such_data or data/no_such_data");
  EXPECT_FALSE(std::filesystem::exists(config_.out_dir)) << "nothing is written before all is well";
}

// Streamed from a file, with evaluations and snapshots on the way, stopped and gone on with: the
// weights are those of a run in RAM.
TEST_F(Training, StreamedEqualsResidentBitForBit) {
  config_.dropout = 0.1;
  config_.eval_steps = 3;
  config_.batch_size = 12;  // three micro-batches
  for (const char* precision : {"fp32", "bf16"}) {
    config_.precision = precision;
    config_.saves.checkpoint_path.reset();
    config_.storage.store = "memory";
    config_.out_dir = out(std::string("ram_") + precision).string();
    std::vector<formats::StepMetrics> resident;
    train(config_, {}, quiet(&resident));
    const Path of_ram = Path(config_.out_dir) / "checkpoint_8";
    for (const char* recompute : {"on", "off"}) {
      config_.storage.recompute = recompute;
      config_.out_dir = out(std::string("file_") + precision + recompute).string();
      config_.storage.store = config_.out_dir + ".store";
      config_.saves.checkpoint_path = "latest";
      std::vector<formats::StepMetrics> streamed;
      train(config_, {}, quiet(&streamed, 3));
      train(config_, {}, quiet(&streamed));
      const Path snapshot = Path(config_.out_dir) / "checkpoint_8";
      EXPECT_EQ(read_text(snapshot / "model.safetensors"), read_text(of_ram / "model.safetensors"));
      EXPECT_FALSE(std::filesystem::exists(snapshot / "optimizer.safetensors"));
      ASSERT_EQ(streamed.size(), resident.size());
      for (size_t i = 0; i < resident.size(); ++i) {
        EXPECT_EQ(streamed[i].loss, resident[i].loss);
        EXPECT_EQ(streamed[i].grad_norm, resident[i].grad_norm);
        EXPECT_EQ(streamed[i].val_loss, resident[i].val_loss);
        EXPECT_GT(streamed[i].io.write_bytes, 0U);
        EXPECT_EQ(resident[i].io.write_bytes, 0U);
      }
    }
    config_.storage.recompute = "auto";
  }
}

TEST_F(Training, AStoreFileIsContinuedOrRefused) {
  config_.storage.store = out("x.store").string();
  train(config_, {}, quiet(nullptr, 2));
  EXPECT_ERROR(train(config_, {}, quiet()), "already holds a run at step 2; continue it with");
  GPTConfig other = config_;
  other.saves.checkpoint_path = "latest";
  other.batch_size = 4;
  EXPECT_ERROR(train(other, {}, quiet()), "is of a run with 72 tokens a step, not 48");
  other = config_;
  other.saves.checkpoint_path = "latest";
  other.width = 24;
  EXPECT_ERROR(train(other, {}, quiet()), "holds another model");
  // A newer checkpoint that is not of this file counts more; the file is made anew from it.
  std::filesystem::remove_all(config_.out_dir);
  GPTConfig resident = config_;
  resident.storage.store = "memory";
  train(resident, {}, quiet(nullptr, 5));
  config_.saves.checkpoint_path = "latest";
  std::vector<formats::StepMetrics> log;
  train(config_, {}, quiet(&log));
  EXPECT_EQ(log.front().step, 6);
}

// A snapshot of a file store holds no moments: going on from it starts them anew.
TEST_F(Training, GoesOnFromASnapshotWithoutItsFile) {
  config_.storage.store = out("x.store").string();
  train(config_, {}, quiet(nullptr, 4));
  std::filesystem::remove(config_.storage.store);
  config_.storage.store = "memory";
  config_.saves.checkpoint_path = "latest";
  std::vector<formats::StepMetrics> log;
  train(config_, {}, quiet(&log));
  EXPECT_EQ(log.front().step, 5);
}

TEST_F(Training, StreamedModelsAreEvaluatedAndSampledLikeOthers) {
  train(config_, {}, quiet());
  const Path checkpoint = Path(config_.out_dir) / "checkpoint_8";
  const TokenData data(config_, "val");
  const auto loss_of = [&](const std::string& store) {
    GPTConfig config = config_;
    config.storage.store = store;
    auto gpt = make_gpt(config, /*training=*/false);
    engine::load_checkpoint(checkpoint, gpt.store, /*optimizer=*/false, 0, {});
    return evaluate(gpt.executor, data, config, [](double) { return true; })->loss;
  };
  EXPECT_EQ(loss_of("file"), loss_of("memory"));
  EXPECT_FALSE(std::filesystem::exists("file")) << "only scratch is used";
  const auto text_of = [&](const std::string& store) {
    GPTConfig config = GPTConfig::of_checkpoint(checkpoint);
    config.storage.store = store;
    config.out_dir = folder_.path().string();
    std::vector<int32_t> all;
    Sampler(checkpoint, formats::Tokenizer::load(checkpoint), config, {})
        .generate("#%&", {{1.0, 0, 0}, 30, 1}, [&](int32_t token, auto) {
          all.push_back(token);
          return true;
        });
    return all;
  };
  EXPECT_EQ(text_of("file"), text_of("memory"));
}

// 1000 tokens are 83 chunks of 12 and a rest of 3: every label counts once.
TEST_F(Training, EvaluationCoversEveryToken) {
  auto gpt = make_gpt(config_, /*training=*/false);
  gpt.store.initialise(1, {});
  const TokenData data(config_, "val");
  const auto go = [](double) { return true; };
  const auto all = evaluate(gpt.executor, data, config_, go);
  EXPECT_EQ(all->tokens, 999);
  double sum = 0;
  for (int64_t i = 0; i < data.eval_sequences(); ++i) {
    const auto batches = data.eval_batch(i, 1);
    ASSERT_EQ(batches.size(), 1U);
    sum += gpt.executor.evaluate(batches, {})[0] * double(batches[0].target.numel());
  }
  EXPECT_NEAR(all->loss, sum / 999, 1e-6);
  EXPECT_FALSE(evaluate(gpt.executor, data, config_, [](double) { return false; }));
  config_.eval_batches = 2;
  EXPECT_EQ(evaluate(gpt.executor, data, config_, go)->tokens, 2 * 6 * 12);
}

TEST_F(Training, SamplesAreAFunctionOfTheSeedAndOutgrowTheContext) {
  train(config_, {}, quiet());
  const Path checkpoint = Path(config_.out_dir) / "checkpoint_8";
  Sampler sampler(checkpoint, formats::Tokenizer::load(checkpoint),
                  GPTConfig::of_checkpoint(checkpoint), {});
  const auto text = [&](const std::string& prompt, uint64_t seed) {
    std::string all;
    sampler.generate(prompt, {{1.0, 0, 0}, 50, seed}, [&](int32_t token, auto logits) {
      EXPECT_EQ(logits.size(), 31U);
      all += sampler.tokenizer().decode(token);
      return true;
    });
    return all;
  };
  EXPECT_EQ(text("#%&", 1).size(), 47U) << "50 with the prompt, though the context is 16";
  EXPECT_EQ(text("#%&", 1), text("#%&", 1));
  EXPECT_NE(text("#%&", 1), text("#%&", 2));
  EXPECT_EQ(text("", 1).size(), 49U);
  EXPECT_EQ(text("################################", 1).size(), 18U) << "longer than the context";
  EXPECT_ERROR(text("\xC3\xA9", 1), "is not in the model's vocabulary");
}

// With a memory, a few tokens at a time, as without, all at once.
TEST_F(Training, ContinuedLogitsEqualThoseOfOnePass) {
  auto gpt = make_gpt(config_, /*training=*/false);
  gpt.store.initialise(2, {});
  const at::Tensor tokens = at::randint(0, 31, {1, 16}, at::kLong);
  const at::Tensor whole = gpt.executor.infer({tokens}, {});
  std::vector<ops::Memory> memories(gpt.model.size(), ops::Memory(16));
  int64_t position = 0;
  for (const int64_t count : {5, 1, 1, 9}) {
    engine::MicroBatch batch{tokens.narrow(1, position, count)};
    batch.positions = at::arange(position, position + count).unsqueeze(0);
    const at::Tensor part = gpt.executor.infer(batch, memories);
    position += count;
    ops::expect_close(part, whole.narrow(1, position - 1, 1), 1e-5);
  }
}

}  // namespace
}  // namespace gigagpt
