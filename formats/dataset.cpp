#include "formats/dataset.h"

#include <cstring>
#include <vector>

#include "base/crc32c.h"
#include "formats/json.h"

namespace gigagpt::formats {

DatasetMeta read_dataset_meta(const Path& directory) {
  const Path path = directory / "meta.json";
  if (!std::filesystem::exists(path)) return {};
  DatasetMeta meta;
  try {
    const auto root = parse_json<nlohmann::json>(read_text(path), path.string());
    meta.vocab_size = whole_number(root, "vocab_size", 1, int64_t{1} << 32, path.string());
    const auto dtype = root.at("dtype").get<std::string>();
    if (dtype != "uint16" && dtype != "uint32") {
      fail("{}: dtype '{}' is neither uint16 nor uint32", path.string(), dtype);
    }
    meta.token_bytes = dtype == "uint16" ? 2 : 4;
  } catch (const nlohmann::json::exception& error) {
    fail("{}: {}", path.string(), error.what());
  }
  if (meta.token_bytes == 2 && meta.vocab_size > 65536) {
    fail("{}: a vocabulary of {} does not fit its dtype", path.string(), meta.vocab_size);
  }
  return meta;
}

void write_dataset_meta(const Path& directory, const DatasetMeta& meta) {
  const nlohmann::ordered_json root = {{"vocab_size", meta.vocab_size},
                                       {"dtype", meta.token_bytes == 2 ? "uint16" : "uint32"}};
  write_text_atomically(directory / "meta.json", to_text(root, 1) + "\n");
}

Path find_dataset(const std::string& dataset) {
  for (const Path& candidate : {Path(dataset), Path("data") / dataset}) {
    if (std::filesystem::is_directory(candidate)) return candidate;
  }
  const bool name_only = dataset.find('/') == std::string::npos;
  fail("dataset: no folder {}{}; make one with `gigagpt prepare`, or give --dataset a path",
       dataset, name_only ? " or data/" + dataset : "");
}

TokenFile::TokenFile(const Path& path, const DatasetMeta& meta)
    : file_(File::open_read(path)),
      token_bytes_(meta.token_bytes),
      size_(static_cast<int64_t>(file_.size_bytes()) / meta.token_bytes) {
  if (file_.size_bytes() % static_cast<size_t>(token_bytes_) != 0) {
    fail(
        "{}: {} bytes are not a whole number of {}-byte tokens; it is truncated or meta.json is "
        "wrong",
        path.string(), file_.size_bytes(), token_bytes_);
  }
}

void TokenFile::copy(int64_t first, int64_t count, int64_t vocab_size, int64_t* out) const {
  GIGAGPT_ASSERT(first >= 0 && count >= 0 && first + count <= size_);
  std::vector<std::byte> bytes(size_t(count * token_bytes_));
  file_.read_at(uint64_t(first * token_bytes_), bytes);
  for (int64_t i = 0; i < count; ++i) {
    uint32_t token = 0;
    std::memcpy(&token, &bytes[size_t(i * token_bytes_)], static_cast<size_t>(token_bytes_));
    if (token >= vocab_size) {
      fail(
          "{}: token {} at position {} is not below vocab_size {}; the data belongs to another "
          "tokenizer, or vocab_size is too small",
          file_.path().string(), token, first + i, vocab_size);
    }
    out[i] = token;
  }
}

TokenFile open_split(const std::string& dataset, const std::string& split, int64_t vocab_size,
                     int64_t min_tokens) {
  const Path folder = find_dataset(dataset);
  const DatasetMeta meta = read_dataset_meta(folder);
  // Without meta.json the vocabulary is a guess: then a token that is too large is found as it
  // comes.
  if (meta.vocab_size > vocab_size && std::filesystem::exists(folder / "meta.json")) {
    fail("vocab_size: {} is below the {} tokens of {}; set vocab_size: {}", vocab_size,
         meta.vocab_size, folder.string(), meta.vocab_size);
  }
  const Path path = folder / (split + ".bin");
  TokenFile file(path, meta);
  if (file.size() < min_tokens) {
    fail(
        "{} holds {} tokens, but at least {} are needed; use more text or a smaller "
        "sequence_length",
        path.string(), file.size(), min_tokens);
  }
  return file;
}

std::string fingerprint(const Path& path) {
  constexpr size_t kWhole = size_t{64} << 20, kBlock = 1 << 16, kBlocks = 256;
  const File file = File::open_read(path);
  const uint64_t size = file.size_bytes();
  uint32_t crc = 0;
  if (size <= kWhole) {
    crc = crc32c(file, 0, size);
  } else {
    for (uint64_t i = 0; i < kBlocks; ++i)
      crc = crc32c(file, (size - kBlock) / (kBlocks - 1) * i, kBlock, crc);
  }
  return fmt::format("{} bytes, checksum {:08x}", size, crc);
}

}  // namespace gigagpt::formats
