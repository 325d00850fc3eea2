// The safetensors format: 8 bytes of header length, a JSON header naming dtype, shape and place of
// each tensor, then the tensors' bytes. https://github.com/huggingface/safetensors
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/file.h"

namespace gigagpt::formats {

struct TensorInfo {
  std::string name;
  std::string dtype;  // "F32", "BF16", "F16", "F64", "I64", ...
  std::vector<int64_t> shape;

  int64_t count() const;
  uint64_t size_bytes() const;
  bool operator==(const TensorInfo&) const = default;
};

// Bytes of one element; 0 for a dtype this program does not know.
size_t dtype_size_bytes(std::string_view dtype);
bool is_floating(std::string_view dtype);  // one that read_floats converts

using Metadata = std::map<std::string, std::string>;

// Writes one file tensor by tensor, in the order of the list, without holding more than the caller
// passes in. The bytes must add up to the list's; that is asserted.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const Path& path, const std::vector<TensorInfo>& tensors,
                    const Metadata& metadata);
  void write(std::span<const std::byte> bytes);  // the next bytes of the current tensor
  void finish();                                 // checks that everything was written, syncs
  // Of all that was written to the file so far.
  uint64_t file_bytes() const { return file_bytes_; }
  uint32_t crc32c() const { return crc32c_; }

 private:
  void put(std::span<const std::byte> bytes);

  File file_;
  uint64_t file_bytes_ = 0;
  uint32_t crc32c_ = 0;
  uint64_t expected_bytes_ = 0;
  uint64_t written_bytes_ = 0;
};

// A file opened for reading. The header is checked as a whole on opening: lengths, dtypes, shapes
// and offsets must agree with each other and with the file's size. Values are read on demand.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const Path& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // as they lie in the file
  const Metadata& metadata() const { return metadata_; }
  uint64_t header_bytes() const { return data_start_; }  // the data begins after these
  uint32_t header_crc32c() const { return gigagpt::crc32c(file_, 0, data_start_); }
  bool contains(const std::string& name) const { return index_.contains(name); }
  const TensorInfo& info(const std::string& name) const;  // throws Error naming the file
  std::vector<std::byte> bytes(const std::string& name) const;
  // Bytes of a tensor from its byte `first` on.
  void read_bytes(const std::string& name, uint64_t first, std::span<std::byte> bytes) const;
  // Converts F32, F16, BF16 or F64 to float; `values` must have exactly the tensor's size.
  void read_floats(const std::string& name, std::span<float> values) const;
  // The same for elements from `first` on.
  void read_floats(const std::string& name, int64_t first, std::span<float> values) const;
  const Path& path() const { return file_.path(); }

 private:
  size_t index_of(const std::string& name) const;

  File file_;
  uint64_t data_start_ = 0;
  std::vector<TensorInfo> tensors_;
  std::vector<uint64_t> begins_;  // of the tensors, in the data
  std::map<std::string, size_t> index_;
  Metadata metadata_;
};

}  // namespace gigagpt::formats
