// A GGUF file: every value and tensor is read.
#include "formats/gguf.h"

#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

void check(std::string_view input) {
  const formats::GgufReader reader(fuzz::write("model.gguf", input));
  for (const auto& [key, value] : reader.entries()) GIGAGPT_ASSERT(reader.find(key) == &value);
  uint8_t sum = uint8_t(reader.header_bytes());
  for (size_t i = 0; i < reader.tensors().size(); ++i) {
    const auto bytes = reader.bytes(i);
    GIGAGPT_ASSERT(bytes.size() == reader.tensors()[i].size_bytes());
    for (const std::byte byte : bytes) sum ^= uint8_t(byte);
  }
  static volatile uint8_t read;
  read = sum;
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
