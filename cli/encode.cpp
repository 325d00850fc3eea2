#include "cli/encode.h"

#include "base/error.h"

namespace gigagpt::cli {

Encoder::Encoder(const formats::Tokenizer& tokenizer, const Settings& settings,
                 std::function<void(const TokenBatch&)> write)
    : tokenizer_(tokenizer),
      settings_(settings),
      write_(std::move(write)),
      counts_(size_t(tokenizer.vocab_size())) {
  threads_.emplace_back([this] { guarded(&Encoder::write_batches); });
  for (int i = 0; i < settings_.threads; ++i) {
    threads_.emplace_back([this] { guarded(&Encoder::encode_batches); });
  }
}

Encoder::~Encoder() {
  const MutexLock lock(mutex_);
  dropped_ = true;
  changed_.notify_all();
}

void Encoder::guarded(void (Encoder::*work)()) {
  try {
    (this->*work)();
  } catch (...) {
    const MutexLock lock(mutex_);
    if (!error_) error_ = std::current_exception();
    dropped_ = true;
    changed_.notify_all();
  }
}

void Encoder::add(TextBatch batch) {
  const MutexLock lock(mutex_);
  const uint64_t most = 2 * uint64_t(settings_.threads) + 2;
  while (!error_ && added_ - written_ >= most) changed_.wait(mutex_);
  if (error_) std::rethrow_exception(error_);
  waiting_.emplace_back(added_++, std::move(batch));
  changed_.notify_all();
}

std::vector<int64_t> Encoder::finish() {
  {
    const MutexLock lock(mutex_);
    all_added_ = true;
    changed_.notify_all();
  }
  for (std::jthread& thread : threads_) thread.join();
  const MutexLock lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  return counts_;
}

std::optional<std::pair<uint64_t, TextBatch>> Encoder::next_texts() {
  const MutexLock lock(mutex_);
  while (!dropped_ && !all_added_ && waiting_.empty()) changed_.wait(mutex_);
  if (dropped_ || waiting_.empty()) return std::nullopt;
  auto next = std::move(waiting_.front());
  waiting_.pop_front();
  return next;
}

void Encoder::encode_batches() {
  std::vector<int64_t> counts(size_t(tokenizer_.vocab_size()));
  while (const auto texts = next_texts()) {
    TokenBatch tokens = encode(texts->second, counts);
    const MutexLock lock(mutex_);
    encoded_.emplace(texts->first, std::move(tokens));
    changed_.notify_all();
  }
  const MutexLock lock(mutex_);
  for (size_t i = 0; i < counts.size(); ++i) counts_[i] += counts[i];
}

std::optional<TokenBatch> Encoder::next_tokens() {
  const MutexLock lock(mutex_);
  while (true) {
    if (dropped_ || (all_added_ && written_ == added_)) return std::nullopt;
    if (encoded_.contains(written_)) return std::move(encoded_.extract(written_).mapped());
    changed_.wait(mutex_);
  }
}

void Encoder::write_batches() {
  while (const auto tokens = next_tokens()) {
    write_(*tokens);
    const MutexLock lock(mutex_);
    ++written_;
    changed_.notify_all();
  }
}

TokenBatch Encoder::encode(const TextBatch& batch, std::vector<int64_t>& counts) const {
  TokenBatch out;
  const auto put = [&](std::string& bytes, int32_t token) {
    ++counts[size_t(token)];
    bytes.append(reinterpret_cast<const char*>(&token), size_t(settings_.token_bytes));
  };
  std::string_view rest = batch.text;
  for (const TextBatch::Part& part : batch.parts) {
    std::string& bytes = part.validation ? out.val : out.train;
    try {
      for (const int32_t token : tokenizer_.encode(rest.substr(0, part.size_bytes))) {
        put(bytes, token);
      }
    } catch (const Error& error) {
      fail("at or shortly after {}: {}", batch.where, error.what());
    }
    if (part.ends_document && settings_.end_of_text) put(bytes, *settings_.end_of_text);
    rest.remove_prefix(part.size_bytes);
  }
  return out;
}

}  // namespace gigagpt::cli
