// Documents out of files, JSON lines and archives, and what must be refused.
#include "formats/corpus.h"

#include <gtest/gtest.h>

#include "base/testing.h"
#include "formats/corpus_testing.h"
#include "formats/json_text.h"
#include "formats/packed.h"
#include "formats/utf8.h"

namespace gigagpt::formats {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

// The documents, their pieces joined.
Strings documents(const Strings& inputs, const CorpusOptions& options = {}) {
  Strings found = {""};
  const CorpusCounts counts = read_corpus(inputs, options, [&](const TextPiece& piece) {
    EXPECT_EQ(piece.first_byte, found.back().size());
    found.back() += piece.text;
    if (piece.ends_document) found.emplace_back();
    return true;
  });
  EXPECT_EQ(found.back(), "");
  found.pop_back();
  EXPECT_EQ(counts.documents, found.size());
  return found;
}

Strings documents_of(const TemporaryDirectory& directory, const std::string& name,
                     const std::string& content, const CorpusOptions& options = {}) {
  fs::remove(directory / name);  // a file that is written over is waited for by some file systems
  return documents({directory.write(name, content).string()}, options);
}

const Strings kFilters = {"gzip", "bzip2", "xz", "zstd"};

TEST(Corpus, FilesComeInTheOrderGiven) {
  const TemporaryDirectory directory;
  const std::string b = directory.write("b.txt", "second\n");
  const std::string empty = directory.write("empty.txt", "");
  const std::string book = directory.write("BOOK", "any name will do if it is given");
  EXPECT_EQ(documents({b, empty, book, b}),
            (Strings{"second\n", "", "any name will do if it is given", "second\n"}));
}

TEST(Corpus, JsonLines) {
  const TemporaryDirectory directory;
  const std::string lines =
      "{\"text\": \"one\", \"meta\": {\"text\": 5, \"a\": [{\"text\": \"no\"}]}}\r\n"
      "\n"
      "  \t\n"
      "{\"id\": 1, \"text\": \"t\\u00e9\\n\\ud83d\\ude00\"}\n"
      "{\"text\": \"\"}\n"
      "{\"text\":\"no line break behind\"}";
  const Strings expected = {"one", "t\xC3\xA9\n\xF0\x9F\x98\x80", "", "no line break behind"};
  EXPECT_EQ(documents_of(directory, "a.jsonl", lines), expected);
  EXPECT_EQ(documents_of(directory, "a.NDJSON", lines + "\n"), expected);
  EXPECT_EQ(documents_of(directory, "a.jsonl.zst", compressed("zstd", lines)), expected);
  CorpusOptions options;
  options.text_field = "body";
  EXPECT_EQ(documents_of(directory, "b.jsonl", "{\"text\": 1, \"body\": \"yes\"}", options),
            Strings{"yes"});
  EXPECT_EQ(documents_of(directory, "c.jsonl", ""), Strings{});
}

TEST(Corpus, LongJsonLinesSpanBlocks) {
  const TemporaryDirectory directory;
  // Line breaks come last, first and second in a block of 65,536 bytes, the head read before or
  // not.
  for (const size_t first : {65'523, 65'524, 65'525, 66'035, 66'036, 66'037}) {
    std::string lines;
    Strings expected;
    for (const size_t size : {first, size_t{200'000}, size_t{3}}) {
      expected.emplace_back(size, 'x');
      lines += "{\"text\": \"" + expected.back() + "\"}\n";
    }
    EXPECT_EQ(documents_of(directory, "a.jsonl", lines), expected) << first;
  }
}

TEST(Corpus, BadJsonLinesAreNamed) {
  const TemporaryDirectory directory;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{\"text\": \"a\"", "a.jsonl: line 3: not JSON at byte 13"},
      {"{\"text\": \"a\"} x", "line 3: not JSON at byte 15"},
      {"{\"text\": \"a\xFF\"}", "line 3: not JSON at byte 12"},
      {"{\"text\": \"\\ud800\"}", "line 3: not JSON"},
      {"{\"txt\": \"a\"}", "line 3: has no field 'text'"},
      {"{\"meta\": {\"text\": \"a\"}}", "line 3: has no field 'text'"},
      {"{\"text\": null}", "line 3: 'text' is null, not a string"},
      {"{\"text\": -5}", "line 3: 'text' is a number, not a string"},
      {"{\"text\": 1e999}", "line 3: not JSON"},
      {"{\"text\": true}", "line 3: 'text' is a truth value, not a string"},
      {"{\"text\": [\"a\"]}", "line 3: 'text' is an array, not a string"},
      {"{\"text\": {\"text\": \"a\"}}", "line 3: 'text' is an object, not a string"},
      {"{\"text\": \"a\", \"text\": \"b\"}", "line 3: 'text' appears twice"},
      {"[\"text\", \"a\"]", "line 3: is an array, not a JSON object"},
      {"\"text\"", "line 3: is a string, not a JSON object"},
      {"null", "line 3: is null, not a JSON object"},
      {"plain text", "line 3: not JSON at byte 1"},
      {std::string(100'000, '['), "line 3: is an array"},
      {"{\"a\": " + std::string(100'000, '['), "line 3: not JSON"},
  };
  for (const auto& bad : cases) {
    const std::string lines = "{\"text\": \"good\"}\n\n" + bad.first + "\n";
    EXPECT_ERROR(documents_of(directory, "a.jsonl", lines), bad.second);
  }
}

TEST(Corpus, CompressedTextAndEmptyText) {
  const TemporaryDirectory directory;
  const std::string text = "some text that is text\n";
  for (const std::string& filter : kFilters) {
    EXPECT_EQ(documents_of(directory, "a.txt.x", compressed(filter, text)), Strings{text});
    EXPECT_EQ(documents_of(directory, "a.txt.x", compressed(filter, "")), Strings{""}) << filter;
    // As `cat a.gz b.gz` makes it.
    const std::string twice = compressed(filter, text) + compressed(filter, text);
    EXPECT_EQ(documents_of(directory, "a.txt.x", twice), Strings{text + text}) << filter;
  }
  const std::string thrice = compressed("gzip", compressed("xz", compressed("zstd", text)));
  EXPECT_EQ(documents_of(directory, "a.txt.zst.xz.gz", thrice), Strings{text});
}

TEST(Corpus, ArchivesInAnyCompression) {
  const TemporaryDirectory directory;
  const Members members = {{"x/", ""},
                           {"x/z.txt", "z"},
                           {"x/empty.txt", ""},
                           {"a.jsonl", "{\"text\": \"1\"}\n{\"text\": \"2\"}"},
                           {"b.txt.gz", compressed("gzip", "packed")},
                           {"README", "not a document"},
                           {"._z.txt", "\xFF hidden"},
                           {"picture.png", "\x89PNG"}};
  const Strings expected = {"z", "", "1", "2", "packed"};
  EXPECT_EQ(documents_of(directory, "a.zip", packed("zip", "none", members)), expected);
  EXPECT_EQ(documents_of(directory, "a", tar(members)), expected);
  for (const std::string& filter : kFilters) {
    EXPECT_EQ(documents_of(directory, "a.data", tar(members, filter)), expected) << filter;
  }
  EXPECT_EQ(documents_of(directory, "two.tar", tar({{"1.txt", "1"}}) + tar({{"2.txt", "2"}})),
            (Strings{"1", "2"}));
  EXPECT_EQ(documents_of(directory, "none.tar", tar({})), Strings{});
}

TEST(Corpus, ArchivesInArchives) {
  const TemporaryDirectory directory;
  const auto subset = [](const std::string& name) {
    return tar({{name + "-1.txt", name + " one"}, {name + "-2.txt", name + " two"}}, "xz");
  };
  const Members subsets = {{"openwebtext/urlsf_subset00-1_data.xz", subset("a")},
                           {"openwebtext/urlsf_subset00-2_data.xz", subset("b")}};
  const Strings expected = {"a one", "a two", "b one", "b two"};
  EXPECT_EQ(documents_of(directory, "openwebtext.tar.xz", tar(subsets, "xz")), expected);
  EXPECT_EQ(documents_of(directory, "urlsf_subset00.tar", tar(subsets)), expected);
  directory.write("folder/sub_data.xz", subset("c"));
  EXPECT_EQ(documents({(directory / "folder").string()}), (Strings{"c one", "c two"}));
}

TEST(Corpus, FoldersAreWalkedInOrder) {
  const TemporaryDirectory directory;
  directory.write("d/b.txt", "b");
  directory.write("d/a/2.txt", "a2");
  directory.write("d/a/10.txt", "a10");
  directory.write("d/c.jsonl", "{\"text\": \"c\"}");
  directory.write("d/notes.md", "no document");
  directory.write("d/.hidden.txt", "hidden");
  directory.write("d/.git/x.txt", "hidden");
  fs::create_directory_symlink(directory / "d", directory / "d/circle");
  fs::create_symlink(directory / "d/b.txt", directory / "d/link.txt");
  const std::string folder = (directory / "d").string();
  EXPECT_EQ(documents({folder}), (Strings{"a10", "a2", "b", "c", "b"}));
  const CorpusCounts counts = read_corpus({folder}, {}, [](const TextPiece&) { return true; });
  EXPECT_EQ(counts.skipped_files, 1U);
  EXPECT_EQ(counts.first_skipped, folder + "/notes.md");
}

TEST(Corpus, LongTextsComeInPieces) {
  const TemporaryDirectory directory;
  std::string text;
  for (int i = 0; i < 30'000; ++i) text += "w\xC3\xB6rd\xE2\x82\xAC\xF0\x9F\x98\x80 ";
  CorpusOptions options;
  size_t pieces = 0;
  const std::string file = directory.write("a.txt", text);
  for (const size_t piece_bytes : {7, 1000, 65'537, 100'000'000}) {
    options.piece_bytes = piece_bytes;
    pieces = 0;
    read_corpus({file}, options, [&](const TextPiece& piece) {
      ++pieces;
      count_characters(piece.text);
      EXPECT_NE(piece.text.front() & 0xC0, 0x80);
      EXPECT_LE(piece.text.size(), piece_bytes + (1 << 16));
      return true;
    });
    EXPECT_EQ(documents({file}, options), Strings{text});
    EXPECT_EQ(pieces > 1, piece_bytes < text.size());
  }
  options.piece_bytes = 1000;
  options.safe_cut = [](std::string_view known, size_t from) {
    return std::min(known.find(' ', from), known.size());
  };
  read_corpus({file}, options, [&](const TextPiece& piece) {
    EXPECT_EQ(piece.first_byte > 0, piece.text.front() == ' ');
    return true;
  });
  EXPECT_EQ(documents({file}, options), Strings{text});
}

TEST(Corpus, WhatDoesNotFitInMemoryIsRefused) {
  const TemporaryDirectory directory;
  CorpusOptions options;
  options.max_bytes = 200'000;
  options.piece_bytes = 1000;
  const std::string text(500'000, 'x');
  EXPECT_EQ(documents_of(directory, "a.txt", text, options), Strings{text});
  options.safe_cut = [](std::string_view known, size_t) { return known.size(); };
  EXPECT_ERROR(documents_of(directory, "a.txt", text, options), "a.txt: no place to cut it in 2");
  EXPECT_ERROR(documents_of(directory, "a.jsonl", "{}\n{\"text\": \"" + text + "\"}", options),
               "a.jsonl: line");
  const std::string short_line = "{\"text\": \"a\"}\n";
  EXPECT_ERROR(documents_of(directory, "a.jsonl", short_line + text, options),
               "a.jsonl: line 2 is longer than 200000 bytes");
}

TEST(Corpus, InvalidUtf8IsNamedToTheByte) {
  const TemporaryDirectory directory;
  CorpusOptions small;
  small.piece_bytes = 10;
  for (const size_t place : {0, 7, 8, 100, 65'535, 65'536, 70'000}) {
    for (const std::string bad : {"\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98", "\xED\xA0\x80"}) {
      const std::string text = std::string(place, 'a') + bad;
      const std::string error =
          fmt::format("a.txt: byte {} is not valid UTF-8; convert the text first", place);
      EXPECT_ERROR(documents_of(directory, "a.txt", text), error);
      EXPECT_ERROR(documents_of(directory, "a.txt", text + "tail", small), error);
    }
  }
  EXPECT_ERROR(documents_of(directory, "a.tar", tar({{"x/b.txt", "ab\xFF"}})),
               "a.tar: x/b.txt: byte 2 is not valid UTF-8");
  const std::string inner = tar({{"c.txt.gz", compressed("gzip", "abc\xFF")}}, "xz");
  EXPECT_ERROR(documents_of(directory, "a.tar", tar({{"b_data.xz", inner}})),
               "a.tar: b_data.xz: c.txt.gz: byte 3 is not valid UTF-8");
}

TEST(Corpus, BadPathsAreNamed) {
  const TemporaryDirectory directory;
  const std::string missing = (directory / "missing.txt").string();
  EXPECT_ERROR(documents({missing}), "cannot open " + missing + ": No such file");
  EXPECT_ERROR(documents({"/dev/null"}), "/dev/null is neither a file nor a folder");
}

TEST(Corpus, StopsWhenAsked) {
  const TemporaryDirectory directory;
  const std::string file =
      directory.write("a.tar", tar({{"1.txt", "1"}, {"2.txt", "2"}, {"3.txt", "\xFF"}}));
  int seen = 0;
  read_corpus({file, file}, {}, [&](const TextPiece&) { return ++seen < 2; });
  EXPECT_EQ(seen, 2);
}

TEST(Corpus, ProgressIsHeardAndMayThrow) {
  const TemporaryDirectory directory;
  std::string noise;
  std::mt19937_64 random(3);
  while (noise.size() < 300'000) noise += static_cast<char>('a' + random() % 26);
  const std::string tar_file = directory.write("a.tar.gz", tar({{"a.txt", noise}}, "gzip"));
  const std::string text_file = directory.write("b.txt", noise);
  const uint64_t all_bytes = fs::file_size(tar_file) + fs::file_size(text_file);
  uint64_t last = 0;
  const auto visit = [](const TextPiece&) { return true; };
  read_corpus({tar_file, text_file}, {}, visit, [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(total, all_bytes);
    EXPECT_GE(done, last);
    EXPECT_LE(done - last, 65'536U);
    last = done;
  });
  EXPECT_EQ(last, all_bytes);
  EXPECT_ERROR(read_corpus({tar_file}, {}, visit,
                           [&](uint64_t done, uint64_t) {
                             if (done > 100'000) fail("stopped here");
                           }),
               "stopped here");
}

TEST(Corpus, CutAnywhereIsAnError) {
  const TemporaryDirectory directory;
  const Members members = {{"a.txt", "first document"}, {"b.txt", std::string(700, 'b')}};
  std::vector<std::pair<std::string, std::string>> files = {
      {"a.tar", tar(members)}, {"a.tar", tar({{"in.xz", tar(members, "xz")}})}};
  // The zeros at the end of a tar file can go but for one block.
  for (auto& [name, content] : files) {
    content.resize((content.find_last_not_of('\0') / 512 + 2) * 512);
  }
  for (const std::string& filter : kFilters) {
    files.emplace_back("a.tar.x", tar(members, filter));
    files.emplace_back("a.txt.x", compressed(filter, "a few words of text"));
  }
  for (const auto& file : files) {
    const auto& name = file.first;
    const auto& content = file.second;
    EXPECT_FALSE(documents_of(directory, name, content).empty()) << name;
    // What is cut so early that nothing can be seen of its kind is a text by its name.
    const size_t first = name.ends_with(".x") ? 10 : 0;
    for (size_t size = first; size < content.size(); ++size) {
      const std::string cut = content.substr(0, size);
      EXPECT_ERROR(documents_of(directory, name, cut), name + ": ") << name << " " << size;
    }
  }
}

TEST(Corpus, DamageIsAnErrorOrHarmless) {
  const TemporaryDirectory directory;
  const Members members = {{"a.txt", "first document"},
                           {"b.jsonl", "{\"text\": \"x\", \"y\": [1, 2]}\n{\"text\": \"z\"}"},
                           {"c.txt.zst", compressed("zstd", "third document")}};
  std::mt19937_64 random(7);
  Strings originals = {tar(members), packed("zip", "none", members), members[1].second};
  for (const std::string& filter : kFilters) originals.push_back(tar(members, filter));
  for (const std::string& original : originals) {
    const std::string name = original == members[1].second ? "x.jsonl" : "x.tar";
    for (int i = 0; i < 300; ++i) {
      const std::string bad = damaged(original, random);
      EXPECT_TRUE(returns_or_throws_error([&] {
        for (const std::string& document : documents_of(directory, name, bad)) {
          for (size_t at = 0; at < document.size();) next_code_point(document, at, "document");
        }
      }));
    }
  }
}

TEST(Corpus, ChecksumsAreCompared) {
  const TemporaryDirectory directory;
  // Not compressible, so that a flipped bit is a flipped letter of the text.
  std::string noise;
  std::mt19937_64 random(5);
  while (noise.size() < 2000) noise += static_cast<char>('a' + random() % 26);
  for (const std::string filter : {"bzip2", "xz"}) {
    std::string bad = compressed(filter, noise);
    bad[bad.size() / 2] ^= 1;
    EXPECT_ERROR(documents_of(directory, "a.txt.x", bad), "a.txt.x: damaged or cut short")
        << filter;
  }
  std::string bad = packed("zip", "none", {{"a.txt", noise}});
  bad[bad.size() / 2] ^= 1;
  EXPECT_ERROR(documents_of(directory, "a.zip", bad), "a.zip: damaged or cut short");
}

TEST(Corpus, NestingAndWrongNamesEnd) {
  const TemporaryDirectory directory;
  std::string nested = "text";
  for (int i = 0; i < 6; ++i) nested = tar({{"a.txt", nested}});
  EXPECT_EQ(documents_of(directory, "a.tar", nested), Strings{"text"});
  EXPECT_ERROR(documents_of(directory, "a.tar", tar({{"a.txt", nested}})),
               "more than 6 archives and compressed files within each other");
  EXPECT_ERROR(documents_of(directory, "a.txt.gz", "plain text"),
               "a.txt.gz: looks like a compressed file");
  EXPECT_ERROR(documents_of(directory, "a.txt.gz", "\x1F\x8B plain text"), "a.txt.gz: ");
  EXPECT_ERROR(documents_of(directory, "a.tar", ""), "a.tar: ");
}

TEST(Corpus, SpecialMembersAreNoDocuments) {
  const TemporaryDirectory directory;
  // A symbolic link, a hard link and a pipe among the members: only type and checksum change.
  for (const char type : {'1', '2', '6'}) {
    std::string file = tar({{"a.txt", ""}, {"b.txt", "b"}});
    const int sum_change = type - file[156];
    file[156] = type;
    int sum = std::stoi(file.substr(148, 6), nullptr, 8) + sum_change;
    file.replace(148, 6, fmt::format("{:06o}", sum));
    EXPECT_EQ(documents_of(directory, "a.tar", file), Strings{"b"}) << type;
  }
}

TEST(Packed, TextIsNotTakenForAnArchive) {
  for (const std::string_view text :
       {"", "P", "PK", "BZh9 is how bzip2 begins", "GIF89a", "text"}) {
    EXPECT_FALSE(looks_packed(text)) << text;
  }
  EXPECT_FALSE(looks_packed(std::string(257, 'a') + "ustar"));
  for (const std::string& filter : kFilters) {
    EXPECT_TRUE(looks_packed(compressed(filter, "text")));
  }
}

}  // namespace
}  // namespace gigagpt::formats
