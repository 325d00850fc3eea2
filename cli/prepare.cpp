#include "cli/prepare.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "cli/display.h"
#include "formats/dataset.h"
#include "formats/tokenizer.h"

namespace gigagpt::cli {
namespace {

// Calls visit(code point) for each character of the files in order.
template <class Visit>
void for_each_character(const std::vector<std::string>& inputs, const char* what, Visit visit) {
  uint64_t total_bytes = 0, done_bytes = 0;
  for (const std::string& input : inputs) total_bytes += File::open_read(input).size_bytes();
  Display display;
  display.share(what, 0);
  for (const std::string& input : inputs) {
    if (std::filesystem::is_directory(input)) fail("--input: {} is a directory", input);
    const MappedFile file{Path(input)};
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                                file.bytes().size());
    for (size_t position = 0; position < text.size();) {
      visit(formats::next_code_point(text, position, input));
      if ((position & 0xFFFFF) == 0) {
        display.share(what, double(done_bytes + position) / double(total_bytes));
      }
    }
    done_bytes += text.size();
  }
}

// Collects ids and writes them to a file in blocks.
class TokenWriter {
 public:
  TokenWriter(const Path& path, int token_bytes)
      : file_(File::create(path)), token_bytes_(size_t(token_bytes)) {}

  void put(uint32_t token) {
    const char* bytes = reinterpret_cast<const char*>(&token);
    block_.append(bytes, token_bytes_);
    if (block_.size() >= 1 << 20) flush();
  }
  void flush() {
    file_.write(block_);
    block_.clear();
  }

 private:
  File file_;
  size_t token_bytes_;
  std::string block_;
};

void refuse_foreign_folder(const Path& out) {
  static const std::set<std::string> ours = {"train.bin", "val.bin", "meta.json", "tokenizer.json"};
  if (!std::filesystem::exists(out)) return;
  if (!std::filesystem::is_directory(out)) fail("--out: {} is not a folder", out.string());
  for (const auto& entry : std::filesystem::directory_iterator(out)) {
    if (ours.contains(entry.path().filename())) continue;
    fail("--out: {} holds {}, which is not part of a data set; choose another folder", out.string(),
         entry.path().filename().string());
  }
}

std::vector<char32_t> collect_alphabet(const PrepareArguments& arguments, int64_t& characters) {
  std::set<char32_t> alphabet;
  for_each_character(arguments.inputs, "reading", [&](char32_t c) {
    ++characters;
    alphabet.insert(c);
  });
  if (characters == 0) fail("--input: {} is empty", fmt::join(arguments.inputs, ", "));
  return {alphabet.begin(), alphabet.end()};
}

}  // namespace

void prepare(const PrepareArguments& arguments) {
  const Path out = arguments.out;
  refuse_foreign_folder(out);
  int64_t characters = 0;
  const formats::Tokenizer tokenizer(collect_alphabet(arguments, characters));
  const int64_t val_tokens = int64_t(double(characters) * arguments.val_fraction);
  const int64_t train_tokens = characters - val_tokens;
  const formats::DatasetMeta meta{tokenizer.vocab_size(), tokenizer.vocab_size() > 65536 ? 4 : 2};
  PendingDirectory pending(out);
  TokenWriter train(pending.path() / "train.bin", meta.token_bytes);
  TokenWriter val(pending.path() / "val.bin", meta.token_bytes);
  int64_t position = 0;
  for_each_character(arguments.inputs, "writing", [&](char32_t c) {
    TokenWriter& writer = position++ < train_tokens ? train : val;
    writer.put(uint32_t(tokenizer.token_of(c)));
  });
  train.flush();
  val.flush();
  formats::write_dataset_meta(pending.path(), meta);
  tokenizer.save(pending.path());
  pending.commit();
  fmt::print("{}: {} training and {} validation tokens; set vocab_size: {}\n", out.string(),
             train_tokens, val_tokens, meta.vocab_size);
}

}  // namespace gigagpt::cli
