#include "cli/sample.h"

#include <cstdio>
#include <iostream>

#include "base/error.h"
#include "cli/compute_parts.h"
#include "cli/output.h"
#include "engine/run/resume.h"
#include "formats/json.h"
#include "formats/utf8.h"
#include "gpt/sample.h"

namespace gigagpt::cli {
namespace {

// Prints the bytes of tokens as they come, but no character before it is whole.
class Printer {
 public:
  void put(const std::string& bytes) {
    text_ += bytes;
    const size_t whole = formats::whole_characters(text_);
    fmt::print("{}", text_.substr(0, whole));
    std::fflush(stdout);
    text_.erase(0, whole);
  }
  void finish() {
    fmt::print("{}", text_);
    text_.clear();
  }

 private:
  std::string text_;
};

// A line of JSON for each new token, with the logits of the whole vocabulary.
class LogitsFile {
 public:
  explicit LogitsFile(const std::optional<std::string>& path) {
    if (path) file_.emplace(File::create(*path));
  }
  void put(int32_t token, std::span<const float> logits) {
    if (!file_) return;
    const nlohmann::ordered_json row = {
        {"token", token}, {"logits", std::vector<float>(logits.begin(), logits.end())}};
    file_->write(formats::to_text(row) + "\n");
  }

 private:
  std::optional<File> file_;
};

class Answers {
 public:
  Answers(const SampleArguments& arguments, Sampler& sampler, int64_t vocab_size)
      : arguments_(arguments),
        sampler_(sampler),
        vocab_size_(vocab_size),
        logits_(arguments.logits) {}

  void give(const std::string& prompt) {
    const auto& tokenizer = sampler_.tokenizer();
    const auto prompt_tokens = tokenizer.encode_with_special(prompt);
    if (int64_t(prompt_tokens.size()) >= arguments_.max_length) {
      fail("--max_length: {} leaves no room after the {} tokens of the prompt",
           arguments_.max_length, prompt_tokens.size());
    }
    for (const int32_t token : prompt_tokens) {
      if (token < vocab_size_) continue;
      fail(
          "the prompt has token {}, '{}', but the model's vocab_size is {}: this is not the "
          "tokenizer that it was trained with",
          token, tokenizer.decode(token), vocab_size_);
    }
    const int64_t ngram =
        arguments_.no_repeat_ngram_size.value_or(tokenizer.is_character_level() ? 0 : 3);
    for (int64_t i = 0; i < arguments_.num_samples; ++i) {
      fmt::print("{}", prompt);
      const SampleOptions options{{arguments_.temperature, arguments_.top_k, ngram},
                                  arguments_.max_length,
                                  uint64_t(arguments_.seed + i)};
      Printer printer;
      sampler_.generate(prompt, options, [&](int32_t token, std::span<const float> logits) {
        logits_.put(token, logits);
        if (token == tokenizer.end_of_text()) return false;
        printer.put(tokenizer.decode(token));
        return true;
      });
      printer.finish();
      fmt::print("{}", i + 1 < arguments_.num_samples ? "\n---\n" : "\n");
    }
  }

 private:
  const SampleArguments& arguments_;
  Sampler& sampler_;
  int64_t vocab_size_;
  LogitsFile logits_;
};

formats::Tokenizer tokenizer_of(const SampleArguments& arguments, const Path& checkpoint) {
  if (arguments.tokenizer) return formats::Tokenizer::load(*arguments.tokenizer);
  std::error_code ignored;
  for (const char* file : {"tokenizer.json", "vocab.json", "encoder.json"}) {
    if (std::filesystem::exists(checkpoint / file, ignored))
      return formats::Tokenizer::load(checkpoint);
  }
  fail(
      "{} has no tokenizer, as the data set that it was trained on had none; give the one that "
      "made "
      "the data with --tokenizer DIR",
      checkpoint.string());
}

}  // namespace

void sample(const SampleArguments& arguments) {
  set_threads(arguments.threads);
  const Path checkpoint = engine::find_checkpoint(arguments.checkpoint_path, "out");
  GPTConfig config = GPTConfig::of_checkpoint(checkpoint);
  config.precision = arguments.precision;
  config.storage.memory_gb = arguments.memory_gb;
  config.out_dir = checkpoint.string();  // for scratch
  Display display;
  Sampler sampler(checkpoint, tokenizer_of(arguments, checkpoint), config,
                  follow(display, "loading"));
  Answers answers(arguments, sampler, config.vocab_size);
  if (arguments.prompt) return answers.give(*arguments.prompt);
  for (std::string prompt; true;) {
    fmt::print("Enter a prompt (RETURN to exit): ");
    std::fflush(stdout);
    if (!std::getline(std::cin, prompt) || prompt.empty()) return;
    try {
      answers.give(prompt);
    } catch (const Error& error) {
      print_message("{}", error.what());
    }
  }
}

}  // namespace gigagpt::cli
