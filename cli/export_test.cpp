#include "cli/export.h"

#include <gtest/gtest.h>

#include <cstring>

#include "cli/testing.h"
#include "formats/gguf.h"
#include "formats/hf_gpt2.h"
#include "formats/tokenizer.h"
#include "gpt/config.h"

namespace gigagpt::cli {
namespace {

using formats::GgufReader;

// A checkpoint whose values tell where they are from: in each tensor they count up from 0.
void write_checkpoint(const Path& directory, int64_t width = 32, int64_t vocab_size = 5) {
  std::filesystem::create_directories(directory);
  formats::HfGpt2Config config;
  config.n_layer = 2;
  config.n_head = 2;
  config.n_embd = width;
  config.n_positions = 4;
  config.vocab_size = vocab_size;
  formats::write_hf_config(directory, config);
  std::vector<formats::TensorInfo> infos;
  for (const auto& tensor : engine::stored_tensors(GPTConfig::of_checkpoint(directory).layers())) {
    if (tensor.foreign) continue;
    infos.push_back({tensor.name, "F32", tensor.shape});
  }
  formats::SafetensorsWriter writer(directory / "model.safetensors", infos, {});
  for (const auto& info : infos) {
    std::vector<float> values(size_t(info.count()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(i);
    writer.write(std::as_bytes(std::span(values)));
  }
  writer.finish();
  formats::Tokenizer({'a', 'b', 'c'}).save(directory);
}

// Exports quietly; returns the error, "" if there is none.
std::string run(const ExportArguments& arguments, int64_t piece_values = int64_t{1} << 25) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  std::string error;
  try {
    export_model(arguments, piece_values);
  } catch (const Error& thrown) {
    error = thrown.what();
  }
  std::fflush(stdout);
  testing::internal::GetCapturedStdout();
  testing::internal::GetCapturedStderr();
  return error;
}

std::vector<float> floats(const GgufReader& reader, const std::string& name) {
  for (size_t i = 0; i < reader.tensors().size(); ++i) {
    if (reader.tensors()[i].name != name) continue;
    EXPECT_EQ(reader.tensors()[i].type, 0U);
    std::vector<float> values(size_t(reader.tensors()[i].count()));
    std::memcpy(values.data(), reader.bytes(i).data(), reader.bytes(i).size());
    return values;
  }
  ADD_FAILURE() << "no " << name;
  return {};
}

TEST(Export, TurnsMatricesAndLeavesTheRest) {
  const TemporaryDirectory directory;
  write_checkpoint(directory / "out" / "checkpoint_3");
  const Path target = directory / "x.gguf";
  ASSERT_EQ(run({directory / "out", target, "", "f32", ""}), "");
  const GgufReader reader(target);
  const auto up = floats(reader, "blk.1.ffn_up.weight");  // [128, 32], stored as [32, 128]
  for (size_t row = 0; row < 128; ++row) {
    for (size_t i = 0; i < 32; ++i) ASSERT_EQ(up[row * 32 + i], float(i * 128 + row));
  }
  const auto embedding = floats(reader, "token_embd.weight");
  for (size_t i = 0; i < embedding.size(); ++i) ASSERT_EQ(embedding[i], float(i));
  EXPECT_EQ(*reader.find("general.name"), formats::GgufValue(std::string("out checkpoint_3")));
  EXPECT_EQ(*reader.find("gpt2.block_count"), formats::GgufValue(uint32_t{2}));
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"out", "x.gguf"}));
}

// muP's multipliers in a file and a folder of programs that know none: m is 32 / 16, heads are of
// 16, and the values of each tensor count up.
TEST(Export, FoldsMultipliersIntoTheWeights) {
  const TemporaryDirectory directory;
  write_checkpoint(directory / "c");
  GPTConfig config = GPTConfig::of_checkpoint(directory / "c");
  config.parametrisation.mup_base_width = 16;
  config.parametrisation.mup_base_depth = 1;
  config.parametrisation.embedding_multiplier = 8;
  config.write_model(directory / "c", read_text(directory / "c" / "tokenizer.json"));
  const std::string text = read_text(directory / "c" / "config.json");
  EXPECT_TRUE(has(text, "\"model_type\": \"gigagpt\"")) << "others take it for a GPT-2";
  for (const int64_t piece : {int64_t{1} << 25, int64_t{100}}) {
    std::filesystem::remove_all(directory / "hf");
    ASSERT_EQ(run({directory / "c", "", directory / "hf", {}, ""}, piece), "");
    ASSERT_EQ(run({directory / "c", directory / "x.gguf", "", "f32", ""}, piece), "");
    const formats::SafetensorsReader hf(directory / "hf" / "model.safetensors");
    const GgufReader gguf(directory / "x.gguf");
    const auto expect = [&](const std::string& theirs, const std::string& name, int64_t outputs,
                            auto factor_of) {
      SCOPED_TRACE(theirs);
      std::vector<float> values(size_t(hf.info(theirs).count()));
      hf.read_floats(theirs, values);
      const auto turned = floats(gguf, name);
      const size_t in = values.size() / size_t(outputs);
      const bool transposed = theirs.find(".c_") != std::string::npos && in > 1;
      for (size_t i = 0; i < values.size(); ++i) {
        const size_t output = transposed ? i % size_t(outputs) : i / in;
        ASSERT_EQ(values[i], float(i) * factor_of(output)) << i;
        const size_t there = transposed ? output * in + i / size_t(outputs) : i;
        ASSERT_EQ(turned[there], values[i]) << i;
      }
    };
    const auto all = [](float factor) { return [=](size_t) { return factor; }; };
    const auto queries = [](size_t output) { return output < 32 ? 0.25F : 1.0F; };
    expect("transformer.wte.weight", "token_embd.weight", 5, all(8));
    expect("transformer.wpe.weight", "position_embd.weight", 4, all(8));
    expect("lm_head.weight", "output.weight", 5, all(0.5));
    expect("transformer.h.1.attn.c_attn.weight", "blk.1.attn_qkv.weight", 96, queries);
    expect("transformer.h.1.attn.c_attn.bias", "blk.1.attn_qkv.bias", 96, queries);
    expect("transformer.h.0.attn.c_proj.weight", "blk.0.attn_output.weight", 32, all(0.5));
    expect("transformer.h.0.attn.c_proj.bias", "blk.0.attn_output.bias", 32, all(0.5));
    expect("transformer.h.1.mlp.c_proj.weight", "blk.1.ffn_down.weight", 32, all(0.5));
    expect("transformer.h.1.mlp.c_fc.weight", "blk.1.ffn_up.weight", 128, all(1));
    expect("transformer.ln_f.weight", "output_norm.weight", 32, all(1));
  }
  const std::string written = read_text(directory / "hf" / "config.json");
  EXPECT_TRUE(has(written, "\"model_type\": \"gpt2\""));
  EXPECT_TRUE(has(written, "\"tie_word_embeddings\": false"));
  EXPECT_TRUE(std::filesystem::exists(directory / "hf" / "tokenizer.json"));
}

TEST(Export, AFolderHasTheTypeThatIsAskedForAndIsNotReplaced) {
  const TemporaryDirectory directory;
  write_checkpoint(directory / "c");
  const Path target = directory / "hf";
  const auto to = [&](const Path& folder, const std::string& type) {
    return run({directory / "c", "", folder, type, ""});
  };
  for (const std::string type : {"f16", "bf16"}) {
    std::filesystem::remove_all(target);
    ASSERT_EQ(to(directory / "hf/", type), "");
    const formats::SafetensorsReader reader(target / "model.safetensors");
    EXPECT_EQ(reader.info("transformer.ln_f.weight").dtype, type == "f16" ? "F16" : "BF16");
    std::vector<float> values(32);
    reader.read_floats("transformer.ln_f.weight", values);
    for (size_t i = 0; i < 32; ++i) EXPECT_EQ(values[i], float(i));
    // What is no more than a GPT-2 is one for this program too.
    EXPECT_EQ(GPTConfig::of_checkpoint(target).width, 32);
  }
  EXPECT_TRUE(has(read_text(target / "config.json"), "\"torch_dtype\": \"bfloat16\""));
  EXPECT_TRUE(has(read_text(target / "config.json"), "\"gigagpt\": {")) << "it is ours as well";
  write_checkpoint(directory / "large", 192);  // element 65536 is too large for a half
  EXPECT_TRUE(
      has(run({directory / "large", "", directory / "other", "f16", ""}), "is too large for f16"));
  EXPECT_FALSE(std::filesystem::exists(directory / "other"));
  std::filesystem::remove_all(directory / "large");
  EXPECT_TRUE(has(to(target, "f32"), "exists already"));
  EXPECT_TRUE(has(to(directory / "no" / "hf", "f32"), "there is no directory"));
  EXPECT_TRUE(has(to(directory / "other", "q8_0"), "q8_0 is a type of GGUF files"));
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"c", "hf"}));
}

TEST(Export, PiecesMakeTheSameFile) {
  const TemporaryDirectory directory;
  write_checkpoint(directory / "c");
  for (const char* type : {"f32", "q8_0"}) {
    ASSERT_EQ(run({directory / "c", directory / "whole.gguf", "", type, ""}), "");
    for (const int64_t values : {1, 100, 1000}) {  // 1, 3 and 31 rows of 32
      ASSERT_EQ(run({directory / "c", directory / "x.gguf", "", type, ""}, values), "");
      EXPECT_EQ(read_text(directory / "x.gguf"), read_text(directory / "whole.gguf")) << values;
    }
  }
}

TEST(Export, FilesAreReplacedAsAWholeOrNotAtAll) {
  const TemporaryDirectory directory;
  write_checkpoint(directory / "small");
  const Path target = directory / "x.gguf";
  ASSERT_EQ(run({directory / "small", target, "", "q8_0", ""}), "");
  const std::string before = read_text(target);
  // Element 65536 of a tensor is too large for a half.
  write_checkpoint(directory / "large", 192);
  EXPECT_TRUE(has(run({directory / "large", target, "", "f16", ""}), "too large for F16"));
  EXPECT_EQ(read_text(target), before);
  EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"large", "small", "x.gguf"}));
  ASSERT_EQ(run({directory / "small", target, "", "bf16", ""}), "");
  EXPECT_NE(read_text(target), before);
}

TEST(Export, RefusesWhatItShouldNotReplace) {
  const TemporaryDirectory directory;
  write_checkpoint(directory / "c");
  const Path text = directory.write("text", "mine");
  EXPECT_TRUE(has(run({directory / "c", text, "", "f16", ""}), "exists and is not a GGUF file"));
  EXPECT_EQ(read_text(text), "mine");
  EXPECT_TRUE(has(run({directory / "c", directory.path(), "", "f16", ""}), "is a directory"));
  EXPECT_TRUE(has(run({directory / "c", directory / "no" / "x", "", "f16", ""}), "no directory"));
  EXPECT_TRUE(
      has(run({directory / "no", directory / "x", "", "f16", ""}), "there is no checkpoint"));
}

TEST(Export, SaysWhatIsWrongWithACheckpoint) {
  const TemporaryDirectory directory;
  const Path checkpoint = directory / "c";
  const Path target = directory / "x.gguf";
  const auto error = [&] { return run({checkpoint, target, "", "f16", ""}); };
  write_checkpoint(checkpoint, 32, 2);
  EXPECT_TRUE(has(error(), "the tokenizer has 3 tokens, but the model's vocab_size is 2"));
  std::filesystem::remove(checkpoint / "tokenizer.json");
  EXPECT_TRUE(has(error(), "has no tokenizer: name a folder"));
  EXPECT_EQ(run({checkpoint, target, "", "f16", "none"}), "");
  const std::string config = read_text(checkpoint / "config.json");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = config;
    text.replace(text.find(from), from.size(), to);
    File::create(checkpoint / "config.json").write(text);
    return error();
  };
  EXPECT_TRUE(has(changed("\"n_layer\": 2", "\"n_layer\": 10000000"), "n_layer is 10000000"));
  EXPECT_TRUE(has(changed("\"n_layer\": 2", "\"n_layer\": 3"), "has no tensor transformer.h.2"));
  EXPECT_TRUE(has(changed("\"n_positions\": 4", "\"n_positions\": 8"), "wpe.weight is [4, 32]"));
}

TEST(Export, TokenizersComeFromElsewhereToo) {
  const TemporaryDirectory directory;
  write_checkpoint(directory / "c");
  std::filesystem::create_directories(directory / "data");
  std::filesystem::rename(directory / "c" / "tokenizer.json", directory / "data/tokenizer.json");
  ASSERT_EQ(run({directory / "c", directory / "x.gguf", "", "f16", directory / "data"}), "");
  const Outcome outcome = look(directory / "x.gguf");
  EXPECT_EQ(outcome.error, "");
  EXPECT_TRUE(has(outcome.text, "GGUF version 3"));
  EXPECT_TRUE(has_line(outcome.text, "tokenizer.ggml.tokens 5 texts"));
  EXPECT_TRUE(has_line(outcome.text, "gpt2.attention.layer_norm_epsilon 1e-05"));
  EXPECT_TRUE(has_line(outcome.text, "blk.0.attn_qkv.weight 3072 [96,32] F16 6144"));
}

TEST(Inspect, OfADamagedGgufFileSaysWhere) {
  const TemporaryDirectory directory;
  EXPECT_TRUE(has(look(directory.write("x.gguf", "")).error, "it is truncated"));
  EXPECT_TRUE(has(look(directory.write("y", "GGUF\3")).error, "it is truncated"));
}

}  // namespace
}  // namespace gigagpt::cli
