#include "cli/corpus_stats.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "cli/display.h"

namespace gigagpt::cli {

double unigram_entropy(std::span<const int64_t> token_counts) {
  const auto all = double(std::accumulate(token_counts.begin(), token_counts.end(), int64_t{0}));
  double bits = 0;
  for (const int64_t count : token_counts) {
    if (count > 0) bits -= double(count) / all * std::log2(double(count) / all);
  }
  return bits;
}

struct CorpusStats::Hash {
  XXH3_state_t* state = XXH3_createState();
  Hash() { XXH3_128bits_reset(state); }
  ~Hash() { XXH3_freeState(state); }
};

CorpusStats::CorpusStats() : hash_(std::make_unique<Hash>()) {}
CorpusStats::~CorpusStats() = default;

void CorpusStats::add(const formats::TextPiece& piece) {
  XXH3_128bits_update(hash_->state, piece.text.data(), piece.text.size());
  bytes_ += piece.text.size();
  document_bytes_ += piece.text.size();
  if (document_bytes_ > longest_bytes_) {
    longest_bytes_ = document_bytes_;
    longest_ = piece.where;
  }
  if (!piece.ends_document) return;
  const XXH128_hash_t hash = XXH3_128bits_digest(hash_->state);
  hashes_.push_back({hash.high64, hash.low64});
  XXH3_128bits_reset(hash_->state);
  document_bytes_ = 0;
}

std::string CorpusStats::table(std::span<const int64_t> token_counts) {
  const auto documents = int64_t(hashes_.size());
  std::sort(hashes_.begin(), hashes_.end());
  const auto unique = std::unique(hashes_.begin(), hashes_.end()) - hashes_.begin();
  const int64_t duplicates = documents - unique;
  const int64_t tokens = std::accumulate(token_counts.begin(), token_counts.end(), int64_t{0});
  const double bits = unigram_entropy(token_counts);
  std::string text;
  const auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<20} {}\n", name, value);
  };
  line("documents", grouped(documents));
  line("bytes", grouped(int64_t(bytes_)));
  line("tokens", grouped(tokens));
  line("bytes per token",
       fmt::format("{:.3f}", double(bytes_) / double(std::max<int64_t>(tokens, 1))));
  line("exact duplicates",
       fmt::format("{} documents, {:.2f} %", grouped(duplicates),
                   100.0 * double(duplicates) / double(std::max<int64_t>(documents, 1))));
  line("unigram entropy", fmt::format("{:.4f} bits a token: the loss of a unigram model is {:.4f}",
                                      bits, bits * std::numbers::ln2));
  line("longest document", fmt::format("{} bytes: {}", grouped(int64_t(longest_bytes_)), longest_));
  return text;
}

}  // namespace gigagpt::cli
