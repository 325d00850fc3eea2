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
  const std::lock_guard lock(mutex_);
  dropped_ = true;
  changed_.notify_all();
}

void Encoder::guarded(void (Encoder::*work)()) {
  try {
    (this->*work)();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    dropped_ = true;
    changed_.notify_all();
  }
}

void Encoder::add(TextBatch batch) {
  std::unique_lock lock(mutex_);
  const auto most = uint64_t(2 * settings_.threads + 2);
  changed_.wait(lock, [&] { return error_ || added_ - written_ < most; });
  if (error_) std::rethrow_exception(error_);
  waiting_.emplace_back(added_++, std::move(batch));
  changed_.notify_all();
}

std::vector<int64_t> Encoder::finish() {
  std::unique_lock lock(mutex_);
  all_added_ = true;
  changed_.notify_all();
  lock.unlock();
  for (std::jthread& thread : threads_) thread.join();
  if (error_) std::rethrow_exception(error_);
  return counts_;
}

void Encoder::encode_batches() {
  std::vector<int64_t> counts(counts_.size());
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return dropped_ || all_added_ || !waiting_.empty(); });
    if (dropped_ || waiting_.empty()) break;
    const auto [number, batch] = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    TokenBatch tokens = encode(batch, counts);
    lock.lock();
    encoded_.emplace(number, std::move(tokens));
    changed_.notify_all();
  }
  for (size_t i = 0; i < counts.size(); ++i) counts_[i] += counts[i];
}

void Encoder::write_batches() {
  std::unique_lock lock(mutex_);
  while (true) {
    const auto all_written = [&] { return all_added_ && written_ == added_; };
    changed_.wait(lock, [&] { return dropped_ || all_written() || encoded_.contains(written_); });
    if (dropped_ || all_written()) return;
    const TokenBatch tokens = std::move(encoded_.extract(written_).mapped());
    lock.unlock();
    write_(tokens);
    lock.lock();
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
      fail("{} or shortly behind it: {}", batch.where, error.what());
    }
    if (part.ends_document && settings_.end_of_text) put(bytes, *settings_.end_of_text);
    rest.remove_prefix(part.size_bytes);
  }
  return out;
}

}  // namespace gigagpt::cli
