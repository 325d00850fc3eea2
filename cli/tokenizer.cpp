#include "cli/tokenizer.h"

#include <charconv>
#include <cstdio>

#include "base/error.h"
#include "cli/display.h"
#include "cli/prepare.h"
#include "formats/bpe_trainer.h"
#include "formats/corpus.h"
#include "formats/gpt2_split.h"
#include "formats/tokenizer.h"

namespace gigagpt::cli {
namespace {

constexpr size_t kBlockBytes = 1 << 20;  // of text, between lines of progress

void check_file(const std::string& input) {
  if (std::filesystem::is_directory(input)) fail("--input: {} is a directory", input);
}

// Counts the words of all documents; returns their bytes.
uint64_t read_all(const TokenizerArguments& arguments, Display& display,
                  formats::BpeTrainer& trainer) {
  formats::CorpusOptions options;
  options.text_field = arguments.text_field;
  options.piece_bytes = kBlockBytes;
  options.safe_cut = [](std::string_view text, size_t from) {
    return formats::safe_pre_token_cut(text, from, false);
  };
  uint64_t bytes = 0;
  display.share("reading", 0);
  const auto counts = formats::read_corpus(
      arguments.inputs, options,
      [&](const formats::TextPiece& piece) {
        trainer.add(piece.text);
        bytes += piece.text.size();
        return true;
      },
      [&](uint64_t done, uint64_t total) {
        display.share("reading", double(done) / double(total));
      });
  if (bytes > 0) return bytes;
  const std::string inputs = fmt::format("{}", fmt::join(arguments.inputs, ", "));
  if (counts.skipped_files == 0) fail("--input: {} is empty", inputs);
  fail("--input: {} has no text: files like {} are not read there", inputs, counts.first_skipped);
}

void train(const TokenizerArguments& arguments) {
  const Path out = arguments.out;
  refuse_foreign_folder(out, {"tokenizer.json"}, "a tokenizer");
  formats::BpeTrainer trainer;
  Display display;
  const uint64_t bytes = read_all(arguments, display, trainer);
  const auto progress = [&](double share) { display.share("merging", share); };
  const formats::Tokenizer tokenizer = [&] {
    try {
      return trainer.train(arguments.vocab_size, progress);
    } catch (const Error& error) {
      fail("--vocab_size: {}", error.what());
    }
  }();
  PendingDirectory pending(out);
  tokenizer.save(pending.path());
  pending.commit();
  if (trainer.forgotten() > 0) {
    display.line(fmt::format("note: {} rare words were forgotten, to stay within memory",
                             trainer.forgotten()));
  }
  fmt::print("{}: {} tokens, from {:.4g} MB of text\n", (out / "tokenizer.json").string(),
             tokenizer.vocab_size(), double(bytes) / 1e6);
}

std::string read_stdin() {
  std::string text;
  std::array<char, 1 << 16> block;
  while (const size_t size = std::fread(block.data(), 1, block.size(), stdin)) {
    text.append(block.data(), size);
  }
  if (std::ferror(stdin)) fail_errno("cannot read standard input");
  return text;
}

void put(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) {
    fail_errno("cannot write to standard output");
  }
}

void encode(const formats::Tokenizer& tokenizer, std::string_view text, bool special) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = special ? text.size() : tokenizer.safe_cut(text, begin + kBlockBytes);
    const std::string_view part = text.substr(begin, end - begin);
    const auto tokens = special ? tokenizer.encode_with_special(part) : tokenizer.encode(part);
    put(fmt::format("{}{}", begin == 0 ? "" : " ", fmt::join(tokens, " ")));
    begin = end;
  }
  put("\n");
}

void decode(const formats::Tokenizer& tokenizer, std::string_view ids, const std::string& where) {
  constexpr std::string_view kSpaces = " \t\r\n,";
  for (size_t begin = 0; (begin = ids.find_first_not_of(kSpaces, begin)) != ids.npos;) {
    const size_t end = std::min(ids.find_first_of(kSpaces, begin), ids.size());
    const std::string_view word = ids.substr(begin, end - begin);
    int32_t id = 0;
    const auto [rest, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    const bool known = error == std::errc() && rest == word.data() + word.size() && id >= 0 &&
                       id < tokenizer.vocab_size();
    if (!known) {
      fail("{}: '{}' at byte {} is not an id from 0 to {}", where, word.substr(0, 40), begin,
           tokenizer.vocab_size() - 1);
    }
    put(tokenizer.decode(id));
    begin = end;
  }
}

}  // namespace

void run_tokenizer(const TokenizerArguments& arguments) {
  using Action = TokenizerArguments::Action;
  if (arguments.action == Action::kTrain) return train(arguments);
  const auto tokenizer = formats::Tokenizer::load(arguments.tokenizer);
  const auto use = [&](std::string_view text, const std::string& where) {
    if (arguments.action == Action::kEncode) {
      encode(tokenizer, text, arguments.special);
    } else {
      decode(tokenizer, text, where);
    }
  };
  if (arguments.inputs.empty()) use(read_stdin(), "standard input");
  for (const std::string& input : arguments.inputs) {
    check_file(input);
    use(read_text(input), input);
  }
  if (std::fflush(stdout) != 0) fail_errno("cannot write to standard output");
}

}  // namespace gigagpt::cli
