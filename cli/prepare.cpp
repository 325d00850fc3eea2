#include "cli/prepare.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/random.h"
#include "base/system.h"
#include "cli/corpus_stats.h"
#include "cli/display.h"
#include "cli/encode.h"
#include "cli/output.h"
#include "cli/signals.h"
#include "formats/corpus.h"
#include "formats/dataset.h"
#include "formats/tokenizer.h"
#include "formats/utf8.h"

namespace gigagpt::cli {
namespace {

constexpr size_t kBatchBytes = 1 << 18;  // of text that is encoded at once
constexpr size_t kBatchParts = 1 << 14;

// Goes through the input's pieces with a line of progress. Ctrl-C ends it with an Error.
formats::CorpusCounts read_pieces(const PrepareArguments& arguments, const char* what,
                                  const std::function<bool(const formats::TextPiece&)>& visit,
                                  const formats::Tokenizer* tokenizer = nullptr) {
  formats::CorpusOptions options;
  if (tokenizer != nullptr) {
    options.safe_cut = [&](std::string_view text, size_t from) {
      return tokenizer->safe_cut(text, from);
    };
  }
  options.text_field = arguments.text_field;
  options.piece_bytes = kBatchBytes;
  Display display;
  display.share(what, 0);
  const auto progress = [&](uint64_t done_bytes, uint64_t total_bytes) {
    if (stop_requested()) fail("prepare was stopped; nothing was written");
    if (done_bytes > 0) display.share(what, double(done_bytes) / double(total_bytes));
  };
  return formats::read_corpus(arguments.inputs, options, visit, progress);
}

// What the whole input must be read for before its first token can be written.
struct Survey {
  std::vector<char32_t> alphabet;
  uint64_t characters = 0;
  bool one_document = false;
};

Survey survey_alphabet(const PrepareArguments& arguments) {
  Survey survey;
  std::vector<bool> seen(0x110000);
  read_pieces(arguments, "reading", [&](const formats::TextPiece& piece) {
    for (size_t position = 0; position < piece.text.size(); ++survey.characters) {
      seen[formats::next_code_point(piece.text, position, piece.where)] = true;
    }
    return true;
  });
  for (char32_t c = 0; c < seen.size(); ++c) {
    if (seen[c]) survey.alphabet.push_back(c);
  }
  return survey;
}

// Without need for `all` ends at the second document.
Survey survey_documents(const PrepareArguments& arguments, bool all) {
  Survey survey;
  uint64_t documents = 0;
  read_pieces(arguments, "reading", [&](const formats::TextPiece& piece) {
    survey.characters += formats::count_characters(piece.text);
    if (piece.ends_document) ++documents;
    return all || documents < 2;
  });
  survey.one_document = documents == 1;
  return survey;
}

formats::Tokenizer load_tokenizer(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    fail("--tokenizer: '{}' is neither char nor a tokenizer's folder or file", path);
  }
  return formats::Tokenizer::load(path);
}

// Which texts are for validation.
class Split {
 public:
  // By document: the same seed puts the same documents there.
  Split(double val_fraction, int64_t seed)
      : val_fraction_(val_fraction), key_(mix(uint64_t(seed), hash_name("validation documents"))) {}
  // The last part of the whole text. nanoGPT rounds so, too.
  Split(double val_fraction, uint64_t characters)
      : train_characters_(uint64_t(double(characters) * (1 - val_fraction))) {}

  // Adds the piece to the batch, in two parts if the border lies in it.
  void add(const formats::TextPiece& piece, TextBatch& batch) {
    if (batch.parts.empty()) batch.where = piece.where;
    batch.text += piece.text;
    const size_t size_bytes = piece.text.size();
    if (!train_characters_) {
      const bool validation = uniform(philox(key_, document_)[0]) < val_fraction_;
      batch.parts.push_back({size_bytes, validation, piece.ends_document});
      if (piece.ends_document) ++document_;
      return;
    }
    const size_t train_bytes = first_bytes(piece.text, *train_characters_);
    *train_characters_ -= formats::count_characters(piece.text.substr(0, train_bytes));
    if (train_bytes > 0) batch.parts.push_back({train_bytes, false, false});
    if (train_bytes < size_bytes) batch.parts.push_back({size_bytes - train_bytes, true, false});
  }

 private:
  // How many bytes that many of its first characters take; all if it has fewer.
  static size_t first_bytes(std::string_view text, uint64_t characters) {
    if (text.size() <= characters) return text.size();
    size_t position = 0;
    while (position < text.size() && characters > 0) {
      formats::next_code_point(text, position, "text");
      --characters;
    }
    return position;
  }

  double val_fraction_ = 0;
  uint64_t key_ = 0, document_ = 0;
  std::optional<uint64_t> train_characters_;  // still to come
};

// The data set's files, or nothing if only figures are wanted.
class Writer {
 public:
  Writer(const std::string& out, int token_bytes) : token_bytes_(token_bytes) {
    if (out.empty()) return;
    pending_.emplace(out);
    train_.emplace(File::create(pending_->path() / "train.bin"));
    val_.emplace(File::create(pending_->path() / "val.bin"));
  }
  void write(const TokenBatch& batch) {
    train_tokens_ += int64_t(batch.train.size()) / token_bytes_;
    val_tokens_ += int64_t(batch.val.size()) / token_bytes_;
    if (!pending_) return;
    train_->write(batch.train);
    val_->write(batch.val);
  }
  void commit(const formats::Tokenizer& tokenizer) {
    if (!pending_) return;
    formats::write_dataset_meta(pending_->path(), {tokenizer.vocab_size(), token_bytes_});
    tokenizer.save(pending_->path());
    pending_->commit();
  }
  int64_t train_tokens() const { return train_tokens_; }
  int64_t val_tokens() const { return val_tokens_; }

 private:
  int token_bytes_;
  std::optional<PendingDirectory> pending_;
  std::optional<File> train_, val_;
  int64_t train_tokens_ = 0, val_tokens_ = 0;
};

void check_found(const formats::CorpusCounts& counts, uint64_t bytes,
                 const PrepareArguments& arguments) {
  const std::string inputs = fmt::format("{}", fmt::join(arguments.inputs, ", "));
  if (counts.skipped_files > 0 && counts.documents == 0) {
    fail(
        "--input: {} holds no documents: none of its files ({}, the first {}) is named .txt or "
        ".jsonl",
        inputs, counts.skipped_files, counts.first_skipped);
  }
  if (counts.documents == 0) fail("--input: {} holds no documents", inputs);
  if (bytes == 0) fail("--input: {} is empty", inputs);
  if (counts.skipped_files > 0) {
    print_message("note: left out, not being named .txt or .jsonl: {} files, the first {}",
                  counts.skipped_files, counts.first_skipped);
  }
}

void note_sides(const Writer& writer, const PrepareArguments& arguments) {
  if (arguments.val_fraction == 0) return;
  if (writer.val_tokens() > 0 && writer.train_tokens() > 0) return;
  print_message("note: all documents are for {}; with so few use --split tail, or another --seed",
                writer.val_tokens() > 0 ? "validation" : "training");
}

// How to encode and whom to validate with, once what must be known of the input is.
struct Plan {
  formats::Tokenizer tokenizer;
  Split split;
  Encoder::Settings settings;
};

Plan make_plan(const PrepareArguments& arguments) {
  const bool characters = arguments.tokenizer == "char";
  std::optional<formats::Tokenizer> tokenizer;
  if (!characters) tokenizer = load_tokenizer(arguments.tokenizer);
  Survey survey;
  if (characters) {
    survey = survey_alphabet(arguments);
    tokenizer = formats::Tokenizer(survey.alphabet);
  } else if (arguments.split != "documents") {
    survey = survey_documents(arguments, arguments.split == "tail");
  }
  const bool tail = arguments.split == "tail" ||
                    (arguments.split == "auto" && (characters || survey.one_document));
  if (!tail && !characters && !tokenizer->end_of_text()) {
    print_message("note: this tokenizer has no <|endoftext|>; nothing parts the documents");
  }
  const int threads = arguments.threads > 0 ? int(arguments.threads) : core_count();
  check_threads(threads);
  return {*tokenizer,
          tail ? Split(arguments.val_fraction, survey.characters)
               : Split(arguments.val_fraction, arguments.seed),
          {tokenizer->vocab_size() > 65536 ? 4 : 2, tail ? std::nullopt : tokenizer->end_of_text(),
           threads}};
}

}  // namespace

void refuse_foreign_folder(const Path& out, const std::set<std::string>& ours, const char* what) {
  if (!std::filesystem::exists(out)) return;
  if (!std::filesystem::is_directory(out)) fail("--out: {} is not a folder", out.string());
  for (const auto& entry : std::filesystem::directory_iterator(out)) {
    if (ours.contains(entry.path().filename())) continue;
    fail("--out: {} holds {}, which is not part of {}; choose another folder", out.string(),
         entry.path().filename().string(), what);
  }
}

void prepare(const PrepareArguments& arguments) {
  if (!arguments.out.empty()) {
    refuse_foreign_folder(arguments.out, {"train.bin", "val.bin", "meta.json", "tokenizer.json"},
                          "a data set");
  }
  Plan plan = make_plan(arguments);
  Writer writer(arguments.out, plan.settings.token_bytes);
  Encoder encoder(plan.tokenizer, plan.settings,
                  [&](const TokenBatch& batch) { writer.write(batch); });
  std::optional<CorpusStats> stats;
  if (arguments.stats) stats.emplace();
  TextBatch batch;
  uint64_t bytes = 0;
  const auto take = [&](const formats::TextPiece& piece) {
    bytes += piece.text.size();
    if (stats) stats->add(piece);
    plan.split.add(piece, batch);
    const bool full = batch.text.size() >= kBatchBytes || batch.parts.size() >= kBatchParts;
    if (full) encoder.add(std::exchange(batch, {}));
    return true;
  };
  const auto counts = read_pieces(arguments, "encoding", take, &plan.tokenizer);
  encoder.add(std::move(batch));
  const std::vector<int64_t> token_counts = encoder.finish();
  check_found(counts, bytes, arguments);
  writer.commit(plan.tokenizer);
  note_sides(writer, arguments);
  if (stats) fmt::print("{}", stats->table(token_counts));
  if (arguments.out.empty()) return;
  fmt::print("{}: {} training and {} validation tokens; set vocab_size: {}\n", arguments.out,
             writer.train_tokens(), writer.val_tokens(), plan.tokenizer.vocab_size());
}

}  // namespace gigagpt::cli
