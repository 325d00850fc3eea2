// Documents that share a row, from the data to the text that is sampled.
#include "gpt/documents.h"

#include <gtest/gtest.h>

#include "engine/run/checkpoint.h"
#include "formats/bpe.h"
#include "gpt/eval.h"
#include "gpt/model.h"
#include "gpt/sample.h"
#include "gpt/testing.h"
#include "ops/testing.h"

namespace gigagpt {
namespace {

using at::Tensor;

constexpr int64_t kSeparator = 256;

// Bytes and <|endoftext|>.
formats::Tokenizer tokenizer_with_separator() {
  formats::BpeVocabulary vocabulary;
  for (const uint8_t byte : formats::bytes_in_token_order())
    vocabulary.tokens.push_back(formats::to_byte_level(std::string(1, char(byte))));
  vocabulary.tokens.emplace_back(formats::kEndOfText);
  vocabulary.added = {{int32_t(kSeparator), /*special=*/true, /*normalized=*/false}};
  return formats::Tokenizer(formats::Bpe(std::move(vocabulary)));
}

Tensor rows(const std::vector<std::vector<int64_t>>& values) {
  std::vector<Tensor> all;
  for (const auto& row : values) all.push_back(at::tensor(row));
  return at::stack(all);
}

class Documents : public Training {
 protected:
  Documents() {
    config_.document_mask = true;
    config_.parametrisation.init_std = 0.2;
    config_.vocab_size = kSeparator + 1;
  }

  // Documents of five tokens.
  void write_documents() const {
    std::vector<uint16_t> ids;
    for (int64_t i = 0; i < 1000; ++i)
      ids.push_back(uint16_t(i % 5 == 0 ? kSeparator : i * i % 31));
    for (const char* split : {"train.bin", "val.bin"})
      File::create(Path(config_.dataset) / split).write(std::as_bytes(std::span(ids)));
    formats::write_dataset_meta(config_.dataset, {kSeparator + 1, 2});
    tokenizer_with_separator().save(config_.dataset);
  }
};

TEST(SetDocuments, BeginAtTheirSeparator) {
  engine::MicroBatch batch{rows({{1, 2, 9, 3, 4}, {9, 9, 1, 2, 3}})};
  set_documents(batch, 9);
  EXPECT_TRUE(at::equal(batch.documents, rows({{0, 0, 2, 2, 2}, {0, 1, 1, 1, 1}})));
  EXPECT_TRUE(at::equal(batch.positions, rows({{0, 1, 0, 1, 2}, {0, 0, 1, 2, 3}})));
  engine::MicroBatch one{at::ones({1, 3}, at::kLong)};
  set_documents(one, std::nullopt);
  EXPECT_FALSE(one.documents.defined() || one.positions.defined());
}

TEST(ContinuedText, CountsFromItsDocument) {
  const std::vector<int32_t> tokens = {5, 9, 6, 7, 9, 8};
  const auto batch = continued_text(tokens, 3, 9);
  EXPECT_TRUE(at::equal(batch.input, rows({{7, 9, 8}})));
  EXPECT_TRUE(at::equal(batch.positions, rows({{2, 0, 1}})));
  EXPECT_TRUE(at::equal(batch.documents, rows({{1, 4, 4}})));
  EXPECT_TRUE(at::equal(continued_text(tokens, 3, std::nullopt).positions, rows({{3, 4, 5}})));
}

// Whatever stands before it in the row.
TEST_F(Documents, HaveTheLogitsThatTheyHaveAlone) {
  for (const char* family : {"gpt2", "llama"}) {
    config_.model = family;
    auto gpt = make_gpt(config_, /*training=*/false);
    gpt.store.initialise(3, {});
    Tensor tokens = at::randint(0, kSeparator, {2, 12}, at::kLong);
    tokens[0][4] = tokens[0][9] = tokens[1][1] = kSeparator;
    engine::MicroBatch packed{tokens};
    set_documents(packed, kSeparator);
    const Tensor logits = gpt.executor.infer(packed);
    struct Part {
      int64_t row, begin, length;
    };
    for (const auto [row, begin, length] :
         {Part{0, 0, 4}, Part{0, 4, 5}, Part{0, 9, 3}, Part{1, 0, 1}, Part{1, 1, 11}}) {
      const Tensor alone = gpt.executor.infer({tokens.narrow(0, row, 1).narrow(1, begin, length)});
      ops::expect_close(logits[row].narrow(0, begin, length), alone[0], 1e-5);
    }
  }
}

TEST_F(Documents, AreKeptApartInTrainingAndEvaluation) {
  write_documents();
  const TokenData data(config_, "train");
  for (const auto& batch : data.train_batch(0)) {
    ASSERT_TRUE(batch.documents.defined());
    const Tensor begins = batch.input == kSeparator;
    EXPECT_GT(begins.sum().item<int64_t>(), 0);
    EXPECT_TRUE((batch.positions.masked_select(begins) == 0).all().item<bool>());
  }
  std::vector<formats::StepMetrics> with, without;
  train(config_, {}, quiet(&with));
  const Path checkpoint = Path(config_.out_dir) / "checkpoint_8";
  EXPECT_TRUE(GPTConfig::of_checkpoint(checkpoint).document_mask);
  config_.document_mask = false;
  config_.out_dir = out("without").string();
  train(config_, {}, quiet(&without));
  EXPECT_NE(with.front().loss, without.front().loss);
}

// After <|endoftext|> a model goes on as if nothing had been written before.
TEST_F(Documents, BeginAnewWhereTextIsSampled) {
  write_documents();
  train(config_, {}, quiet());
  const Path checkpoint = Path(config_.out_dir) / "checkpoint_8";
  const GPTConfig config = GPTConfig::of_checkpoint(checkpoint);
  Sampler sampler(checkpoint, tokenizer_with_separator(), config, {});
  const auto first_logits = [&](const std::string& prompt) {
    std::vector<float> logits;
    sampler.generate(prompt, {{0, 0, 0}, 30, 1}, [&](int32_t, std::span<const float> row) {
      logits.assign(row.begin(), row.end());
      return false;
    });
    return logits;
  };
  const auto alone = first_logits("<|endoftext|>DEF"), after = first_logits("ABC<|endoftext|>DEF");
  ASSERT_EQ(alone.size(), after.size());
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(alone[i], after[i], 1e-5);
  EXPECT_GT(std::abs(first_logits("ABCDEF")[0] - alone[0]), 1e-3);
}

TEST_F(Documents, NeedDataThatHasThem) {
  EXPECT_ERROR(TokenData(config_, "train"), "the tokenizer has no <|endoftext|>");
  std::filesystem::remove(Path(config_.dataset) / "tokenizer.json");
  EXPECT_ERROR(TokenData(config_, "train"), "has no tokenizer.json that says");
  formats::write_dataset_meta(config_.dataset, {50257, 2});
  config_.vocab_size = 50257;
  EXPECT_EQ(separator_of(config_), 50256);
  config_.document_mask = false;
  EXPECT_EQ(separator_of(config_), std::nullopt);
}

}  // namespace
}  // namespace gigagpt
