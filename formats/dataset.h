// A data set on disk: train.bin and val.bin (little-endian token ids, as nanoGPT writes them), a
// meta.json that says how wide the ids are, and the tokenizer.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"

namespace gigagpt::formats {

struct DatasetMeta {
  int64_t vocab_size = 50257;  // a folder without meta.json holds GPT-2 tokens as uint16
  int token_bytes = 2;         // 2 or 4
};

// Reads directory/meta.json if there is one. Throws Error for one that makes no sense.
DatasetMeta read_dataset_meta(const Path& directory);
void write_dataset_meta(const Path& directory, const DatasetMeta& meta);

// The folder a config's `dataset` key means: the path itself, or data/<name>. Throws Error naming
// both when neither exists.
Path find_dataset(const std::string& dataset);

// The ids in a train.bin or val.bin. They are read and not mapped, as a map of a file that is
// shortened meanwhile would kill the program.
class TokenFile {
 public:
  TokenFile(const Path& path, const DatasetMeta& meta);
  int64_t size() const { return size_; }
  // Copies tokens [first, first + count) to `out`. Throws Error naming file and position if one is
  // not below `vocab_size`, or if the file has become shorter.
  void copy(int64_t first, int64_t count, int64_t vocab_size, int64_t* out) const;

 private:
  File file_;
  int token_bytes_;
  int64_t size_;
};

// Opens <dataset>/<split>.bin. Throws Error if it holds fewer than `min_tokens`, or if the data
// set's vocabulary is larger than `vocab_size`.
TokenFile open_split(const std::string& dataset, const std::string& split, int64_t vocab_size,
                     int64_t min_tokens);

// What tells copies of a file from others, for a message: its size, and a checksum of all of it, or
// of blocks throughout one that is large.
std::string fingerprint(const Path& path);

}  // namespace gigagpt::formats
