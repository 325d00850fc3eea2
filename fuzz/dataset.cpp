// A data set: meta.json, a zero byte, train.bin.
#include "formats/dataset.h"

#include <algorithm>
#include <vector>

#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

void check(std::string_view input) {
  const fuzz::Parts parts = fuzz::split(input);
  fuzz::write("meta.json", parts.first);
  fuzz::write("train.bin", parts.second);
  const formats::DatasetMeta meta = formats::read_dataset_meta(fuzz::scratch());
  GIGAGPT_ASSERT(meta.vocab_size > 0 && (meta.token_bytes == 2 || meta.token_bytes == 4));
  const auto file = formats::open_split(fuzz::scratch().string(), "train", meta.vocab_size, 1);
  GIGAGPT_ASSERT(file.size() * meta.token_bytes == int64_t(parts.second.size()));
  std::vector<int64_t> tokens(size_t(file.size()));
  file.copy(0, file.size(), meta.vocab_size, tokens.data());
  for (const int64_t token : tokens) GIGAGPT_ASSERT(token >= 0 && token < meta.vocab_size);
  const int64_t half = file.size() / 2;
  std::vector<int64_t> rest(size_t(file.size() - half));
  file.copy(half, file.size() - half, meta.vocab_size, rest.data());
  GIGAGPT_ASSERT(std::equal(rest.begin(), rest.end(), tokens.begin() + half));
  formats::write_dataset_meta(fuzz::scratch(), meta);
  const formats::DatasetMeta again = formats::read_dataset_meta(fuzz::scratch());
  GIGAGPT_ASSERT(again.vocab_size == meta.vocab_size && again.token_bytes == meta.token_bytes);
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
