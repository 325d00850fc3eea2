// A model.safetensors.index.json, beside the two files that a good one lists.
#include "formats/stored_weights.h"

#include <array>

#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

using formats::StoredTensor;

const std::vector<StoredTensor> kTensors = {{"body.a", {2, 3}, "a", true, "a"},
                                            {"body.b", {2}, "", false, "b"},
                                            {"head", {2, 3}, "a", false, "", /*foreign=*/true}};

void write_part(const char* file, const char* tensor, std::vector<int64_t> shape) {
  const std::array<float, 6> zeros{};
  const formats::TensorInfo info{tensor, "F32", std::move(shape)};
  formats::SafetensorsWriter writer(fuzz::scratch() / file, {info}, {});
  writer.write(std::as_bytes(std::span(zeros)).first(info.size_bytes()));
  writer.finish();
}

void check(std::string_view input) {
  static const bool written = [] {
    write_part("1.safetensors", "body.a", {2, 3});
    write_part("2.safetensors", "b", {2});
    return true;
  }();
  GIGAGPT_ASSERT(written);
  fuzz::write("model.safetensors.index.json", input);
  for (const Path& path : formats::weight_files(fuzz::scratch())) {
    GIGAGPT_ASSERT(path.parent_path() == fuzz::scratch());
  }
  const formats::StoredWeights weights(fuzz::scratch(), kTensors);
  weights.check_values();
  std::array<float, 6> values{};
  weights.read_floats(kTensors[0], 0, values);
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
