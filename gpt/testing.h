// For tests only: small GPTs and the data they train on.
#pragma once

#include <ATen/ATen.h>

#include <fstream>
#include <vector>

#include "base/random.h"
#include "base/testing.h"
#include "formats/dataset.h"
#include "formats/tokenizer.h"
#include "gpt/config.h"

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
  config.warmup_steps = 2;
  config.learning_rate = 1e-2;
  config.precision = "fp32";
  config.dataset = (folder / "data").string();
  config.out_dir = (folder / "out").string();
  return config;
}

}  // namespace gigagpt
