// For tests only: small GPTs, the data they train on, and runs of them.
#pragma once

#include <ATen/ATen.h>

#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/testing.h"
#include "formats/dataset.h"
#include "formats/tokenizer.h"
#include "gpt/config.h"
#include "gpt/data.h"
#include "gpt/train.h"

namespace gigagpt {

// Writes a data set of `tokens` tokens in a periodic, hence learnable, order below `vocab_size`.
inline void write_dataset(const Path& folder, int64_t vocab_size, int64_t tokens) {
  std::filesystem::create_directories(folder);
  std::vector<uint16_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(uint16_t((i * i / 7 + i) % vocab_size));
  for (const char* split : {"train.bin", "val.bin"}) {
    File file = File::create(folder / split);
    file.write(std::as_bytes(std::span(ids)));
  }
  formats::write_dataset_meta(folder, {vocab_size, 2});
  std::vector<char32_t> alphabet;
  for (int64_t i = 0; i < vocab_size; ++i) alphabet.push_back(char32_t('!' + i));
  formats::Tokenizer(alphabet).save(folder);
}

inline GPTConfig tiny_config(const Path& folder) {
  GPTConfig config;
  config.width = 20;
  config.depth = 2;
  config.heads = 2;
  config.vocab_size = 31;
  config.max_position_embeddings = 16;
  config.sequence_length = 12;
  config.batch_size = 6;
  config.micro_batch_size = 4;  // does not divide the batch
  config.num_steps = 8;
  config.optim.warmup_steps = 2;
  config.optim.learning_rate = 1e-2;
  config.precision = "fp32";
  config.dataset = (folder / "data").string();
  config.out_dir = (folder / "out").string();
  return config;
}

// The chunks that a step of the run reads, told by a data set of as many tokens in which each token
// is the number of its chunk.
inline std::vector<int64_t> chunks_of(GPTConfig config, int64_t step, const Path& scratch) {
  const auto tokens = int64_t(std::filesystem::file_size(config.dataset + "/train.bin") / 2);
  config.dataset = scratch.string();
  config.vocab_size = 60000;
  std::vector<uint16_t> ids;
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(uint16_t(i / config.sequence_length));
  std::filesystem::create_directories(scratch);
  File::create(scratch / "train.bin").write(std::as_bytes(std::span(ids)));
  formats::write_dataset_meta(scratch, {config.vocab_size, 2});
  std::vector<int64_t> chunks;
  for (const auto& batch : TokenData(config, "train").train_batch(step)) {
    for (int64_t row = 0; row < batch.input.size(0); ++row)
      chunks.push_back(batch.input[row][0].item<int64_t>());
  }
  return chunks;
}

// A copy of the run's data, in which one step meets random tokens.
inline void write_spoiled(const GPTConfig& config, int64_t step, const Path& folder) {
  std::filesystem::copy(config.dataset, folder, std::filesystem::copy_options::recursive);
  const Path file = folder / "train.bin";
  std::string bytes = read_text(file);
  std::mt19937_64 random(7);
  for (const int64_t chunk : chunks_of(config, step, folder.string() + ".numbers")) {
    for (int64_t i = 0; i < config.sequence_length; ++i)
      bytes[size_t(2 * (chunk * config.sequence_length + i))] = char(random() % 31);
  }
  File::create(file).write(bytes);
}

// Events of a run that is stopped after `stop_after` steps (0: never).
inline TrainEvents quiet(std::vector<formats::StepMetrics>* log = nullptr, int64_t stop_after = 0) {
  const auto steps = std::make_shared<int64_t>(0);
  return {[=](const formats::StepMetrics& m) {
            if (log != nullptr) log->push_back(m);
          },
          [](double) { return true; },
          [](double) { return true; },
          [](double) { return true; },
          [=] { return ++*steps == stop_after; },
          [](const std::string&) {},
          [](const engine::Plan&, const std::string&) {}};
}

class Training : public testing::Test {
 protected:
  Training() : config_(tiny_config(folder_.path())) { write_dataset(config_.dataset, 31, 1000); }

  Path out(const std::string& name) const { return folder_.path() / name; }

  TemporaryDirectory folder_;
  GPTConfig config_;
};

inline std::string all_bytes(const Path& checkpoint) {
  return read_text(checkpoint / "model.safetensors") +
         read_text(checkpoint / "optimizer.safetensors");
}

}  // namespace gigagpt
