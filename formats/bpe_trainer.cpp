#include "formats/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <queue>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "formats/bpe.h"
#include "formats/gpt2_split.h"

namespace gigagpt::formats {
namespace {

// What a pre-token takes while its pairs are counted.
size_t memory_of(size_t size_bytes) {
  return 96 + 16 * size_bytes;
}

// Of all pre-tokens, with where each pair of neighbours is, so that a merge looks only there.
class PairCounts {
 public:
  PairCounts() {
    for (const uint8_t byte : bytes_in_token_order()) {
      tokens_.push_back(std::string(1, static_cast<char>(byte)));
      byte_tokens_[byte] = static_cast<int32_t>(tokens_.size()) - 1;
      ids_[tokens_.back()] = byte_tokens_[byte];
    }
    symbols_.push_back(kEdge);
  }

  void add(std::string_view word, int64_t count) {
    GIGAGPT_ASSERT(symbols_.size() + word.size() < UINT32_MAX);
    const auto number = static_cast<uint32_t>(word_counts_.size());
    word_counts_.push_back(count);
    for (size_t i = 0; i < word.size(); ++i) {
      symbols_.push_back(byte_tokens_[static_cast<uint8_t>(word[i])]);
      if (i == 0) continue;
      const size_t left = symbols_.size() - 2;
      gain({symbols_[left], symbols_[left + 1]}, {static_cast<uint32_t>(left), number});
    }
    symbols_.push_back(kEdge);
  }

  // Merges the most frequent pair. False if there is none.
  bool merge_next() {
    for (const PairKey key : gained_)
      queue_.push({pairs_.contains(key) ? pairs_[key].count : 0, key});
    gained_.clear();
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(best.key);
      if (found == pairs_.end()) continue;
      // Counts only sink until they are gained, and then they are in the queue anew.
      if (found->second.count != best.count) {
        queue_.push({found->second.count, best.key});
        continue;
      }
      merge(best.key);
      return true;
    }
    return false;
  }

  const std::vector<std::string>& tokens() const { return tokens_; }  // bytes by id
  const std::vector<BpeVocabulary::Merge>& merges() const { return merges_; }

 private:
  // Of symbols that are no token: beside each pre-token; inside of one; and -size at the last byte
  // of a token of several.
  static constexpr int32_t kEdge = -1, kInside = INT32_MIN;

  struct PairKey {
    int32_t left, right;
    bool operator==(const PairKey&) const = default;
    bool operator<(const PairKey& other) const {
      return left != other.left ? left < other.left : right < other.right;
    }
  };
  struct PairHash {
    size_t operator()(const PairKey& key) const {
      const uint64_t both =
          static_cast<uint64_t>(key.left) << 32 | static_cast<uint32_t>(key.right);
      return both * 0x9E3779B97F4A7C15U >> 20;
    }
  };
  struct Place {
    uint32_t position;  // of the left token
    uint32_t word;
  };
  struct Pair {
    int64_t count = 0;
    uint32_t gained_at = UINT32_MAX;  // the merge
    std::vector<Place> places;        // some of them no longer
  };
  struct Candidate {
    int64_t count;
    PairKey key;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : other.key < key;
    }
  };

  void gain(PairKey key, Place place) {
    Pair& pair = pairs_[key];
    pair.count += word_counts_[place.word];
    pair.places.push_back(place);
    if (pair.gained_at == step_) return;
    pair.gained_at = step_;
    gained_.push_back(key);
  }

  void lose(PairKey key, int64_t count) {
    const auto found = pairs_.find(key);
    if (found == pairs_.end()) return;  // the pair that is being merged
    found->second.count -= count;
    if (found->second.count == 0) pairs_.erase(found);
  }

  size_t size_of(int32_t token) const { return tokens_[static_cast<size_t>(token)].size(); }

  // The token of both, which may be known by another merge.
  int32_t token_of_both(PairKey key) {
    const std::string text =
        tokens_[static_cast<size_t>(key.left)] + tokens_[static_cast<size_t>(key.right)];
    const auto [found, is_new] = ids_.emplace(text, static_cast<int32_t>(tokens_.size()));
    if (is_new) tokens_.push_back(text);
    return found->second;
  }

  void merge(PairKey key) {
    ++step_;
    const int32_t token = token_of_both(key);
    // Neighbours that became such after their pair was merged are merged again, at its first rank.
    if (merged_.insert(key).second) merges_.push_back({key.left, key.right, token});
    std::vector<Place> places = std::move(pairs_[key].places);
    pairs_.erase(key);
    if (key.left == key.right) {  // "aaa" is "aa" and "a"
      std::sort(places.begin(), places.end(),
                [](const Place& a, const Place& b) { return a.position < b.position; });
    }
    for (const Place& place : places) merge_at(place, key, token);
  }

  void merge_at(Place place, PairKey key, int32_t token) {
    const size_t left = place.position;
    if (symbols_[left] != key.left) return;
    const size_t right = left + size_of(key.left);
    if (symbols_[right] != key.right) return;
    const size_t end = right + size_of(key.right);
    const int64_t count = word_counts_[place.word];
    if (symbols_[left - 1] != kEdge) {
      const int32_t last = symbols_[left - 1];
      const size_t previous = last >= 0 ? left - 1 : left - static_cast<size_t>(-last);
      lose({symbols_[previous], key.left}, count);
      gain({symbols_[previous], token}, {static_cast<uint32_t>(previous), place.word});
    }
    if (symbols_[end] != kEdge) {
      lose({key.right, symbols_[end]}, count);
      gain({token, symbols_[end]}, place);
    }
    symbols_[left] = token;
    symbols_[right] = kInside;
    symbols_[end - 1] = -static_cast<int32_t>(end - left);
  }

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  std::array<int32_t, 256> byte_tokens_{};
  std::vector<BpeVocabulary::Merge> merges_;
  std::unordered_set<PairKey, PairHash> merged_;
  std::vector<int64_t> word_counts_;
  std::vector<int32_t> symbols_;  // of all pre-tokens, one a byte; a token is at its first
  std::unordered_map<PairKey, Pair, PairHash> pairs_;
  std::vector<PairKey> gained_;  // since the last merge was chosen
  std::priority_queue<Candidate> queue_;
  uint32_t step_ = 0;
};

}  // namespace

BpeTrainer::BpeTrainer(size_t max_memory_bytes)
    : max_memory_bytes_(std::min(max_memory_bytes, size_t{16} << 31)) {}  // positions have 32 bits

void BpeTrainer::add(std::string_view document) {
  for (size_t begin = 0; begin < document.size();) {
    const size_t end = pre_token_end(document, begin);
    const std::string_view word = document.substr(begin, end - begin);
    begin = end;
    const auto found = counts_.find(word);
    if (found != counts_.end()) {
      ++found->second;
      continue;
    }
    counts_.emplace(word, 1);
    memory_bytes_ += memory_of(word.size());
    if (memory_bytes_ > max_memory_bytes_) forget_rare();
  }
}

void BpeTrainer::forget_rare() {
  for (int64_t rare = 1; memory_bytes_ > max_memory_bytes_ / 2; rare *= 2) {
    std::erase_if(counts_, [&](const auto& entry) {
      if (entry.second > rare) return false;
      memory_bytes_ -= memory_of(entry.first.size());
      forgotten_ += entry.second;
      return true;
    });
  }
}

Tokenizer BpeTrainer::train(int64_t vocab_size, const std::function<void(double)>& progress) const {
  GIGAGPT_ASSERT(vocab_size >= kMinVocabSize && vocab_size < INT32_MAX);
  const auto wanted = static_cast<size_t>(vocab_size) - 1;  // without <|endoftext|>
  PairCounts counts;
  for (const auto& [word, count] : counts_) counts.add(word, count);
  const size_t first = counts.tokens().size();
  while (counts.tokens().size() < wanted) {
    const size_t size = counts.tokens().size();
    progress(static_cast<double>(size - first) / static_cast<double>(wanted - first));
    if (counts.merge_next()) continue;
    fail("a vocabulary of {} tokens is more than this text gives: at most {}", vocab_size,
         size + 1);
  }
  BpeVocabulary vocabulary;
  for (const std::string& bytes : counts.tokens())
    vocabulary.tokens.push_back(to_byte_level(bytes));
  vocabulary.merges = counts.merges();
  vocabulary.added.push_back({static_cast<int32_t>(wanted), true, false});
  vocabulary.tokens.push_back(std::string(kEndOfText));
  return Tokenizer(Bpe(std::move(vocabulary)));
}

}  // namespace gigagpt::formats
