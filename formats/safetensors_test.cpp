// The safetensors format: round trips, conversions, and files that must be refused.
#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/crc32c.h"
#include "base/testing.h"

namespace gigagpt::formats {
namespace {

// The bytes of a file with this header and data; the length is what it should be.
std::string file_with(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// Writes a file with one tensor and reads it as floats.
template <class T>
std::vector<float> floats_of(const std::string& dtype, const std::vector<T>& values) {
  const TemporaryDirectory directory;
  const auto count = static_cast<int64_t>(values.size());
  SafetensorsWriter writer(directory / "x", {{"x", dtype, {count}}}, {});
  writer.write(bytes_of(values));
  writer.finish();
  std::vector<float> floats(values.size());
  SafetensorsReader(directory / "x").read_floats("x", floats);
  return floats;
}

// Opens the file and reads all there is.
void read_all(const Path& path) {
  const SafetensorsReader reader(path);
  for (const TensorInfo& tensor : reader.tensors()) {
    const auto bytes = reader.bytes(tensor.name);
    ASSERT_EQ(bytes.size(), tensor.size_bytes());
    std::accumulate(bytes.begin(), bytes.end(), 0,
                    [](int sum, std::byte b) { return sum ^ static_cast<int>(b); });
    std::vector<float> floats(static_cast<size_t>(tensor.count()));
    if (tensor.dtype == "F32" || tensor.dtype == "BF16") reader.read_floats(tensor.name, floats);
  }
}

// Whatever could be read from the file x is written, and read again.
void expect_round_trip(const TemporaryDirectory& directory) {
  const SafetensorsReader read(directory / "x");
  SafetensorsWriter writer(directory / "y", read.tensors(), read.metadata());
  for (const TensorInfo& tensor : read.tensors()) writer.write(read.bytes(tensor.name));
  writer.finish();
  const SafetensorsReader again(directory / "y");
  EXPECT_EQ(again.tensors(), read.tensors());
  EXPECT_EQ(again.metadata(), read.metadata());
  for (const TensorInfo& tensor : read.tensors()) {
    const auto before = read.bytes(tensor.name), after = again.bytes(tensor.name);
    EXPECT_TRUE(std::equal(before.begin(), before.end(), after.begin(), after.end()));
  }
}

TEST(Safetensors, WhatIsWrittenReadsBack) {
  const TemporaryDirectory directory;
  const std::vector<TensorInfo> tensors = {{"weight", "F32", {2, 3}},
                                           {"a.scalar", "F64", {}},
                                           {"none", "F32", {0, 5}},
                                           {"ids", "I64", {2}}};
  const std::vector<float> weight = {1, -2, 3.5F, 0, 1e-40F, HUGE_VALF};
  const std::vector<double> scalar = {0.1};
  const std::vector<int64_t> ids = {INT64_MIN, 42};
  SafetensorsWriter writer(directory / "x", tensors, {{"format", "pt"}, {"note", "\xC3\xA9\"\n"}});
  writer.write(bytes_of(weight).first(5));  // in pieces that do not match the elements
  writer.write(bytes_of(weight).subspan(5));
  writer.write(bytes_of(scalar));
  writer.write(bytes_of(ids));
  writer.finish();
  const std::string text = read_text(directory / "x");
  EXPECT_EQ(writer.file_bytes(), text.size());
  EXPECT_EQ(writer.crc32c(), crc32c(std::as_bytes(std::span(text))));

  const SafetensorsReader reader(directory / "x");
  EXPECT_EQ(reader.header_bytes() + 24 + 8 + 16, text.size());
  EXPECT_EQ(reader.tensors(), tensors);
  EXPECT_EQ(reader.metadata(), (Metadata{{"format", "pt"}, {"note", "\xC3\xA9\"\n"}}));
  EXPECT_EQ(reader.info("weight").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_TRUE(reader.contains("ids"));
  EXPECT_FALSE(reader.contains("id"));
  std::vector<float> floats(6);
  reader.read_floats("weight", floats);
  EXPECT_EQ(floats, weight);
  floats.resize(1);
  reader.read_floats("a.scalar", floats);
  EXPECT_EQ(floats[0], 0.1F);
  reader.read_floats("none", {});
  std::vector<int64_t> read_ids(2);
  std::memcpy(read_ids.data(), reader.bytes("ids").data(), reader.bytes("ids").size());
  EXPECT_EQ(read_ids, ids);
}

TEST(Safetensors, HeaderIsAlignedAndInTheOrderOfTheList) {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "x", {{"b", "U8", {1}}, {"a", "F16", {1}}}, {});
  const std::string data = "123";
  writer.write(std::as_bytes(std::span(data)));
  writer.finish();
  const std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("a":{"dtype":"F16","shape":[1],"data_offsets":[1,3]}})";
  const std::string spaces((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(read_text(directory / "x"), file_with(header + spaces, data));
}

TEST(Safetensors, EmptyTensorsReadBackWhateverExtentIsZero) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{0}, {0, 4}, {4, 0}, {3, 0, 5}}) {
    const TemporaryDirectory directory;
    SafetensorsWriter writer(directory / "x", {{"x", "F32", shape}}, {});
    writer.finish();
    try {
      const SafetensorsReader reader(directory / "x");
      EXPECT_EQ(reader.info("x").shape, shape);
      EXPECT_EQ(reader.info("x").count(), 0);
      reader.read_floats("x", {});
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

TEST(Safetensors, ConvertsBf16) {
  const auto floats = floats_of<uint16_t>(
      "BF16", {0x0000, 0x8000, 0x3F80, 0xC040, 0x7F7F, 0x0001, 0x7F80, 0xFF80, 0x7FC0});
  // One bit above zero is 2^-133; 0x7F7F is the largest, (2 - 2^-7) 2^127.
  const std::vector<float> expected = {0,           -0.0F,     1,         -3,
                                       0x1.FEp127F, 0x1p-133F, HUGE_VALF, -HUGE_VALF};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(expected[i])) << i;
  }
  EXPECT_TRUE(std::isnan(floats[8]));
}

TEST(Safetensors, ConvertsF16) {
  const std::vector<std::pair<uint16_t, float>> known = {
      {0x0000, 0.0F},
      {0x8000, -0.0F},
      {0x3C00, 1.0F},
      {0xC000, -2.0F},
      {0x3555, 0x1.554p-2F} /* nearest to 1/3 */,
      {0x7BFF, 65504.0F},
      {0xFBFF, -65504.0F},
      {0x0400, 0x1p-14F} /* least normal */,
      {0x03FF, 0x1.FF8p-15F} /* largest subnormal */,
      {0x0001, 0x1p-24F} /* least */,
      {0x8001, -0x1p-24F},
      {0x7C00, HUGE_VALF},
      {0xFC00, -HUGE_VALF}};
  std::vector<uint16_t> halves;
  for (const auto& [half, value] : known) halves.push_back(half);
  const auto floats = floats_of("F16", halves);
  for (size_t i = 0; i < known.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(known[i].second)) << i;
  }
  for (const float nan : floats_of<uint16_t>("F16", {0x7C01, 0x7E00, 0xFE00})) {
    EXPECT_TRUE(std::isnan(nan));
  }
}

TEST(Safetensors, ConvertsEveryF16ByItsDefinition) {
  std::vector<uint16_t> halves(1 << 16);
  std::iota(halves.begin(), halves.end(), uint16_t{0});
  const auto floats = floats_of("F16", halves);
  for (const uint16_t half : halves) {
    const int exponent = half >> 10 & 31;
    const int mantissa = half & 1023;
    if (exponent == 31) continue;
    const float size = exponent == 0 ? std::ldexp(float(mantissa), -24)
                                     : std::ldexp(float(1024 + mantissa), exponent - 25);
    ASSERT_EQ(floats[half], half < 0x8000 ? size : -size) << half;
  }
}

TEST(Safetensors, ConvertsF64ByRounding) {
  EXPECT_EQ(floats_of<double>("F64", {0.1, 1e-60, -1.0 / 3}),
            (std::vector<float>{0.1F, 0.0F, -1.0F / 3}));
}

TEST(Safetensors, ReadingTheWrongThingNamesFileAndTensor) {
  const TemporaryDirectory directory;
  const std::string path =
      directory.write("x", file_with(R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})",
                                     std::string(8, 'x')));
  const SafetensorsReader reader(path);
  std::vector<float> one(1), two(2);
  EXPECT_ERROR(reader.info("wte"), path + " has no tensor wte");
  EXPECT_ERROR(reader.bytes("wte"), path + " has no tensor wte");
  EXPECT_ERROR(reader.read_floats("wte", one), path + " has no tensor wte");
  EXPECT_ERROR(reader.read_floats("ids", two), path + ": tensor ids has 1 elements, not 2");
  EXPECT_ERROR(reader.read_floats("ids", one), path + ": tensor ids is I64, not floating point");
}

TEST(SafetensorsDeathTest, AnUnfinishedFileIsNotTakenForFinished) {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "x", {{"x", "F32", {2}}}, {});
  writer.write(std::as_bytes(std::span("1234", 4)));
  EXPECT_DEATH(writer.finish(), "internal error");
}

// A header of one tensor "x" with these parts, over 16 bytes of data.
struct BadTensor {
  const char* what;
  const char* dtype;
  const char* shape;
  const char* offsets;
  const char* error;
};
const BadTensor kBadTensors[] = {
    {"offsets reversed", "F32", "[4]", "[16, 0]", "tensor x"},
    {"beyond the end", "F32", "[5]", "[0, 20]", "truncated"},
    {"far beyond the end", "U8", "[15]", "[18446744073709551600, 18446744073709551615]", ""},
    {"beyond the end of memory", "U8", "[4611686018427387904]", "[0, 4611686018427387904]", ""},
    {"one offset", "F32", "[4]", "[16]", ""},
    {"no offsets", "F32", "[4]", "[]", ""},
    {"three offsets", "F32", "[4]", "[0, 16, 16]", ""},
    {"negative offset", "F32", "[4]", "[-16, 0]", ""},
    {"offset of text", "F32", "[4]", "[\"0\", 16]", ""},
    {"fractional offset", "F32", "[4]", "[0.5, 16]", ""},
    {"offsets null", "F32", "[4]", "null", ""},
    {"offsets an object", "F32", "[4]", "{\"a\": 0, \"b\": 16}", ""},
    {"too few bytes for the shape", "F32", "[5]", "[0, 16]", "shape [5] does not match its 16"},
    {"too many bytes for the shape", "F32", "[3]", "[0, 16]", "shape [3] does not match its 16"},
    {"not whole elements", "F32", "[3]", "[0, 15]", "shape [3] does not match its 15"},
    {"scalar of too many bytes", "F32", "[]", "[0, 16]", "shape [] does not match"},
    {"product overflows to zero", "F32", "[4611686018427387904, 8]", "[0, 0]", "does not match"},
    {"product overflows to right", "U8", "[4294967296, 4294967297, 16]", "[0, 16]", "not match"},
    {"bytes overflow to right", "F64", "[2305843009213693954]", "[0, 16]", "does not match"},
    {"zero elements in bytes", "F32", "[0, 4]", "[0, 16]", "does not match"},
    {"zero after an overflow", "F32", "[4611686018427387904, 8, 0]", "[0, 16]", ""},
    {"negative extent", "F32", "[-4]", "[0, 16]", ""},
    {"negative extents", "F32", "[-2, -2]", "[0, 16]", ""},
    {"extent above int64", "F32", "[18446744073709551615]", "[0, 16]", ""},
    {"fractional extent", "F32", "[4.5]", "[0, 16]", ""},
    {"shape a number", "F32", "4", "[0, 16]", ""},
    {"shape an object", "F32", "{\"a\": 4}", "[0, 16]", ""},
    {"shape of text", "F32", "[\"4\"]", "[0, 16]", ""},
    {"shape of lists", "F32", "[[4]]", "[0, 16]", ""},
    {"unknown dtype", "F8_E4M3", "[16]", "[0, 16]", "tensor x has unknown dtype F8_E4M3"},
    {"empty dtype", "", "[16]", "[0, 16]", "unknown dtype"},
};

TEST(SafetensorsHostile, BadTensorIsRefused) {
  const TemporaryDirectory directory;
  for (const BadTensor& bad : kBadTensors) {
    const std::string header =
        fmt::format(R"({{"x":{{"dtype":"{}","shape":{},"data_offsets":{}}}}})", bad.dtype,
                    bad.shape, bad.offsets);
    const Path path = directory.write("x", file_with(header, std::string(16, 'd')));
    EXPECT_ERROR(SafetensorsReader{path}, bad.error) << bad.what;
    EXPECT_ERROR(SafetensorsReader{path}, path.string()) << bad.what;
  }
}

TEST(SafetensorsHostile, BadHeaderIsRefused) {
  const std::string one = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  const std::string two = R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]})";
  const std::vector<std::array<std::string, 3>> cases = {
      {"empty header", "", "header"},
      {"not JSON", "{\"a\":", "header"},
      {"not UTF-8", "{\"\xFF\":1}", "header"},
      {"a list", "[" + std::string("1]"), "header"},
      {"null", "null", "header"},
      {"a duplicate name", "{" + one + "," + one + "}", "twice"},
      {"duplicate metadata", R"({"__metadata__":{},"__metadata__":{}})", "twice"},
      {"a dtype twice", R"({"a":{"dtype":"U16","dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
       "'dtype' appears twice"},
      {"a metadata key twice", R"({"__metadata__":{"a":"1","a":"2"}})", "'a' appears twice"},
      {"overlapping tensors", "{" + one + "," + two + "}", "tensor b overlaps another"},
      {"a tensor that is a number", R"({"a":1})", "header"},
      {"a tensor without dtype", R"({"a":{"shape":[2],"data_offsets":[0,2]}})", "dtype"},
      {"a tensor without shape", R"({"a":{"dtype":"U8","data_offsets":[0,2]}})", "shape"},
      {"a tensor without offsets", R"({"a":{"dtype":"U8","shape":[2]}})", "data_offsets"},
      {"dtype not text", R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,2]}})", "header"},
      {"metadata not text", R"({"__metadata__":{"a":1}})", "header"},
      {"metadata a list", R"({"__metadata__":["a"]})", "header"},
  };
  const TemporaryDirectory directory;
  for (const auto& [what, header, error] : cases) {
    const Path path = directory.write("x", file_with(header, "1234"));
    EXPECT_ERROR(SafetensorsReader{path}, error) << what;
    EXPECT_ERROR(SafetensorsReader{path}, path.string()) << what;
  }
}

TEST(SafetensorsHostile, NullShapeIsNotAScalar) {
  const TemporaryDirectory directory;
  const std::string header = R"({"x":{"dtype":"F32","shape":null,"data_offsets":[0,4]}})";
  EXPECT_ERROR(SafetensorsReader{directory.write("x", file_with(header, "1234"))}, "x");
}

// No bytes, so nothing in the file contradicts it; but the product must not be formed blindly.
TEST(SafetensorsHostile, EmptyTensorOfAHugeShapeIsEmptyOrRefused) {
  const TemporaryDirectory directory;
  for (const char* shape : {"[4611686018427387904, 8, 0]", "[0, 4611686018427387904, 8]"}) {
    const std::string header =
        fmt::format(R"({{"x":{{"dtype":"F32","shape":{},"data_offsets":[0,0]}}}})", shape);
    const Path path = directory.write("x", file_with(header, ""));
    try {
      const SafetensorsReader reader(path);
      EXPECT_EQ(reader.info("x").count(), 0) << shape;
      EXPECT_EQ(reader.info("x").size_bytes(), 0U) << shape;
      reader.read_floats("x", {});
    } catch (const Error& error) {
      EXPECT_NE(std::string_view(error.what()).find("shape"), std::string::npos) << error.what();
    }
  }
}

TEST(SafetensorsHostile, ListIsNotReportedAsADuplicate) {
  const TemporaryDirectory directory;
  const Path path = directory.write("x", file_with("[1]", ""));
  try {
    const SafetensorsReader reader(path);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("twice"), std::string::npos) << error.what();
  }
}

// "The byte buffer needs to be entirely indexed, and cannot contain holes" (the format's README).
TEST(SafetensorsHostile, DataThatNoTensorCoversIsRefused) {
  const std::string a = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  const std::string b = R"("b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]})";
  const TemporaryDirectory directory;
  const Path longer = directory.write("longer", file_with("{" + a + "}", "123"));
  EXPECT_ERROR(SafetensorsReader{longer}, longer.string());
  const Path hole = directory.write("hole", file_with("{" + a + "," + b + "}", "12345"));
  EXPECT_ERROR(SafetensorsReader{hole}, hole.string());
}

TEST(SafetensorsHostile, HeaderLengthBeyondTheFileIsRefused) {
  const TemporaryDirectory directory;
  for (const uint64_t length : {3ULL, 1ULL << 20, 1ULL << 40, ~0ULL, ~0ULL - 7, 1ULL << 63}) {
    const std::string bytes = std::string(reinterpret_cast<const char*>(&length), 8) + "{}";
    EXPECT_ERROR(SafetensorsReader{directory.write("x", bytes)}, "does not fit the file");
  }
  for (const size_t size : {0, 1, 7}) {
    EXPECT_ERROR(SafetensorsReader{directory.write("x", std::string(size, '\0'))}, "too few");
  }
}

TEST(SafetensorsHostile, EveryTruncationIsRefused) {
  const std::string whole =
      file_with(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", "123456789012");
  const TemporaryDirectory directory;
  read_all(directory.write("x", whole));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_ERROR(read_all(directory.write("x", whole.substr(0, size))), "x") << size;
  }
}

TEST(SafetensorsHostile, DeepNestingIsRefused) {
  const TemporaryDirectory directory;
  const Path path = directory.write("x", file_with(std::string(1'000'000, '['), ""));
  EXPECT_ERROR(SafetensorsReader{path}, "header");
}

TEST(SafetensorsHostile, DeepNestingWhereAShapeBelongsIsRefused) {
  const TemporaryDirectory directory;
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  const std::string header =
      fmt::format(R"({{"x":{{"dtype":"F32","shape":{},"data_offsets":[0,0]}}}})", deep);
  EXPECT_ERROR(SafetensorsReader{directory.write("x", file_with(header, ""))}, "nested");
}

TEST(SafetensorsHostile, DamagedFilesNeverCrash) {
  const std::string header =
      R"({"__metadata__": {"format": "pt"}, )"
      R"("wte": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, )"
      R"("ln.b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}})";
  const std::string data(32, 'd');
  const std::string whole = file_with(header, data);
  const TemporaryDirectory directory;
  ASSERT_NO_THROW(read_all(directory.write("x", whole)));
  std::mt19937_64 random(3);
  for (int i = 0; i < 4000; ++i) {
    // Half of them keep a header length that fits, so that the damage gets past it.
    const std::string bytes =
        i % 2 == 0 ? damaged(whole, random) : file_with(damaged(header, random), data);
    ASSERT_TRUE(returns_or_throws_error([&] {
      read_all(directory.write("x", bytes));
      expect_round_trip(directory);
    })) << bytes;
  }
}

}  // namespace
}  // namespace gigagpt::formats
