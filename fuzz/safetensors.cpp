// A model.safetensors: every tensor is read in each way, and the file written again is the same.
#include "formats/safetensors.h"

#include <algorithm>
#include <vector>

#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

using formats::SafetensorsReader;
using formats::TensorInfo;

void read_values(const SafetensorsReader& reader, const TensorInfo& tensor) {
  GIGAGPT_ASSERT(reader.contains(tensor.name) && reader.info(tensor.name) == tensor);
  const auto bytes = reader.bytes(tensor.name);
  GIGAGPT_ASSERT(bytes.size() == tensor.size_bytes());
  uint8_t sum = 0;
  for (const std::byte byte : bytes) sum ^= uint8_t(byte);
  static volatile uint8_t read;
  read = sum;
  if (!formats::is_floating(tensor.dtype)) return;
  std::vector<float> values(size_t(tensor.count()));
  reader.read_floats(tensor.name, values);
  const size_t half = values.size() / 2;
  std::vector<float> rest(values.size() - half);
  reader.read_floats(tensor.name, int64_t(half), rest);
  const auto same = [](float a, float b) { return a == b || (a != a && b != b); };
  GIGAGPT_ASSERT(std::equal(rest.begin(), rest.end(), values.begin() + ptrdiff_t(half), same));
}

void check(std::string_view input) {
  const SafetensorsReader reader(fuzz::write("model.safetensors", input));
  for (const TensorInfo& tensor : reader.tensors()) read_values(reader, tensor);
  const Path copy = fuzz::scratch() / "copy.safetensors";
  formats::SafetensorsWriter writer(copy, reader.tensors(), reader.metadata());
  for (const TensorInfo& tensor : reader.tensors()) writer.write(reader.bytes(tensor.name));
  writer.finish();
  const SafetensorsReader again(copy);
  GIGAGPT_ASSERT(again.tensors() == reader.tensors() && again.metadata() == reader.metadata());
  for (const TensorInfo& tensor : reader.tensors()) {
    const auto bytes = reader.bytes(tensor.name), copied = again.bytes(tensor.name);
    GIGAGPT_ASSERT(std::equal(bytes.begin(), bytes.end(), copied.begin(), copied.end()));
  }
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
