// What `prepare --stats` tells of documents and their tokens.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/corpus.h"

namespace gigagpt::cli {

// Bits per token of a model that knows nothing but how often each token occurs.
double unigram_entropy(std::span<const int64_t> token_counts);

// Keeps 16 bytes a document.
class CorpusStats {
 public:
  CorpusStats();
  ~CorpusStats();
  void add(const formats::TextPiece& piece);  // in order
  // The table, a line a figure; `token_counts` has how often each token occurs.
  std::string table(std::span<const int64_t> token_counts);

 private:
  struct Hash;
  std::unique_ptr<Hash> hash_;  // of the document that is being read
  std::vector<std::array<uint64_t, 2>> hashes_;
  uint64_t bytes_ = 0, document_bytes_ = 0, longest_bytes_ = 0;
  std::string longest_;
};

}  // namespace gigagpt::cli
