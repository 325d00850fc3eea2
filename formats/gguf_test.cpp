#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/testing.h"
#include "formats/bpe.h"
#include "formats/gguf_model.h"

namespace gigagpt::formats {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The bytes of a file, put together by hand.
class Bytes {
 public:
  template <class T>
  Bytes& number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Bytes& text(std::string_view text) {
    number(uint64_t{text.size()});
    text_ += text;
    return *this;
  }
  Bytes& raw(std::string_view text) {
    text_ += text;
    return *this;
  }
  Bytes& pad() {
    while (text_.size() % 32 != 0) text_ += '\0';
    return *this;
  }
  const std::string& get() const { return text_; }

 private:
  std::string text_;
};

Bytes header(uint64_t tensors, uint64_t entries) {
  return Bytes().raw("GGUF").number(uint32_t{3}).number(tensors).number(entries);
}

Bytes& entry(Bytes& bytes, std::string_view key, uint32_t value) {
  return bytes.text(key).number(uint32_t{4}).number(value);
}

Bytes& tensor(Bytes& bytes, std::string_view name, std::vector<uint64_t> extents, uint32_t type,
              uint64_t offset) {
  bytes.text(name).number(uint32_t(extents.size()));
  for (const uint64_t extent : extents) bytes.number(extent);
  return bytes.number(type).number(offset);
}

GgufReader open(const TemporaryDirectory& directory, std::string_view content) {
  return GgufReader(directory.write("x.gguf", content));
}

// What a small file of ours is, byte by byte.
std::string by_hand() {
  Bytes bytes = header(2, 7);
  bytes.text("general.architecture").number(uint32_t{8}).text("gpt2");
  entry(bytes, "n", 7);
  bytes.text("epsilon").number(uint32_t{6}).number(0.5F);
  bytes.text("flag").number(uint32_t{7}).number(uint8_t{1});
  bytes.text("tokens").number(uint32_t{9}).number(uint32_t{8}).number(uint64_t{2});
  bytes.text("a").text("");
  bytes.text("types").number(uint32_t{9}).number(uint32_t{5}).number(uint64_t{1});
  bytes.number(int32_t{-1});
  bytes.text("big").number(uint32_t{10}).number(uint64_t{1} << 40);
  // Extents are the other way round, and places count from the first tensor.
  tensor(bytes, "w", {3, 2}, 1, 0);
  tensor(bytes, "b", {3}, 0, 32);
  bytes.pad();
  for (const uint16_t half : {0x3C00, 0xC000, 0x4200, 0x3800, 0x0000, 0x7BFF}) bytes.number(half);
  bytes.pad();
  for (const float value : {1.0F, 2.0F, 3.0F}) bytes.number(value);
  return bytes.pad().get();
}

void write_by_hand(const Path& path) {
  const GgufEntries entries = {{"general.architecture", std::string("gpt2")},
                               {"n", uint32_t{7}},
                               {"epsilon", 0.5F},
                               {"flag", true},
                               {"tokens", GgufArray(std::vector<std::string>{"a", ""})},
                               {"types", GgufArray(std::vector<int32_t>{-1})},
                               {"big", uint64_t{1} << 40}};
  GgufWriter writer(path, entries, {{"w", 1, {2, 3}}, {"b", 0, {3}}});
  writer.write(std::vector<float>{1, -2, 3, 0.5F});  // in pieces
  writer.write(std::vector<float>{0, 65504});
  writer.write(std::vector<float>{1, 2, 3});
  writer.finish();
  EXPECT_EQ(writer.file_bytes(), std::filesystem::file_size(path));
}

TEST(Gguf, WritesTheBytesOfTheFormat) {
  const TemporaryDirectory directory;
  write_by_hand(directory / "x.gguf");
  EXPECT_EQ(read_text(directory / "x.gguf"), by_hand());
}

TEST(Gguf, ReadsWhatItWrote) {
  const TemporaryDirectory directory;
  const GgufReader reader = open(directory, by_hand());
  EXPECT_EQ(reader.version(), 3U);
  ASSERT_EQ(reader.entries().size(), 7U);
  EXPECT_EQ(*reader.find("general.architecture"), GgufValue(std::string("gpt2")));
  EXPECT_EQ(*reader.find("flag"), GgufValue(true));
  EXPECT_EQ(*reader.find("big"), GgufValue(uint64_t{1} << 40));
  EXPECT_EQ(*reader.find("types"), GgufValue(GgufArray(std::vector<int32_t>{-1})));
  EXPECT_EQ(reader.find("none"), nullptr);
  const std::vector<GgufTensor> tensors = {{"w", 1, {2, 3}}, {"b", 0, {3}}};
  EXPECT_EQ(reader.tensors(), tensors);
  ASSERT_EQ(reader.bytes(1).size(), 12U);
  float last = 0;
  std::memcpy(&last, reader.bytes(1).data() + 8, 4);
  EXPECT_EQ(last, 3.0F);
}

// A half as the double that it is.
double value_of(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const double magnitude = exponent == 0    ? std::ldexp(mantissa, -24)
                           : exponent == 31 ? (mantissa != 0 ? NAN : INFINITY)
                                            : std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Gguf, HalvesAreTheNearest) {
  for (uint32_t half = 0; half < 0x7C00; ++half) {
    const auto value = float(value_of(uint16_t(half)));
    ASSERT_EQ(float_to_half(value), half);
    ASSERT_EQ(float_to_half(-value), half | 0x8000U);
    // Half way to the next one the even one is taken; a little to either side, the nearer.
    const auto middle = float(
        (value_of(uint16_t(half)) + (half == 0x7BFF ? 65536.0 : value_of(uint16_t(half + 1)))) / 2);
    ASSERT_EQ(float_to_half(middle), half + (half & 1)) << half;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0F)), half) << half;
    ASSERT_EQ(float_to_half(std::nextafter(middle, HUGE_VALF)), half + 1) << half;
  }
  EXPECT_EQ(float_to_half(HUGE_VALF), 0x7C00);
  EXPECT_EQ(float_to_half(-HUGE_VALF), 0xFC00);
  EXPECT_EQ(float_to_half(1e30F), 0x7C00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(float_to_half(kNan) & 0x7C00, 0x7C00);
  EXPECT_NE(float_to_half(kNan) & 0x3FF, 0);
}

TEST(Gguf, Bf16IsTheNearest) {
  const auto bits = [](uint32_t value) { return std::bit_cast<float>(value); };
  EXPECT_EQ(float_to_bf16(1.0F), 0x3F80);
  EXPECT_EQ(float_to_bf16(-2.0F), 0xC000);
  EXPECT_EQ(float_to_bf16(bits(0x3F808000)), 0x3F80);  // ties to even
  EXPECT_EQ(float_to_bf16(bits(0x3F818000)), 0x3F82);
  EXPECT_EQ(float_to_bf16(bits(0x3F808001)), 0x3F81);
  EXPECT_EQ(float_to_bf16(bits(0x3F817FFF)), 0x3F81);
  EXPECT_EQ(float_to_bf16(bits(0x00018000)), 0x0002);  // a subnormal
  EXPECT_EQ(float_to_bf16(bits(0x7F7FFFFF)), 0x7F80);  // beyond the largest
  EXPECT_EQ(float_to_bf16(HUGE_VALF), 0x7F80);
  EXPECT_EQ(float_to_bf16(-HUGE_VALF), 0xFF80);
  EXPECT_EQ(float_to_bf16(bits(0x7F800001)), 0x7FC0);  // a NaN stays one
}

struct Block {
  uint16_t scale = 0;
  std::array<int8_t, 32> codes = {};
};

Block encode_block(const std::vector<float>& values) {
  std::vector<std::byte> bytes;
  gguf_encode(GgufType::kQ8_0, values, bytes);
  Block block;
  EXPECT_EQ(bytes.size(), 34U);
  std::memcpy(&block.scale, bytes.data(), 2);
  std::memcpy(block.codes.data(), bytes.data() + 2, 32);
  return block;
}

TEST(Gguf, EightBitsWithAScale) {
  std::vector<float> values(32, 0.0F);
  values[0] = 127;
  values[1] = -127;
  values[2] = 0.5F;  // half is rounded away from zero
  values[3] = -0.5F;
  values[4] = 2.5F;
  values[5] = 0.49F;
  Block block = encode_block(values);
  EXPECT_EQ(block.scale, 0x3C00);
  const std::array<int8_t, 6> wanted = {127, -127, 1, -1, 3, 0};
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(block.codes[i], wanted[i]) << i;
  // The codes follow from the scale in fp32, not from the half that is stored.
  values.assign(32, 0.0F);
  values[0] = 1.0F;
  values[1] = 0.25F;
  block = encode_block(values);
  EXPECT_EQ(block.scale, float_to_half(1.0F / 127.0F));
  EXPECT_EQ(block.codes[0], 127);
  EXPECT_EQ(block.codes[1], 32);  // 31.75
  block = encode_block(std::vector<float>(32, 0.0F));
  EXPECT_EQ(block.scale, 0);
  EXPECT_EQ(block.codes[31], 0);
  // So small that 1 / scale is infinite.
  block = encode_block(std::vector<float>(32, std::numeric_limits<float>::denorm_min()));
  EXPECT_EQ(block.scale, 0);
  EXPECT_EQ(block.codes[31], 0);
}

TEST(Gguf, RefusesValuesThatDoNotFit) {
  const TemporaryDirectory directory;
  const auto write = [&](GgufType type, float value) {
    GgufWriter writer(directory / "y.gguf", {}, {{"w", uint32_t(type), {2, 32}}});
    std::vector<float> values(32, 1.0F);
    writer.write(values);
    values[3] = value;
    writer.write(values);
  };
  EXPECT_ERROR(write(GgufType::kF32, kNan), "tensor w: element 35 is nan, not a finite number");
  EXPECT_ERROR(write(GgufType::kBF16, -HUGE_VALF), "element 35 is -inf, not a finite");
  EXPECT_ERROR(write(GgufType::kF16, 65520.0F), "element 35 is 65520, too large for F16");
  EXPECT_ERROR(write(GgufType::kBF16, 3.4e38F), "too large for BF16");
  EXPECT_ERROR(write(GgufType::kQ8_0, 1e7F), "too large for Q8_0");
  write(GgufType::kF16, -65519.0F);
  write(GgufType::kF32, 3.4e38F);
  write(GgufType::kQ8_0, 8e6F);
}

TEST(Gguf, TruncatedAnywhereIsAnError) {
  const TemporaryDirectory directory;
  const std::string whole = by_hand();
  const size_t needed = whole.size() - 20;  // but for the padding at the end
  for (size_t size = 0; size < needed; ++size) {
    EXPECT_ERROR(open(directory, whole.substr(0, size)), "x.gguf") << size;
  }
  open(directory, whole.substr(0, needed));
}

TEST(Gguf, DamagedHeadersAreErrorsOrFiles) {
  const TemporaryDirectory directory;
  std::mt19937_64 random(1);
  const std::string whole = by_hand();
  for (int i = 0; i < 3000; ++i) {
    std::string content = whole;
    for (size_t n = 0; n <= random() % 3; ++n) {
      content[random() % content.size()] = char(random() % 4 == 0 ? 0xFF : random());
    }
    EXPECT_TRUE(returns_or_throws_error([&] {
      const GgufReader reader = open(directory, content);
      for (size_t t = 0; t < reader.tensors().size(); ++t) {
        EXPECT_EQ(reader.bytes(t).size(), reader.tensors()[t].size_bytes());
      }
    }));
  }
}

TEST(Gguf, RefusesWrongHeaders) {
  const TemporaryDirectory directory;
  const auto refused = [&](const Bytes& bytes, std::string_view text) {
    EXPECT_ERROR(open(directory, bytes.get()), text);
  };
  refused(Bytes().raw("GGML").number(uint64_t{3}), "is not a GGUF file");
  refused(Bytes().raw("GGUF").number(uint32_t{1}).number(uint64_t{0}), "version 1");
  refused(Bytes().raw("GGUF").number(uint32_t{3U << 24}).number(uint64_t{0}), "little-endian");
  refused(header(uint64_t{1} << 62, 0), "tensors do not fit the 8 bytes");
  refused(header(0, UINT64_MAX), "metadata entries do not fit");
  refused(header(0, 1).number(UINT64_MAX).raw(std::string(32, ' ')), "bytes of text do not fit");
  refused(header(0, 1).text("k").number(uint32_t{13}).pad(), "there is no type 13 of values");
  refused(header(0, 1).text("k").number(uint32_t{7}).number(uint8_t{2}).pad(),
          "2 is neither true nor false");
  const auto array = [&](uint32_t type, uint64_t count) {
    return header(0, 1).text("k").number(uint32_t{9}).number(type).number(count).pad();
  };
  refused(array(5, uint64_t{1} << 61), "elements of an array do not fit");
  refused(array(8, 100), "elements of an array do not fit");
  refused(array(9, 1), "an array of arrays is not supported");
  Bytes twice = header(0, 2);
  entry(entry(twice, "k", 1), "k", 2);
  refused(twice, "the key k appears twice");
  for (const uint32_t alignment : {0U, 24U}) {
    Bytes bytes = header(0, 1);
    refused(entry(bytes, "general.alignment", alignment), "not a power of two");
  }
}

TEST(Gguf, RefusesWrongTensors) {
  const TemporaryDirectory directory;
  const auto refused = [&](Bytes bytes, std::string_view text) {
    EXPECT_ERROR(open(directory, bytes.pad().raw(std::string(256, 'x')).get()), text);
  };
  const auto one = [](std::vector<uint64_t> extents, uint32_t type, uint64_t offset = 0) {
    Bytes bytes = header(1, 0);
    return tensor(bytes, "w", std::move(extents), type, offset);
  };
  const auto two = [](std::string_view name, uint64_t offset) {
    Bytes bytes = header(2, 0);
    tensor(bytes, "w", {32}, 0, 0);
    return tensor(bytes, name, {32}, 0, offset);
  };
  refused(one({}, 0), "0 dimensions");
  refused(one({1, 1, 1, 1, 1}, 0), "5 dimensions");
  refused(one({0}, 0), "a tensor dimension of 0");
  refused(one({uint64_t{1} << 59}, 0), "is invalid");
  refused(one({uint64_t{1} << 40, uint64_t{1} << 40}, 0), "is invalid");
  refused(one({uint64_t{1} << 57}, 0), "it is truncated");
  refused(one({32}, 31), "type 31 of a tensor is not known");
  refused(one({33}, 8), "33 values are not whole blocks of Q8_0");
  refused(one({32}, 0, 8), "not aligned to 32 bytes");
  refused(one({65}, 0), "it is truncated");
  refused(one({32}, 0, uint64_t{1} << 63), "it is truncated");
  refused(two("w", 128), "there are two tensors w");
  refused(two("v", 96), "overlaps another");
  EXPECT_EQ(open(directory, two("v", 128).pad().raw(std::string(256, 'x')).get()).bytes(1).size(),
            128U);
}

template <class T>
T value_of_entry(const GgufEntries& entries, const std::string& key) {
  for (const auto& [name, value] : entries) {
    if (name != key) continue;
    if constexpr (std::is_constructible_v<GgufArray, T> && !std::is_arithmetic_v<T> &&
                  !std::is_same_v<T, std::string>) {
      return std::get<T>(std::get<GgufArray>(value));
    } else {
      return std::get<T>(value);
    }
  }
  ADD_FAILURE() << "no " << key;
  return {};
}

TEST(GgufGpt2, CharactersAreTokensOfBytes) {
  const Tokenizer tokenizer({'\n', ' ', '\\', 'a', U'\u00e9', U'\u4e2d'});
  const auto entries = gguf_tokenizer(tokenizer, 8);
  EXPECT_EQ(value_of_entry<std::string>(entries, "tokenizer.ggml.model"), "rwkv");
  const std::vector<std::string> tokens = {"\\x0a",           " ",      "\\\\",  "a", "\\xc3\\xa9",
                                           "\\xe4\\xb8\\xad", "[PAD6]", "[PAD7]"};
  EXPECT_EQ(value_of_entry<std::vector<std::string>>(entries, "tokenizer.ggml.tokens"), tokens);
  const std::vector<int32_t> types = {1, 1, 1, 1, 1, 1, 5, 5};
  EXPECT_EQ(value_of_entry<std::vector<int32_t>>(entries, "tokenizer.ggml.token_type"), types);
  EXPECT_EQ(value_of_entry<uint32_t>(entries, "tokenizer.ggml.unknown_token_id"), 1U);
  EXPECT_ERROR(gguf_tokenizer(tokenizer, 5), "the tokenizer has 6 tokens");
}

// All bytes, one merge, an added token that is like text, and perhaps an end of text.
Tokenizer byte_level(bool end_of_text, bool prefix_space = false) {
  BpeVocabulary vocabulary;
  for (const uint8_t byte : bytes_in_token_order()) {
    vocabulary.tokens.push_back(to_byte_level(std::string(1, char(byte))));
  }
  const auto id = [&](const std::string& text) {
    const auto& all = vocabulary.tokens;
    return int32_t(std::find(all.begin(), all.end(), text) - all.begin());
  };
  vocabulary.merges = {{id("a"), id("b"), 256}};
  vocabulary.tokens.insert(vocabulary.tokens.end(), {"ab", "[PAD260]"});
  vocabulary.added = {{257, /*special=*/false, /*normalized=*/false}};
  if (end_of_text) {
    vocabulary.added.push_back({258, /*special=*/true, /*normalized=*/false});
    vocabulary.tokens.emplace_back(kEndOfText);
  }
  vocabulary.add_prefix_space = prefix_space;
  return Tokenizer(Bpe(std::move(vocabulary)));
}

TEST(GgufGpt2, BytePairsAreGpt2s) {
  const auto entries = gguf_tokenizer(byte_level(true), 261);
  EXPECT_EQ(value_of_entry<std::string>(entries, "tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(value_of_entry<std::string>(entries, "tokenizer.ggml.pre"), "gpt-2");
  const auto tokens = value_of_entry<std::vector<std::string>>(entries, "tokenizer.ggml.tokens");
  ASSERT_EQ(tokens.size(), 261U);
  EXPECT_EQ(tokens[0], "!");
  EXPECT_EQ(tokens[220], "\u0120");  // a space
  const std::vector<std::string> last(tokens.begin() + 256, tokens.end());
  // No text appears twice: llama.cpp would end.
  const std::vector<std::string> wanted = {"ab", "[PAD260]", "<|endoftext|>", "[PAD259]",
                                           "[PAD260]_"};
  EXPECT_EQ(last, wanted);
  const auto types = value_of_entry<std::vector<int32_t>>(entries, "tokenizer.ggml.token_type");
  const std::vector<int32_t> last_types(types.begin() + 255, types.end());
  EXPECT_EQ(last_types, (std::vector<int32_t>{1, 1, 4, 3, 5, 5}));
  EXPECT_EQ(value_of_entry<std::vector<std::string>>(entries, "tokenizer.ggml.merges"),
            std::vector<std::string>{"a b"});
  EXPECT_EQ(value_of_entry<uint32_t>(entries, "tokenizer.ggml.eos_token_id"), 258U);
  // Without an end of text, an unused token, or else the last.
  EXPECT_EQ(gguf_end_of_text(byte_level(false), 300), 258);
  EXPECT_EQ(gguf_end_of_text(byte_level(false), 258), 257);
  EXPECT_ERROR(gguf_tokenizer(byte_level(true, true), 259), "add_prefix_space");
}

}  // namespace
}  // namespace gigagpt::formats
