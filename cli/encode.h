// Text to token ids on all cores, in order.
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "formats/tokenizer.h"

namespace gigagpt::cli {

// Texts that are encoded together, one behind the other in `text`.
struct TextBatch {
  struct Part {
    size_t size_bytes;
    bool validation;     // else training
    bool ends_document;  // is followed by the end-of-text token
  };
  std::string text;
  std::vector<Part> parts;
  std::string where;  // the first of them, for messages
};

// Its tokens as they are written to train.bin and val.bin.
struct TokenBatch {
  std::string train, val;
};

// Threads that encode batches, and one that hands them on in the order in which they were added:
// what comes out does not depend on the number of threads. Few batches are under way at a time.
class Encoder {
 public:
  struct Settings {
    int token_bytes;                     // 2 or 4
    std::optional<int32_t> end_of_text;  // behind each document
    int threads;
  };
  // `write` is called from one thread. The tokenizer must outlive the encoder.
  Encoder(const formats::Tokenizer& tokenizer, const Settings& settings,
          std::function<void(const TokenBatch&)> write);
  ~Encoder();  // what was not written yet is dropped
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // Waits while too much is under way. Throws what a thread threw.
  void add(TextBatch batch);
  // Waits until all is written. Returns how often each token occurs.
  std::vector<int64_t> finish();

 private:
  void encode_batches() EXCLUDES(mutex_);
  void write_batches() EXCLUDES(mutex_);
  // Wait for what is to be encoded, or written, next; nothing if there will be no more.
  std::optional<std::pair<uint64_t, TextBatch>> next_texts() EXCLUDES(mutex_);
  std::optional<TokenBatch> next_tokens() EXCLUDES(mutex_);
  TokenBatch encode(const TextBatch& batch, std::vector<int64_t>& counts) const;
  void guarded(void (Encoder::*work)());

  const formats::Tokenizer& tokenizer_;
  const Settings settings_;
  const std::function<void(const TokenBatch&)> write_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::pair<uint64_t, TextBatch>> waiting_ GUARDED_BY(mutex_);  // with their numbers
  std::map<uint64_t, TokenBatch> encoded_ GUARDED_BY(mutex_);
  uint64_t added_ GUARDED_BY(mutex_) = 0, written_ GUARDED_BY(mutex_) = 0;
  bool all_added_ GUARDED_BY(mutex_) = false, dropped_ GUARDED_BY(mutex_) = false;
  std::exception_ptr error_ GUARDED_BY(mutex_);
  std::vector<int64_t> counts_ GUARDED_BY(mutex_);
  std::vector<std::jthread> threads_;  // last: they use all of the above
};

}  // namespace gigagpt::cli
