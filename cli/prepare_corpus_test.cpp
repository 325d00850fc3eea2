// `gigagpt prepare` with byte pairs: documents and how they are split, any number of threads,
// figures, and being stopped.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/random.h"
#include "cli/corpus_stats.h"
#include "cli/prepare_testing.h"
#include "cli/signals.h"
#include "formats/bpe.h"
#include "formats/corpus_testing.h"

namespace gigagpt::cli {
namespace {

// Bytes, a few merges and <|endoftext|>, as token 260.
formats::Tokenizer small_bpe() {
  formats::BpeVocabulary vocabulary;
  for (const uint8_t byte : formats::bytes_in_token_order()) {
    vocabulary.tokens.push_back(formats::to_byte_level(std::string(1, static_cast<char>(byte))));
  }
  const auto id = [&](const std::string& token) {
    const auto found = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), token);
    return static_cast<int32_t>(found - vocabulary.tokens.begin());
  };
  const std::string space = formats::to_byte_level(" ");
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"t", "h"}, {"th", "e"}, {space, "the"}, {space, "a"}}) {
    vocabulary.merges.push_back({id(left), id(right), id("")});
    vocabulary.tokens.push_back(left + right);
  }
  vocabulary.added.push_back({id(""), true, false});
  vocabulary.tokens.emplace_back(formats::kEndOfText);
  return formats::Tokenizer(formats::Bpe(std::move(vocabulary)));
}
constexpr int32_t kEnd = 260;

// Of `inputs` with that tokenizer, into directory/out.
PrepareArguments bpe_arguments(const TemporaryDirectory& directory, Strings inputs) {
  fs::create_directories(directory / "bpe");
  small_bpe().save(directory / "bpe");
  PrepareArguments arguments;
  arguments.inputs = std::move(inputs);
  arguments.tokenizer = (directory / "bpe").string();
  arguments.out = (directory / "out").string();
  return arguments;
}

// Texts of words, some of them more than once, some empty.
Strings random_documents(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const Strings words = {"the", " the", " a", "\n\n", " \xE2\x82\xAC", " caf\xC3\xA9", ".", " 12"};
  Strings documents;
  for (size_t i = 0; i < count; ++i) {
    if (i % 7 == 3) {
      documents.push_back(documents[random() % i]);
      continue;
    }
    std::string text;
    for (size_t size = random() % 60; size > 0; --size) text += words[random() % words.size()];
    documents.push_back(text);
  }
  return documents;
}

std::string json_lines(const Strings& documents) {
  std::string lines;
  for (const std::string& document : documents) {
    lines += nlohmann::json{{"text", document}}.dump() + "\n";
  }
  return lines;
}

TEST(Prepare, DocumentsEndWithEndOfText) {
  const TemporaryDirectory directory;
  const std::string first = directory.write("1.txt", "the a");
  const std::string empty = directory.write("2.txt", "");
  const std::string lines = directory.write("3.jsonl", json_lines({"<|endoftext|>", "th"}));
  PrepareArguments arguments = bpe_arguments(directory, {first, empty, lines});
  arguments.val_fraction = 0;
  const std::string printed = run(arguments);
  const formats::Tokenizer tokenizer = small_bpe();
  Tokens expected = {257, 259, kEnd, kEnd};
  const Tokens literal = tokenizer.encode("<|endoftext|>");  // text like any other
  EXPECT_GT(literal.size(), 5U);
  expected.insert(expected.end(), literal.begin(), literal.end());
  expected.insert(expected.end(), {kEnd, 256, kEnd});
  EXPECT_EQ(tokens_of(directory / "out", "train"), expected);
  EXPECT_EQ(tokens_of(directory / "out", "val"), Tokens{});
  EXPECT_EQ(names_in(directory / "out"), kDataset);
  EXPECT_NE(printed.find("set vocab_size: 261"), std::string::npos) << printed;
  EXPECT_EQ(formats::Tokenizer::load(directory / "out").encode(" the"), Tokens{258});
}

TEST(Prepare, SideOfADocumentFollowsFromSeedAndIndex) {
  const TemporaryDirectory directory;
  const Strings documents = random_documents(2000, 1);
  const std::string input = directory.write("a.jsonl", json_lines(documents));
  PrepareArguments arguments = bpe_arguments(directory, {input});
  const formats::Tokenizer tokenizer = small_bpe();
  std::map<int64_t, Tokens> val_of_seed;
  for (const int64_t seed : {0, 1}) {
    arguments.seed = seed;
    arguments.val_fraction = 0.2;
    run(arguments);
    Tokens train, val;
    size_t val_documents = 0;
    const uint64_t key = mix(static_cast<uint64_t>(seed), hash_name("validation documents"));
    for (size_t i = 0; i < documents.size(); ++i) {
      const bool is_val = uniform(philox(key, i)[0]) < 0.2;
      val_documents += is_val ? 1 : 0;
      Tokens& side = is_val ? val : train;
      const Tokens tokens = tokenizer.encode(documents[i]);
      side.insert(side.end(), tokens.begin(), tokens.end());
      side.push_back(kEnd);
    }
    // Six deviations of a binomial distribution.
    EXPECT_NEAR(static_cast<double>(val_documents), 400, 6 * std::sqrt(2000 * 0.2 * 0.8));
    EXPECT_EQ(tokens_of(directory / "out", "train"), train);
    EXPECT_EQ(tokens_of(directory / "out", "val"), val);
    val_of_seed[seed] = val;
  }
  EXPECT_NE(val_of_seed[0], val_of_seed[1]);
}

TEST(Prepare, ThreadsDoNotChangeAByte) {
  const TemporaryDirectory directory;
  std::string text;
  for (const std::string& document : random_documents(10'000, 2)) text += document;
  const Strings inputs = {directory.write("a.jsonl", json_lines(random_documents(20'000, 3))),
                          directory.write("b.txt", text)};
  PrepareArguments arguments = bpe_arguments(directory, inputs);
  std::set<std::string> train, val, printed;
  for (const int threads : {1, 2, 5, 0}) {
    arguments.threads = threads;
    arguments.stats = true;
    printed.insert(run(arguments));
    train.insert(read_text(directory / "out" / "train.bin"));
    val.insert(read_text(directory / "out" / "val.bin"));
  }
  EXPECT_GT(train.begin()->size(), 2'000'000U);
  EXPECT_EQ(train.size(), 1U);
  EXPECT_EQ(val.size(), 1U);
  EXPECT_EQ(printed.size(), 1U);
}

TEST(Prepare, OneDocumentIsCutByCharactersAndInPieces) {
  const TemporaryDirectory directory;
  std::string text;
  for (const std::string& document : random_documents(12'000, 4)) text += document;
  ASSERT_GT(text.size(), 1U << 20);  // several pieces
  const formats::Tokenizer tokenizer = small_bpe();
  const std::string txt = directory.write("a.txt", text);
  const std::string lines = directory.write("a.jsonl", json_lines({text}));
  std::vector<size_t> characters;  // where each begins
  for (size_t i = 0; i < text.size(); ++i) {
    if ((text[i] & 0xC0) != 0x80) characters.push_back(i);
  }
  for (const std::string& input : {txt, lines}) {
    for (const double fraction : {0.0, 0.1, 0.123, 0.9}) {
      PrepareArguments arguments = bpe_arguments(directory, {input});
      arguments.val_fraction = fraction;
      run(arguments);
      const auto train =
          static_cast<size_t>(static_cast<double>(characters.size()) * (1 - fraction));
      const size_t border = train == characters.size() ? text.size() : characters[train];
      EXPECT_EQ(tokens_of(directory / "out", "train"), tokenizer.encode(text.substr(0, border)));
      EXPECT_EQ(tokens_of(directory / "out", "val"), tokenizer.encode(text.substr(border)));
    }
  }
}

TEST(Prepare, PiecesOfADocumentStayTogether) {
  const TemporaryDirectory directory;
  // Read in pieces of 2^18 bytes, which would end inside " the" if any place would do.
  std::string text = "x";
  while (text.size() < 1 << 20) text += " the";
  const std::string file = directory.write("a.txt", text);
  PrepareArguments arguments = bpe_arguments(directory, Strings(40, file));
  arguments.val_fraction = 0.5;
  run(arguments);
  Tokens of_document = small_bpe().encode(text);
  of_document.push_back(kEnd);
  size_t documents = 0;
  for (const std::string split : {"train", "val"}) {
    const Tokens tokens = tokens_of(directory / "out", split);
    ASSERT_EQ(tokens.size() % of_document.size(), 0U) << split;
    for (size_t i = 0; i < tokens.size(); i += of_document.size(), ++documents) {
      EXPECT_TRUE(std::equal(of_document.begin(), of_document.end(), tokens.data() + i)) << i;
    }
    EXPECT_GT(tokens.size(), 0U);
  }
  EXPECT_EQ(documents, 40U);
}

TEST(Prepare, SplitCanBeChosen) {
  const TemporaryDirectory directory;
  const std::string first = directory.write("1.txt", "the a");
  const std::string second = directory.write("2.txt", "th");
  PrepareArguments arguments = bpe_arguments(directory, {first, second});
  arguments.split = "tail";
  arguments.val_fraction = 0.5;  // after three of seven characters
  run(arguments);
  EXPECT_EQ(tokens_of(directory / "out", "train"), Tokens{257});
  EXPECT_EQ(tokens_of(directory / "out", "val"), (Tokens{259, 256}));
  arguments.inputs = {first};
  arguments.split = "documents";
  arguments.val_fraction = 0;
  run(arguments);
  EXPECT_EQ(tokens_of(directory / "out", "train"), (Tokens{257, 259, kEnd}));
  // Characters have no <|endoftext|>.
  arguments.inputs = {first, second};
  arguments.tokenizer = "char";
  run(arguments);
  EXPECT_EQ(text_of(directory / "out", "train"), "the ath");
}

TEST(Prepare, ArchivesAndFoldersAreInput) {
  const TemporaryDirectory directory;
  const std::string inner = formats::tar({{"1.txt", "the"}, {"2.txt", " a"}}, "xz");
  const std::string outer =
      directory.write("corpus/owt.tar.xz", formats::tar({{"owt/subset_data.xz", inner}}, "xz"));
  directory.write("corpus/README.md", "no document");
  for (const std::string& input : {outer, (directory / "corpus").string()}) {
    PrepareArguments arguments = bpe_arguments(directory, {input});
    arguments.val_fraction = 0;
    run(arguments);
    EXPECT_EQ(tokens_of(directory / "out", "train"), (Tokens{257, kEnd, 259, kEnd})) << input;
  }
  PrepareArguments arguments = bpe_arguments(directory, {(directory / "bpe").string()});
  EXPECT_ERROR(run(arguments), "bpe holds no documents: none of its files (1, the first ");
  arguments.tokenizer = "no/such";
  EXPECT_ERROR(run(arguments), "--tokenizer: 'no/such' is neither char nor a tokenizer's folder");
}

TEST(Prepare, StatsAreThoseOfASimpleCount) {
  const TemporaryDirectory directory;
  const Strings documents = random_documents(3000, 5);
  const std::string input = directory.write("a.jsonl", json_lines(documents));
  PrepareArguments arguments = bpe_arguments(directory, {input});
  arguments.stats = true;
  const std::string out = arguments.out;
  arguments.out = "";
  const auto before = names_in(directory.path());
  const std::string printed = run(arguments);
  EXPECT_EQ(names_in(directory.path()), before);

  size_t bytes = 0, tokens = 0, longest = 0;
  std::map<int32_t, double> counts;
  for (size_t i = 0; i < documents.size(); ++i) {
    bytes += documents[i].size();
    if (documents[i].size() > documents[longest].size()) longest = i;
    Tokens of_document = small_bpe().encode(documents[i]);
    of_document.push_back(kEnd);
    for (const int32_t token : of_document) ++counts[token];
    tokens += of_document.size();
  }
  double bits = 0;
  for (const auto& [token, count] : counts) {
    bits += count / static_cast<double>(tokens) * std::log2(static_cast<double>(tokens) / count);
  }
  const size_t unique = std::set<std::string>(documents.begin(), documents.end()).size();
  const auto ungrouped = [](std::string text) { return std::erase(text, ','), text; };
  const auto expect_line = [&](const std::string& line) {
    EXPECT_NE(ungrouped(printed).find(line + "\n"), std::string::npos) << line << "\n" << printed;
  };
  expect_line("documents            3000");
  expect_line(fmt::format("bytes                {}", bytes));
  expect_line(fmt::format("tokens               {}", tokens));
  expect_line(fmt::format("bytes per token      {:.3f}", double(bytes) / double(tokens)));
  expect_line(fmt::format("exact duplicates     {} documents {:.2f} %", 3000 - unique,
                          double(3000 - unique) / 30));
  expect_line(
      fmt::format("unigram entropy      {:.4f} bits a token: the loss of a unigram model is {:.4f}",
                  bits, bits * std::log(2)));
  expect_line(fmt::format("longest document     {} bytes: {}: line {}", documents[longest].size(),
                          input, longest + 1));

  // With --out the same figures, and the data set.
  arguments.out = out;
  EXPECT_EQ(run(arguments).find(printed), 0U);
  EXPECT_EQ(names_in(out), kDataset);
}

TEST(CorpusStats, DocumentsInPiecesAreWhole) {
  const std::string text = "a long text that comes in pieces";
  CorpusStats stats;
  for (const size_t cut : {0, 1, 10, 31}) {
    stats.add({std::string_view(text).substr(0, cut), "x", 0, false});
    stats.add({std::string_view(text).substr(cut), "x", cut, true});
  }
  const std::vector<int64_t> counts = {1, 1, 2, 0};
  const std::string table = stats.table(counts);
  EXPECT_NE(table.find("exact duplicates     3 documents, 75.00 %"), std::string::npos) << table;
  EXPECT_NE(table.find("longest document     32 bytes"), std::string::npos) << table;
  EXPECT_EQ(unigram_entropy(counts), 1.5);
}

// Runs prepare in a process of its own that `limit` and a signal may befall once the data set is
// being written; returns what waitpid says.
int run_child(const PrepareArguments& arguments, int signal, const std::function<void()>& limit) {
  const pid_t child = ::fork();
  if (child == 0) {
    limit();
    catch_stop_signals();
    try {
      prepare(arguments);
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      ::_exit(7);
    }
    ::_exit(0);
  }
  const Path partial = partial_path(arguments.out);
  int status = 0;
  while (signal != 0 && !fs::exists(partial / "train.bin")) {
    if (::waitpid(child, &status, WNOHANG) == child) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (signal != 0) ::kill(child, signal);
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// Gigabytes of text in a small file: gzip files one behind the other are one.
std::string long_input(const TemporaryDirectory& directory) {
  std::string text;
  while (text.size() < 16 << 20) text += "the a\n";
  const std::string once = formats::compressed("gzip", text);
  std::string all;
  for (int i = 0; i < 1000; ++i) all += once;
  return directory.write("long.txt.gz", all);
}

TEST(Prepare, StoppedOrKilledItLeavesNoDataSet) {
  const TemporaryDirectory directory;
  PrepareArguments arguments = bpe_arguments(directory, {long_input(directory)});
  arguments.split = "documents";
  const auto before = names_in(directory.path());
  for (const int signal : {SIGINT, SIGTERM}) {
    const int status = run_child(arguments, signal, [] {});
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
    EXPECT_EQ(names_in(directory.path()), before);
  }
  const int status = run_child(arguments, SIGKILL, [] {});
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_FALSE(fs::exists(arguments.out));
  // What a killed process left is taken away by the next.
  arguments.inputs = {directory.write("short.txt", "the a")};
  run(arguments);
  EXPECT_EQ(names_in(arguments.out), kDataset);
  EXPECT_FALSE(fs::exists(partial_path(arguments.out)));
}

TEST(Prepare, AFullDiskLeavesNothing) {
  const TemporaryDirectory directory;
  PrepareArguments arguments = bpe_arguments(directory, {long_input(directory)});
  arguments.split = "documents";
  const auto before = names_in(directory.path());
  const int status = run_child(arguments, 0, [] {
    const rlimit limit = {1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, SIG_IGN);
  });
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
  EXPECT_EQ(names_in(directory.path()), before);
}

}  // namespace
}  // namespace gigagpt::cli
