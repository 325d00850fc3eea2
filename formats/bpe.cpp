#include "formats/bpe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <queue>

#include "base/error.h"
#include "formats/gpt2_split.h"
#include "formats/utf8.h"

namespace gigagpt::formats {
namespace {

constexpr size_t kShortBytes = 48;  // up to here looking at all pairs beats a queue

bool is_own_character(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct ByteCharacters {
  std::array<char32_t, 256> of_byte{};
  std::array<int16_t, 512> to_byte;  // -1: none
  ByteCharacters() {
    to_byte.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t c = is_own_character(byte) ? static_cast<char32_t>(byte) : next++;
      of_byte[static_cast<size_t>(byte)] = c;
      to_byte[c] = static_cast<int16_t>(byte);
    }
  }
};

const ByteCharacters& byte_characters() {
  static const ByteCharacters characters;
  return characters;
}

uint8_t byte_at(std::string_view text, size_t i) {
  return static_cast<uint8_t>(text[i]);
}

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The tokens of pre-tokens that a thread met, where short; each has one place, which the last
// takes.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 30, kMaxTokens = 8;

  struct alignas(64) Entry {
    uint8_t size_bytes;  // 0: empty
    uint8_t num_tokens;
    char bytes[kMaxBytes];
    int32_t tokens[kMaxTokens];

    bool holds(std::string_view word) const {
      return size_bytes == word.size() && std::memcmp(bytes, word.data(), word.size()) == 0;
    }
  };

  // This thread's, emptied if it was last used with another vocabulary.
  static WordCache& of_thread(uint64_t serial) {
    thread_local WordCache cache;
    if (cache.serial_ != serial) {
      cache.entries_ = std::make_unique<Entry[]>(kEntries);
      cache.serial_ = serial;
    }
    return cache;
  }

  Entry& place_of(std::string_view word) {
    return entries_[std::hash<std::string_view>()(word) % kEntries];
  }

 private:
  static constexpr size_t kEntries = 1 << 15;
  uint64_t serial_ = 0;
  std::unique_ptr<Entry[]> entries_;
};

uint64_t next_serial() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    append_utf8(text, byte_characters().of_byte[byte_at(bytes, i)]);
  }
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  for (size_t position = 0; position < text.size();) {
    const char32_t c = next_code_point(text, position, "token");
    const int byte = c < 512 ? byte_characters().to_byte[c] : -1;
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

std::array<uint8_t, 256> bytes_in_token_order() {
  std::array<uint8_t, 256> bytes{};
  size_t count = 0;
  for (const int16_t byte : byte_characters().to_byte) {
    if (byte >= 0) bytes[count++] = static_cast<uint8_t>(byte);
  }
  return bytes;
}

Bpe::Bpe(BpeVocabulary vocabulary) : vocabulary_(std::move(vocabulary)), serial_(next_serial()) {
  index_tokens();
  index_merges();
}

void Bpe::index_tokens() {
  // Like Hugging Face's decoder: a token that is not wholly in byte-level form is its own text.
  for (const std::string& text : vocabulary_.tokens) {
    bytes_.push_back(from_byte_level(text).value_or(text));
  }
  std::vector<bool> is_added(bytes_.size());
  for (const AddedToken& token : vocabulary_.added) {
    const auto id = static_cast<size_t>(token.id);
    bytes_[id] = vocabulary_.tokens[id];
    is_added[id] = true;
  }
  byte_tokens_.fill(-1);
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (is_added[id]) continue;
    // A text outside the byte-level form may be the bytes of another token, which comes first.
    const bool own = from_byte_level(vocabulary_.tokens[id]).has_value();
    if (own) ids_[bytes_[id]] = static_cast<int32_t>(id);
    if (own && bytes_[id].size() == 1)
      byte_tokens_[byte_at(bytes_[id], 0)] = static_cast<int32_t>(id);
  }
  for (const int32_t token : byte_tokens_) GIGAGPT_ASSERT(token >= 0);
  longest_added_first_ = vocabulary_.added;
  std::stable_sort(longest_added_first_.begin(), longest_added_first_.end(),
                   [&](const AddedToken& a, const AddedToken& b) {
                     return bytes_of(a.id).size() > bytes_of(b.id).size();
                   });
}

void Bpe::index_merges() {
  size_t count = 16;
  while (count < 2 * vocabulary_.merges.size()) count *= 2;
  slots_.resize(count);
  for (size_t i = 0; i < vocabulary_.merges.size(); ++i) {
    const uint64_t pair = pair_key(vocabulary_.merges[i].left, vocabulary_.merges[i].right);
    slots_[slot_of(pair)] = {pair, static_cast<uint32_t>(i)};
  }
  byte_ranks_.resize(256 * 256);
  for (size_t i = 0; i < byte_ranks_.size(); ++i) {
    byte_ranks_[i] = rank(byte_tokens_[i >> 8], byte_tokens_[i & 0xFF]);
  }
}

size_t Bpe::slot_of(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  uint64_t hash = pair * 0x9E3779B97F4A7C15U;  // Fibonacci hashing: the high bits are mixed best
  hash ^= hash >> 32;
  size_t slot = hash & mask;
  while (slots_[slot].pair != pair && slots_[slot].pair != UINT64_MAX) slot = (slot + 1) & mask;
  return slot;
}

uint32_t Bpe::rank(int32_t left, int32_t right) const {
  return slots_[slot_of(pair_key(left, right))].rank;
}

std::optional<int32_t> Bpe::find(std::string_view bytes) const {
  const auto found = ids_.find(bytes);
  return found == ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
}

const AddedToken* Bpe::find_added(int32_t token) const {
  for (const AddedToken& added : vocabulary_.added) {
    if (added.id == token) return &added;
  }
  return nullptr;
}

void Bpe::encode(std::string_view text, std::vector<int32_t>& tokens) const {
  if (text.empty()) return;
  std::string prefixed;
  if (vocabulary_.add_prefix_space && text.front() != ' ') {
    prefixed = " ";
    prefixed += text;
    text = prefixed;
  }
  WordCache& cache = WordCache::of_thread(serial_);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_token_end(text, begin);
    const std::string_view word = text.substr(begin, end - begin);
    begin = end;
    if (word.size() > WordCache::kMaxBytes) {
      append_word(word, tokens);
      continue;
    }
    WordCache::Entry& entry = cache.place_of(word);
    if (entry.holds(word)) {
      tokens.insert(tokens.end(), entry.tokens, entry.tokens + entry.num_tokens);
      continue;
    }
    const size_t first = tokens.size();
    append_word(word, tokens);
    const size_t count = tokens.size() - first;
    if (count > WordCache::kMaxTokens) continue;
    entry.size_bytes = static_cast<uint8_t>(word.size());
    entry.num_tokens = static_cast<uint8_t>(count);
    std::memcpy(entry.bytes, word.data(), word.size());
    std::copy_n(tokens.begin() + static_cast<ptrdiff_t>(first), count, entry.tokens);
  }
}

void Bpe::append_word(std::string_view word, std::vector<int32_t>& tokens) const {
  if (word.size() <= kShortBytes) {
    append_short(word, tokens);
  } else {
    append_long(word, tokens);
  }
}

void Bpe::append_short(std::string_view word, std::vector<int32_t>& tokens) const {
  std::array<int32_t, kShortBytes> ids;
  std::array<uint32_t, kShortBytes> ranks;  // of a token and the one after it
  size_t count = word.size();
  for (size_t i = 0; i < count; ++i) {
    ids[i] = byte_tokens_[byte_at(word, i)];
    if (i > 0) ranks[i - 1] = byte_ranks_[size_t{byte_at(word, i - 1)} << 8 | byte_at(word, i)];
  }
  while (count > 1) {
    const auto end = ranks.begin() + static_cast<ptrdiff_t>(count) - 1;
    const auto best = std::min_element(ranks.begin(), end);  // the first of equals
    if (*best == kNoMerge) break;
    const auto i = static_cast<size_t>(best - ranks.begin());
    ids[i] = vocabulary_.merges[*best].result;
    --count;
    for (size_t j = i + 1; j < count; ++j) {
      ids[j] = ids[j + 1];
      ranks[j - 1] = ranks[j];
    }
    if (i + 1 < count) ranks[i] = rank(ids[i], ids[i + 1]);
    if (i > 0) ranks[i - 1] = rank(ids[i - 1], ids[i]);
  }
  tokens.insert(tokens.end(), ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count));
}

// The same with neighbours linked and what can be joined in a queue: n log n for n bytes.
void Bpe::append_long(std::string_view word, std::vector<int32_t>& tokens) const {
  struct Part {
    int32_t token;  // -1: joined to one before
    size_t previous, next;
  };
  struct Candidate {
    uint32_t rank;
    size_t place;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };
  const size_t size = word.size();
  std::vector<Part> parts(size);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto propose = [&](size_t left) {
    const size_t right = parts[left].next;
    const uint32_t best = rank(parts[left].token, parts[right].token);
    if (best != kNoMerge) queue.push({best, left});
  };
  for (size_t i = 0; i < size; ++i) parts[i] = {byte_tokens_[byte_at(word, i)], i - 1, i + 1};
  for (size_t i = 0; i + 1 < size; ++i) propose(i);
  while (!queue.empty()) {
    const auto [best, left] = queue.top();
    queue.pop();
    const BpeVocabulary::Merge& merge = vocabulary_.merges[best];
    const size_t right = parts[left].next;
    // What was proposed may have changed since.
    if (parts[left].token != merge.left || right == size || parts[right].token != merge.right) {
      continue;
    }
    parts[left].token = merge.result;
    parts[left].next = parts[right].next;
    parts[right].token = -1;
    if (parts[left].next < size) {
      parts[parts[left].next].previous = left;
      propose(left);
    }
    if (left > 0) propose(parts[left].previous);
  }
  for (size_t i = 0; i < size; i = parts[i].next) tokens.push_back(parts[i].token);
}

const AddedToken* Bpe::added_at(std::string_view text, bool normalized) const {
  for (const AddedToken& added : longest_added_first_) {
    if (added.normalized == normalized && text.starts_with(bytes_of(added.id))) return &added;
  }
  return nullptr;
}

// Those that are not normalized are looked for in the whole text, then the others between them.
void Bpe::encode_parts(std::string_view text, bool normalized, std::vector<int32_t>& tokens) const {
  const auto encode_between = [&](std::string_view part) {
    if (normalized) {
      encode(part, tokens);
    } else {
      encode_parts(part, true, tokens);
    }
  };
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const AddedToken* const added = added_at(text.substr(i), normalized);
    if (added == nullptr) {
      ++i;
      continue;
    }
    encode_between(text.substr(begin, i - begin));
    tokens.push_back(added->id);
    i += bytes_of(added->id).size();
    begin = i;
  }
  encode_between(text.substr(begin));
}

void Bpe::encode_with_added(std::string_view text, std::vector<int32_t>& tokens) const {
  encode_parts(text, false, tokens);
}

size_t Bpe::safe_cut(std::string_view text, size_t from) const {
  return safe_pre_token_cut(text, from, vocabulary_.add_prefix_space);
}

}  // namespace gigagpt::formats
