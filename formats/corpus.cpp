#include "formats/corpus.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "formats/json_text.h"
#include "formats/packed.h"
#include "formats/utf8.h"

namespace gigagpt::formats {
namespace fs = std::filesystem;
namespace {

constexpr int kMaxNesting = 6;  // archives and compressed files within each other
constexpr size_t kReadBytes = 1 << 16;
constexpr std::array<std::string_view, 2> kLinesNames = {".jsonl", ".ndjson"};
constexpr std::array<std::string_view, 4> kCompressedNames = {".gz", ".bz2", ".xz", ".zst"};
constexpr std::array<std::string_view, 7> kArchiveNames = {".zip",  ".tar",  ".tgz", ".txz",
                                                           ".tzst", ".tbz2", ".tbz"};

// A file or a member of an archive.
struct Source {
  std::string where;  // for messages
  std::string name;   // says what kind it is
  bool chosen;        // by its name: then it is text whatever that is
  int nesting;        // of the archives around it
  ReadBytes read;
};

std::string lower_case(std::string_view name) {
  std::string lower(name);
  for (char& c : lower) c = 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower;
}

// The ending that the name has of these; "" if it has none.
template <class Endings>
std::string_view ending_of(std::string_view name, const Endings& endings) {
  const std::string lower = lower_case(name);
  for (const std::string_view ending : endings) {
    if (lower.ends_with(ending)) return ending;
  }
  return {};
}

bool is_hidden(std::string_view name) {
  return name.substr(name.find_last_of('/') + 1).starts_with('.');
}

size_t next_character(std::string_view text, size_t from) {
  while (from < text.size() && (text[from] & 0xC0) == 0x80) ++from;
  return from;
}

// Of text[begin, end); byte 0 of the text is byte `first_byte` of the document.
void check_utf8(std::string_view text, size_t begin, uint64_t first_byte, std::string_view where) {
  while (begin < text.size()) {
    uint64_t eight = 0;
    if (begin + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + begin, sizeof eight);
      if ((eight & 0x8080808080808080) == 0) {
        begin += sizeof eight;
        continue;
      }
    }
    try {
      next_code_point(text, begin, where);
    } catch (const Error&) {
      fail("{}: byte {} is not valid UTF-8; convert the text first, e.g. with iconv -t UTF-8",
           where, first_byte + begin);
    }
  }
}

class Corpus {
 public:
  Corpus(const CorpusOptions& options, const std::function<bool(const TextPiece&)>& visit,
         const std::function<void(uint64_t, uint64_t)>& progress)
      : options_(options), visit_(visit), progress_(progress), block_(kReadBytes, '\0') {}

  CorpusCounts read(const std::vector<std::string>& inputs) {
    for (const std::string& input : inputs) {
      for_each_file(input, [&](const Path& file) { total_bytes_ += fs::file_size(file); });
    }
    for (const std::string& input : inputs) {
      const bool chosen = !fs::is_directory(input);
      for_each_file(input, [&](const Path& file) { read_file(file, chosen); });
    }
    return counts_;
  }

 private:
  template <class Action>
  void for_each_file(const Path& path, const Action& action) {
    std::error_code error;
    const auto kind = fs::status(path, error).type();
    if (kind == fs::file_type::not_found) {
      errno = ENOENT;
      fail_errno("cannot open " + path.string());
    }
    if (kind == fs::file_type::regular) return action(path);
    if (kind != fs::file_type::directory) fail("{} is neither a file nor a folder", path.string());
    std::set<Path> entries;
    for (const auto& entry : fs::directory_iterator(path, error)) entries.insert(entry.path());
    if (error) fail("cannot read folder {}: {}", path.string(), error.message());
    for (const Path& entry : entries) {
      if (stopped_) return;
      if (is_hidden(entry.filename().string())) continue;
      const auto entry_kind = fs::status(entry, error).type();
      // Links to folders may lead in circles.
      const bool folder = entry_kind == fs::file_type::directory && !fs::is_symlink(entry);
      if (folder || entry_kind == fs::file_type::regular) for_each_file(entry, action);
    }
  }

  void read_file(const Path& path, bool chosen) {
    if (stopped_) return;
    const File file = File::open_read(path);
    const uint64_t size_bytes = file.size_bytes();
    uint64_t offset = 0;
    const ReadBytes read = [&](std::span<char> bytes) {
      const size_t count = std::min<uint64_t>({bytes.size(), kReadBytes, size_bytes - offset});
      file.read_at(offset, std::as_writable_bytes(bytes.first(count)));
      offset += count;
      done_bytes_ += count;
      if (progress_) progress_(done_bytes_, total_bytes_);
      return count;
    };
    read_source({path.string(), path.filename().string(), chosen, 0, read});
  }

  void read_source(Source source) {
    std::string head(kPackedHeadBytes, '\0');
    size_t have = 0, got = 1;
    while (have < head.size() && got > 0) {
      got = source.read(std::span(head).subspan(have));
      have += got;
    }
    head.resize(have);
    size_t used = 0;
    ReadBytes rest = std::move(source.read);
    source.read = [&head, &used, rest = std::move(rest)](std::span<char> bytes) {
      if (used == head.size()) return rest(bytes);
      const size_t count = head.copy(bytes.data(), bytes.size(), used);
      used += count;
      return count;
    };
    const bool named_packed = !ending_of(source.name, kCompressedNames).empty() ||
                              !ending_of(source.name, kArchiveNames).empty();
    if (looks_packed(head) || named_packed) return read_packed(source);
    if (!ending_of(source.name, kLinesNames).empty()) return read_lines(source);
    const bool is_text = source.chosen || lower_case(source.name).ends_with(".txt");
    if (is_text) return read_text(source);
    if (counts_.skipped_files++ == 0) counts_.first_skipped = source.where;
  }

  void read_packed(const Source& source) {
    if (source.nesting == kMaxNesting) {
      fail("{}: more than {} archives and compressed files within each other", source.where,
           kMaxNesting);
    }
    PackedReader packed(source.where, source.read);
    while (!stopped_ && packed.next()) {
      if (!packed.name().empty() && is_hidden(packed.name())) continue;
      Source member{source.where, source.name, source.chosen, source.nesting + 1,
                    [&](std::span<char> bytes) { return packed.read(bytes); }};
      if (packed.name().empty()) {
        // All layers of compression were taken off at once.
        while (const size_t ending = ending_of(member.name, kCompressedNames).size()) {
          member.name.resize(member.name.size() - ending);
        }
      } else {
        member.name = packed.name();
        member.where += ": " + packed.name();
        member.chosen = false;
      }
      read_source(std::move(member));
    }
  }

  // Appends a block; false at the end.
  bool append_block(const Source& source, std::string& text) {
    const size_t got = source.read(block_);
    text.append(block_, 0, got);
    return got > 0;
  }

  void read_text(const Source& source) {
    std::string text;
    uint64_t first_byte = 0;
    size_t checked = 0, from = options_.piece_bytes;
    while (!stopped_ && append_block(source, text)) {
      const size_t whole = whole_characters(text);
      check_utf8(std::string_view(text).substr(0, whole), checked, first_byte, source.where);
      checked = whole;
      while (!stopped_ && from < checked) {
        const std::string_view known = std::string_view(text).substr(0, checked);
        const size_t cut =
            options_.safe_cut ? options_.safe_cut(known, from) : next_character(known, from);
        from = cut < checked ? options_.piece_bytes : checked;
        if (cut == checked) break;
        give({known.substr(0, cut), source.where, first_byte, false});
        text.erase(0, cut);
        first_byte += cut;
        checked -= cut;
      }
      if (text.size() > options_.max_bytes) {
        fail("{}: no place to cut it in {} bytes from byte {} on; is it text?", source.where,
             text.size(), first_byte);
      }
    }
    if (stopped_) return;
    check_utf8(text, checked, first_byte, source.where);
    give({text, source.where, first_byte, true});
  }

  void read_lines(const Source& source) {
    std::string pending;
    size_t looked = 0;
    uint64_t line = 0;
    for (bool more = true; more && !stopped_;) {
      more = append_block(source, pending);
      size_t begin = 0;
      while (!stopped_) {
        const size_t end = pending.find('\n', std::max(begin, looked));
        if (end == std::string::npos && (more || begin == pending.size())) break;
        give_line(source, std::string_view(pending).substr(begin, end - begin), ++line);
        begin = end == std::string::npos ? pending.size() : end + 1;
      }
      pending.erase(0, begin);
      looked = pending.size();
      if (looked > options_.max_bytes) {
        fail("{}: line {} is longer than {} bytes", source.where, line + 1, options_.max_bytes);
      }
    }
  }

  void give_line(const Source& source, std::string_view line, uint64_t number) {
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    const std::string where = fmt::format("{}: line {}", source.where, number);
    const std::string text = json_text(line, options_.text_field, where);
    give({text, where, 0, true});
  }

  void give(const TextPiece& piece) {
    if (piece.ends_document) ++counts_.documents;
    stopped_ = !visit_(piece);
  }

  const CorpusOptions& options_;
  const std::function<bool(const TextPiece&)>& visit_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  CorpusCounts counts_;
  uint64_t total_bytes_ = 0, done_bytes_ = 0;
  bool stopped_ = false;
  std::string block_;
};

}  // namespace

CorpusCounts read_corpus(const std::vector<std::string>& inputs, const CorpusOptions& options,
                         const std::function<bool(const TextPiece&)>& visit,
                         const std::function<void(uint64_t done, uint64_t total)>& progress) {
  return Corpus(options, visit, progress).read(inputs);
}

uint64_t count_characters(std::string_view text) {
  return static_cast<uint64_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace gigagpt::formats
