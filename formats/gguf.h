// GGUF version 3, the file format of llama.cpp: a magic, counts, metadata as keys with typed
// values, then name, shape, type and place of each tensor, and the tensors' bytes, each aligned.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/file.h"

namespace gigagpt::formats {

// The types that this program writes, with their numbers in the file.
enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ8_0 = 8, kBF16 = 30 };

// How a type of any GGUF file is laid out: rows are blocks of `elements` in `bytes`.
struct GgufLayout {
  uint32_t type;
  const char* name;
  uint32_t elements;
  uint32_t bytes;
};
const GgufLayout* gguf_layout(uint32_t type);  // nullptr for a type this program does not know

struct GgufTensor {
  std::string name;
  uint32_t type = 0;           // a GgufType, or another of gguf_layout()
  std::vector<int64_t> shape;  // [rows, columns], as everywhere here; the file has it reversed

  int64_t count() const;
  uint64_t size_bytes() const;
  bool operator==(const GgufTensor&) const = default;
};

// The alternatives stand at the numbers that their types have in the file.
using GgufArray =
    std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>,
                 std::vector<int16_t>, std::vector<uint32_t>, std::vector<int32_t>,
                 std::vector<float>, std::vector<bool>, std::vector<std::string>, std::monostate,
                 std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>>;
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool,
                               std::string, GgufArray, uint64_t, int64_t, double>;
using GgufEntries = std::vector<std::pair<std::string, GgufValue>>;

// IEEE half and bfloat16, to the nearest, ties to even, as llama.cpp rounds.
uint16_t float_to_half(float value);
uint16_t float_to_bf16(float value);

// Appends the values in the form of `type`. For kQ8_0 they must be whole blocks of 32: a half d and
// 32 signed bytes q with value = d * q, where d = max |value| / 127 and q is rounded half away from
// zero, the bits of llama.cpp's quantize_row_q8_0_ref.
void gguf_encode(GgufType type, std::span<const float> values, std::vector<std::byte>& bytes);

// Writes one file tensor by tensor, in the order of the list, without holding more than the caller
// passes in. Values must be finite and fit their tensor's type: otherwise Error naming the tensor
// and the element. The numbers of values must add up to the list's; that is asserted.
class GgufWriter {
 public:
  static constexpr uint64_t kAlignment = 32;

  GgufWriter(const Path& path, const GgufEntries& entries, std::vector<GgufTensor> tensors);
  void write(std::span<const float> values);  // the next values of the current tensor, whole blocks
  void finish();                              // checks that everything was written, syncs
  uint64_t file_bytes() const { return file_bytes_; }  // that the file has in the end

 private:
  void check(std::span<const float> values) const;

  File file_;
  std::vector<GgufTensor> tensors_;
  uint64_t file_bytes_ = 0;
  size_t current_ = 0;   // of tensors_
  int64_t written_ = 0;  // values of the current tensor
  std::vector<std::byte> bytes_;
};

// A file opened for reading. The header is checked as a whole on opening: lengths, counts, names,
// types, shapes and places must agree with each other and with the file's size. Memory stays within
// a small multiple of the header's size. Arrays of arrays are refused, as llama.cpp does.
class GgufReader {
 public:
  explicit GgufReader(const Path& path);

  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  const GgufEntries& entries() const { return entries_; }
  const GgufValue* find(std::string_view key) const;  // nullptr if there is none
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  uint64_t header_bytes() const { return header_bytes_; }  // without the padding behind it
  std::vector<std::byte> bytes(size_t tensor) const;
  const Path& path() const { return file_.path(); }

 private:
  void check_places() const;

  File file_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  uint64_t header_bytes_ = 0;
  uint64_t data_start_ = 0;
  GgufEntries entries_;
  std::vector<GgufTensor> tensors_;
  std::vector<uint64_t> offsets_;  // of the tensors, from data_start_
};

}  // namespace gigagpt::formats
