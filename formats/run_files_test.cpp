// The files of a run: trainer_state.json and metrics.jsonl.
#include "formats/run_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/testing.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

const TrainerState kState = {
    .step = 1500,
    .tokens = int64_t{1} << 40,
    .config = {{"width", "128"}, {"dataset", "a \"b\"\n\xC3\xA9"}, {"bias", "true"}},
    .manifest = {{"version", "0.1.0"}, {"cpu", ""}},
    .files = {{"model.safetensors", uint64_t{1} << 41, 0x00A1B2C3}, {"b", 0, 0xFFFFFFFF}}};

void expect_equal(const TrainerState& a, const TrainerState& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.config, b.config);
  EXPECT_EQ(a.manifest, b.manifest);
  EXPECT_EQ(a.files, b.files);
}

TEST(TrainerState, WrittenReadsBackInOrder) {
  const TemporaryDirectory directory;
  write_trainer_state(directory.path(), kState);
  expect_equal(read_trainer_state(directory.path()), kState);
}

TEST(TrainerState, FilesMayBeMissingButNotBad) {
  const TemporaryDirectory directory;
  write_trainer_state(directory.path(), {1, 2, {}, {}});
  const std::string without = read_text(directory / "trainer_state.json");
  EXPECT_EQ(without.find("files"), std::string::npos);
  EXPECT_TRUE(read_trainer_state(directory.path()).files.empty());
  for (const char* files :
       {"[]", "null", "7", R"({"a": 1})", R"({"a": {}})", R"({"a": {"bytes": 1}})",
        R"({"a": {"bytes": -1, "crc32c": "01234567"}})", R"({"a": {"bytes": 1, "crc32c": 7}})",
        R"({"a": {"bytes": 1, "crc32c": ""}})", R"({"a": {"bytes": 1, "crc32c": "0123456"}})",
        R"({"a": {"bytes": 1, "crc32c": "0123456789"}})",
        R"({"a": {"bytes": 1, "crc32c": "0123456x"}})"}) {
    directory.write("trainer_state.json",
                    fmt::format("{{\"files\": {},{}", files, without.substr(1)));
    EXPECT_ERROR(read_trainer_state(directory.path()), "trainer_state.json") << files;
  }
}

TEST(TrainerState, HasTheKeyThatOtherTrainersUse) {
  const TemporaryDirectory directory;
  write_trainer_state(directory.path(), kState);
  const auto root = json::parse(read_text(directory / "trainer_state.json"));
  EXPECT_EQ(root.at("global_step"), 1500);
  EXPECT_EQ(root.at("config").at("width"), "128");
}

// A Linux path may be any bytes, and paths are part of the configuration.
TEST(TrainerState, TextThatIsNotUtf8IsNoReasonToLoseACheckpoint) {
  const TemporaryDirectory directory;
  write_trainer_state(directory.path(), {1, 2, {{"out_dir", "out/\xFF"}}, {}, {}});
  EXPECT_EQ(read_trainer_state(directory.path()).config.at(0).second, "out/\uFFFD");
}

TEST(TrainerState, BadFileIsRefused) {
  const TemporaryDirectory directory;
  const std::string file = (directory / "trainer_state.json").string();
  EXPECT_ERROR(read_trainer_state(directory.path()), "cannot open " + file);
  for (const char* text :
       {"",
        "{",
        "[]",
        "null",
        "7",
        "\"text\"",
        "{}",
        R"({"tokens": 1, "config": {}, "manifest": {}})",
        R"({"global_step": 1, "config": {}, "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "config": {}})",
        R"({"global_step": "1", "tokens": 1, "config": {}, "manifest": {}})",
        R"({"global_step": null, "tokens": 1, "config": {}, "manifest": {}})",
        R"({"global_step": -1, "tokens": 1, "config": {}, "manifest": {}})",
        R"({"global_step": 1.5, "tokens": 1, "config": {}, "manifest": {}})",
        R"({"global_step": 1, "tokens": [], "config": {}, "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "config": {"width": 128}, "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "config": {"width": null}, "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "config": {}, "manifest": {"a": {}}})",
        R"({"global_step": 1, "tokens": 1, "config": "width", "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "config": ["width"], "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "config": null, "manifest": {}})",
        R"({"global_step": 1, "global_step": 1, "tokens": 1, "config": {}, "manifest": {}})",
        R"({"global_step": 1, "tokens": 1, "config": {"a": "1", "a": "2"}, "manifest": {}})"}) {
    directory.write("trainer_state.json", text);
    EXPECT_ERROR(read_trainer_state(directory.path()), file) << text;
  }
}

// Each key of an ordered object is looked for among all before it: without a limit this takes
// minutes.
TEST(TrainerState, HundredsOfThousandsOfKeysAreRefused) {
  const TemporaryDirectory directory;
  std::string text = R"({"global_step": 1, "tokens": 1, "manifest": {}, "config": {)";
  for (int i = 0; i < 300000; ++i) text += fmt::format("\"{}\": \"\", ", i);
  directory.write("trainer_state.json", text + "\"x\": \"\"}}");
  EXPECT_ERROR(read_trainer_state(directory.path()), "more than 10000 keys");
}

TEST(TrainerState, DamagedFilesNeverCrash) {
  const TemporaryDirectory directory;
  write_trainer_state(directory.path(), kState);
  const std::string whole = read_text(directory / "trainer_state.json");
  std::mt19937_64 random(9);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = damaged(whole, random);
    directory.write("trainer_state.json", text);
    ASSERT_TRUE(returns_or_throws_error([&] {
      const TrainerState state = read_trainer_state(directory.path());
      write_trainer_state(directory.path(), state);
      expect_equal(read_trainer_state(directory.path()), state);
    })) << text;
  }
}

StepMetrics metrics_of(int64_t step) {
  return {.step = step, .tokens = 100 * step, .loss = 4.5, .lr = 1e-3, .mfu = 0.5};
}

std::vector<json> rows_of(const Path& path) {
  std::vector<json> rows;
  std::istringstream lines(read_text(path));
  for (std::string line; std::getline(lines, line);) rows.push_back(json::parse(line));
  return rows;
}

std::vector<int64_t> steps_of(const Path& path) {
  std::vector<int64_t> steps;
  for (const json& row : rows_of(path)) steps.push_back(row.at("step"));
  return steps;
}

TEST(MetricsLog, WritesOneObjectPerStep) {
  const TemporaryDirectory directory;
  StepMetrics metrics = {.step = 1,
                         .tokens = 2,
                         .loss = 3.5,
                         .grad_norm = 4.25,
                         .lr = 6e-4,
                         .tokens_per_s = 7,
                         .mfu = 0.125,
                         .step_ms = 9,
                         .rss_gb = 10,
                         .io = {11, 12, 13, 14},
                         .epoch = 0.25};
  {
    MetricsLog log(directory.path(), 0, {});
    log.write(metrics);
    metrics.step = 2;
    metrics.expected_loss = 3.25;
    metrics.val_loss = 11.5;
    log.write(metrics);
  }
  const auto rows = rows_of(directory / "metrics.jsonl");
  ASSERT_EQ(rows.size(), 2U);
  json expected = {{"step", 1},         {"tokens", 2},       {"loss", 3.5},
                   {"grad_norm", 4.25}, {"lr", 6e-4},        {"tokens_per_s", 7.0},
                   {"mfu", 0.125},      {"step_ms", 9.0},    {"rss_gb", 10.0},
                   {"read_bytes", 11},  {"write_bytes", 12}, {"sent_bytes", 13},
                   {"stall_ms", 14.0},  {"epoch", 0.25}};
  EXPECT_EQ(rows[0], expected);
  expected["step"] = 2;
  expected["expected_loss"] = 3.25;
  expected["val_loss"] = 11.5;
  EXPECT_EQ(rows[1], expected);
}

TEST(MetricsLog, LossThatIsNotANumberStaysValidJson) {
  const TemporaryDirectory directory;
  StepMetrics metrics = metrics_of(1);
  metrics.loss = std::nan("");
  metrics.grad_norm = INFINITY;
  MetricsLog(directory.path(), 0, {}).write(metrics);
  EXPECT_EQ(steps_of(directory / "metrics.jsonl"), std::vector<int64_t>{1});
}

TEST(MetricsLog, ContinuingDropsLaterStepsAndKeepsTheEarlierBytes) {
  const TemporaryDirectory directory;
  const Path path = directory / "metrics.jsonl";
  {
    MetricsLog log(directory.path(), 0, {});
    for (int64_t step = 1; step <= 3; ++step) log.write(metrics_of(step));
  }
  const std::string three = read_text(path);
  {
    MetricsLog log(directory.path(), 3, {});
    for (int64_t step = 4; step <= 6; ++step) log.write(metrics_of(step));
  }
  EXPECT_EQ(steps_of(path), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  MetricsLog log(directory.path(), 3, {});
  EXPECT_EQ(read_text(path), three);
  log.write(metrics_of(4));
  EXPECT_EQ(steps_of(path), (std::vector<int64_t>{1, 2, 3, 4}));
}

TEST(MetricsLog, ContinuingDropsALineThatACrashCutShort) {
  const TemporaryDirectory directory;
  const Path path = directory / "metrics.jsonl";
  {
    MetricsLog log(directory.path(), 0, {});
    for (int64_t step = 1; step <= 3; ++step) log.write(metrics_of(step));
  }
  const std::string whole = read_text(path);
  const size_t second = whole.find('\n') + 1;
  for (size_t size = second; size < whole.size(); ++size) {
    directory.write("metrics.jsonl", whole.substr(0, size));
    MetricsLog log(directory.path(), 3, {});
    const auto steps = steps_of(path);  // throws for a line that is not JSON
    // A line that lacks only its end is whole.
    const size_t end = std::min(size + 2, whole.size());
    const auto lines = std::count(whole.begin(), whole.begin() + static_cast<long>(end), '\n');
    ASSERT_EQ(static_cast<std::ptrdiff_t>(steps.size()), lines) << size;
  }
}

TEST(MetricsLog, StartingAfreshForgetsAnOldRun) {
  const TemporaryDirectory directory;
  directory.write("metrics.jsonl", R"({"step": 1})"
                                   "\n");
  MetricsLog(directory.path(), 0, {}).write(metrics_of(9));
  EXPECT_EQ(steps_of(directory / "metrics.jsonl"), std::vector<int64_t>{9});
}

TEST(MetricsLog, ForeignLinesAreDropped) {
  const TemporaryDirectory directory;
  directory.write("metrics.jsonl",
                  "\n[]\n5\nnull\n{}\n{\"step\": \"1\"}\n{\"step\": null}\n{\"step\": -1}\n"
                  "{\"step\": 18446744073709551615}\n{\"step\": 2}\n\xFF\n");
  MetricsLog(directory.path(), 5, {});
  EXPECT_EQ(steps_of(directory / "metrics.jsonl"), std::vector<int64_t>{2});
}

TEST(MetricsLog, ErrorNamesTheFile) {
  const TemporaryDirectory directory;
  EXPECT_ERROR(MetricsLog(directory / "no", 0, {}), (directory / "no" / "metrics.jsonl").string());
}

// The limit stands for a full disk.
TEST(MetricsLog, AFullDiskEndsNoRunAndIsSaidOnce) {
  const TemporaryDirectory directory;
  std::vector<std::string> warnings;
  MetricsLog log(directory.path(), 0, {}, true,
                 [&](const auto& text) { warnings.push_back(text); });
  log.write(metrics_of(1));
  const Path path = directory / "metrics.jsonl";
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  rlimit full = before;
  full.rlim_cur = std::filesystem::file_size(path) + 10;
  ::setrlimit(RLIMIT_FSIZE, &full);
  for (int64_t step = 2; step <= 4; ++step) log.write(metrics_of(step));
  log.sync();
  ::setrlimit(RLIMIT_FSIZE, &before);
  log.write(metrics_of(5));
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(warnings[0].find("the run goes on"), std::string::npos) << warnings[0];
  MetricsLog(directory.path(), 5, {});
  EXPECT_EQ(steps_of(path), (std::vector<int64_t>{1, 5}));
}

TEST(MetricsLog, DamagedFilesNeverCrash) {
  const TemporaryDirectory directory;
  const Path path = directory / "metrics.jsonl";
  {
    MetricsLog log(directory.path(), 0, {});
    for (int64_t step = 1; step <= 3; ++step) log.write(metrics_of(step));
  }
  const std::string whole = read_text(path);
  std::mt19937_64 random(10);
  for (int i = 0; i < 1000; ++i) {
    directory.write("metrics.jsonl", damaged(whole, random));
    MetricsLog(directory.path(), 2, {});
    const std::string kept = read_text(path);
    MetricsLog(directory.path(), 2, {});
    ASSERT_EQ(read_text(path), kept) << "what is left is whole";
    for (const json& row : rows_of(path)) ASSERT_LE(row.at("step").get<double>(), 2);
  }
}

}  // namespace
}  // namespace gigagpt::formats
