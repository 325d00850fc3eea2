// The documents of text files, JSON lines, archives and folders of these, as a stream.
//
// A .jsonl or .ndjson file has a document a line, any other file is one. In folders and archives,
// files that are not named .txt, .jsonl or .ndjson are left out, as are hidden ones. What is
// compressed or an archive (formats/packed.h) is found by content, not by name, also inside
// archives: OpenWebText is a tar of xz-compressed tars of .txt files.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace gigagpt::formats {

struct CorpusOptions {
  std::string text_field = "text";  // of a JSON line
  size_t piece_bytes = 1 << 20;  // a longer text comes in pieces, each of a little more than that
  // The first place at or after `from` where a text may be cut; text.size() if there is none.
  // Unless given, that is before any character. Tokenizer::safe_cut makes pieces that can be
  // encoded alone.
  std::function<size_t(std::string_view text, size_t from)> safe_cut = {};
  size_t max_bytes = 1 << 30;  // of a JSON line, or a text without a place to cut it at
};

// A whole document, or a piece of one that is a file of text. Valid for the call that gets it.
struct TextPiece {
  std::string_view text;       // valid UTF-8; may be empty
  std::string_view where;      // the document, for messages: "a.tar: b.jsonl.gz: line 3"
  uint64_t first_byte = 0;     // of the piece in the document
  bool ends_document = false;  // the last one of it
};

struct CorpusCounts {
  uint64_t documents = 0;
  uint64_t skipped_files = 0;  // of names that are no text
  std::string first_skipped;
};

// Calls visit for each piece in order until it returns false. Files come in the order of `inputs`,
// those of a folder sorted by name, members as they lie in the archive. `progress`, if there is
// one, hears every 64 KiB how many bytes of the files were read, and of how many; it may throw.
// Memory is bounded by CorpusOptions, the decompressors and the names in a folder. Throws Error
// naming file, member, line and byte for whatever cannot be read.
CorpusCounts read_corpus(const std::vector<std::string>& inputs, const CorpusOptions& options,
                         const std::function<bool(const TextPiece&)>& visit,
                         const std::function<void(uint64_t done, uint64_t total)>& progress = {});

// Characters of valid UTF-8.
uint64_t count_characters(std::string_view text);

}  // namespace gigagpt::formats
