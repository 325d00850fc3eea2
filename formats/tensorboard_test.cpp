// TensorBoard's event files, as tools/read_events.py reads them, which shares nothing with what
// writes them.
#include "formats/tensorboard.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/testing.h"
#include "formats/run_files.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text;
}

std::string output_of(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  std::string text;
  char block[4096];
  while (const size_t got = std::fread(block, 1, sizeof(block), pipe)) text.append(block, got);
  EXPECT_EQ(::pclose(pipe), 0) << text;
  return text;
}

std::vector<json> rows_in(const Path& folder) {
  std::vector<json> rows;
  std::istringstream lines(output_of(fmt::format("/usr/bin/python3 {}/tools/read_events.py '{}'",
                                                 GIGAGPT_SOURCE_DIR, folder.string())));
  for (std::string line; std::getline(lines, line);) rows.push_back(json::parse(line));
  return rows;
}

std::string text_of(const json& value) {
  return value.is_string() ? value.get<std::string>() : fmt::format("{}", value.get<double>());
}

// "step tag value" of the scalars, in order.
std::vector<std::string> scalars_in(const Path& folder) {
  std::vector<std::string> found;
  for (const json& row : rows_in(folder)) {
    if (!row.contains("value")) continue;
    found.push_back(fmt::format("{} {} {}", row.at("step").get<int64_t>(),
                                row.at("tag").get<std::string>(), text_of(row.at("value"))));
  }
  return found;
}

using Lines = std::vector<std::string>;

// The first record of every TensorFlow event file, of the time 1500000000.
TEST(TensorBoard, RecordHasTheBytesOfTheSpecification) {
  const std::string message(
      "\x09\0\0\0\xC0\x0B\x5A\xD6\x41\x1A\x0D"
      "brain.Event:2",
      24);
  EXPECT_EQ(hex(event_record(message)),
            "1800000000000000a37f4b22"                          // its length
            "09000000c00b5ad6411a0d627261696e2e4576656e743a32"  // itself
            "4ca9a464");
  EXPECT_EQ(event_record(message).size(), 12U + 24 + 4);
}

TEST(TensorBoard, FileBeginsWithVersionAndStart) {
  const TemporaryDirectory directory;
  const EventWriter writer(directory.path(), 300);
  const std::string bytes = read_text(writer.path());
  EXPECT_EQ(hex(bytes.substr(0, 12)), "1800000000000000a37f4b22");
  EXPECT_EQ(bytes.substr(21, 15),
            "\x1A\x0D"
            "brain.Event:2");
  // wall_time, step 301, session_log {status: START}
  EXPECT_EQ(hex(bytes.substr(40, 8)), "1000000000000000");
  EXPECT_EQ(bytes[52], '\x09');
  EXPECT_EQ(hex(bytes.substr(61, 7)), "10ad023a020801");
  EXPECT_EQ(bytes.size(), 40U + 12 + 16 + 4);
}

TEST(TensorBoard, ScalarsAreReadBack) {
  const TemporaryDirectory directory;
  {
    EventWriter writer(directory / "a", 0);
    writer.write(1, {{"train/loss", 4.25}, {"train/lr", 6e-4}});
    writer.write((int64_t{1} << 40) + 1, {{"x", -0.0}});
    writer.write(int64_t{1} << 41, {{"x", 1e300}, {"y", std::nan("")}, {"z", 0}});
  }
  EXPECT_EQ(
      scalars_in(directory / "a"),
      (Lines{"1 train/loss 4.25", fmt::format("1 train/lr {}", double{6e-4F}), "1099511627777 x -0",
             "2199023255552 x inf", "2199023255552 y nan", "2199023255552 z 0"}));
}

TEST(TensorBoard, EventsHaveTheTimeTheyWereWritten) {
  const TemporaryDirectory directory;
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  const double before = now();
  EventWriter(directory.path(), 0).write(1, {{"x", 1}});
  const double written = rows_in(directory.path()).at(0).at("wall_time");
  EXPECT_GE(written, before);
  EXPECT_LE(written, now());
}

TEST(TensorBoard, TextIsATensorOfOneStringForTheTextPlugin) {
  const TemporaryDirectory directory;
  EventWriter(directory.path(), 0).write_text(7, "config", "| a |\n\xC3\xA9");
  json row = rows_in(directory.path()).at(0);
  row.erase("wall_time");
  EXPECT_EQ(row, (json{{"step", 7},
                       {"tag", "config"},
                       {"plugin", "text"},
                       {"data_class", 2},
                       {"dtype", 7},
                       {"shape", json::array()},
                       {"text", {"| a |\n\xC3\xA9"}}}));
}

TEST(TensorBoard, TableShowsValuesAsTheyAre) {
  EXPECT_EQ(markdown_table({{"width", "768"}, {"out_dir", "a|b_*`[<&\\\n\xC3\xA9\xFF"}}),
            "| key | value |\n| --- | --- |\n| width | 768 |\n"
            "| out\\_dir | a\\|b\\_\\*\\`\\[&lt;&amp;\\\\ \xC3\xA9\xEF\xBF\xBD |\n");
}

TEST(TensorBoard, ContinuingVoidsLaterStepsOfOlderFiles) {
  const TemporaryDirectory directory;
  {
    EventWriter writer(directory.path(), 0);
    for (int64_t step = 1; step <= 4; ++step) writer.write(step, {{"x", double(step)}});
  }
  EventWriter(directory.path(), 2).write(3, {{"x", 30}});
  EXPECT_EQ(names_in(directory.path()).size(), 2U);
  EXPECT_EQ(scalars_in(directory.path()), (Lines{"1 x 1", "2 x 2", "3 x 30"}));
}

// Starts within a second, with process numbers and clocks in any order.
TEST(TensorBoard, NewFilesComeAfterThoseThatThereAre) {
  const TemporaryDirectory directory;
  directory.write("events.out.tfevents.2999999999.a.1.0", "");
  directory.write("events.out.tfevents.x", "");
  std::string last = "events.out.tfevents.2999999999.a.1.0";
  for (int64_t step = 1; step <= 3; ++step) {
    const std::string name = EventWriter(directory.path(), step).path().filename();
    EXPECT_GT(name, last);
    last = name;
  }
}

TEST(TensorBoard, RecordThatACrashCutShortIsNoReasonToLoseOthers) {
  const TemporaryDirectory directory;
  Path path;
  {
    EventWriter writer(directory.path(), 0);
    path = writer.path();
    writer.write(1, {{"x", 1}});
    writer.write(2, {{"x", 2}});
  }
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 3);
  EventWriter(directory.path(), 1).write(2, {{"x", 20}});
  EXPECT_EQ(scalars_in(directory.path()), (Lines{"1 x 1", "2 x 20"}));
}

TEST(TensorBoard, StartingAfreshForgetsAnOldRunAndNothingElse) {
  const TemporaryDirectory directory;
  EventWriter(directory.path(), 5).write(6, {{"old", 1}});
  directory.write("notes.txt", "");
  write_eval_event(directory / "eval", 5, 1, 2);
  EventWriter(directory.path(), 0).write(1, {{"new", 1}});
  EXPECT_EQ(scalars_in(directory.path()), Lines{"1 new 1"});
  EXPECT_TRUE(std::filesystem::exists(directory / "notes.txt"));
  EXPECT_EQ(scalars_in(directory / "eval").size(), 2U);
}

TEST(TensorBoard, EvaluationsAreInTheOrderOfTheirSteps) {
  const TemporaryDirectory directory;
  const Path folder = directory / "run" / "eval";
  write_eval_event(folder, 1000, 2.5, 12.25);
  write_eval_event(folder, 200, 3.5, 33);
  write_eval_event(folder, 1000, 2.25, 9.5);
  EXPECT_EQ(scalars_in(folder), (Lines{"200 val/loss 3.5", "200 val/perplexity 33",
                                       "1000 val/loss 2.25", "1000 val/perplexity 9.5"}));
}

TEST(TensorBoard, ErrorNamesTheFile) {
  const TemporaryDirectory directory;
  directory.write("file", "");
  EXPECT_ERROR(EventWriter(directory / "file", 0), (directory / "file").string());
  EXPECT_ERROR(write_eval_event(directory / "file", 1, 2, 3), (directory / "file").string());
}

// What metrics.jsonl says, through runs that are killed and continued.
TEST(TensorBoard, SaysWhatMetricsSay) {
  const TemporaryDirectory directory;
  const auto run = [&](int64_t from, int64_t to, double loss) {
    MetricsLog log(directory.path(), from, {{"width", std::to_string(to)}});
    for (int64_t step = from + 1; step <= to; ++step) {
      StepMetrics metrics = {.step = step,
                             .loss = loss + double(step) / 7,
                             .grad_norm = 1.0 / double(step),
                             .lr = 6e-4,
                             .tokens_per_s = 12345.678,
                             .mfu = 0.4};
      if (step % 3 == 0) metrics.val_loss = loss + 0.5;
      log.write(metrics);
    }
    log.sync();
  };
  run(0, 7, 5);
  run(5, 9, 4);
  run(5, 8, 3);
  Lines expected;
  std::istringstream lines(read_text(directory / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const json row = json::parse(line);
    for (const char* name : {"loss", "grad_norm", "lr", "tokens_per_s", "mfu", "val_loss"}) {
      if (!row.contains(name)) continue;
      const std::string tag =
          std::string(name) == "val_loss" ? "val/loss" : fmt::format("train/{}", name);
      expected.push_back(fmt::format("{} {} {}", row.at("step").get<int64_t>(), tag,
                                     double(row.at(name).get<float>())));
    }
  }
  EXPECT_EQ(expected.size(), 8U * 5 + 2);
  EXPECT_EQ(scalars_in(directory / "tensorboard"), expected);
  Lines configs;
  for (const json& row : rows_in(directory / "tensorboard")) {
    if (row.at("tag") == "config") {
      configs.push_back(fmt::format("{} {}", row.at("step").get<int64_t>(),
                                    row.at("text").at(0).get<std::string>()));
    }
  }
  const std::string head = "| key | value |\n| --- | --- |\n";
  EXPECT_EQ(configs, (Lines{"1 " + head + "| width | 7 |\n", "6 " + head + "| width | 8 |\n"}));
}

TEST(TensorBoard, OneProcessOfSeveralWrites) {
  const TemporaryDirectory directory;
  MetricsLog log(directory.path(), 0, {}, /*writes=*/false);
  log.write({.step = 1, .val_loss = 2});
  log.sync();
  EXPECT_TRUE(names_in(directory.path()).empty());
}

}  // namespace
}  // namespace gigagpt::formats
