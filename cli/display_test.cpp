// Progress and profiles as text.
#include "cli/display.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/testing.h"

namespace gigagpt::cli {
namespace {

TEST(DurationText, ChangesItsUnitsAtTheRightPlaces) {
  const std::vector<std::pair<double, std::string>> known = {
      {0, "0s"},         {0.4, "0s"},        {0.6, "1s"},
      {45, "45s"},       {59.4, "59s"},      {59.6, "1m00s"},
      {60, "1m00s"},     {200, "3m20s"},     {3599.4, "59m59s"},
      {3599.6, "1h00m"}, {18420, "5h07m"},   {86399, "23h59m"},
      {86400, "1d0h"},   {1051200, "12d4h"}, {100 * 86400.0, "100d0h"}};
  for (const auto& [seconds, text] : known) EXPECT_EQ(duration_text(seconds), text) << seconds;
}

TEST(DurationText, TakesWhatIsNoDuration) {
  EXPECT_EQ(duration_text(-5), "0s");
  EXPECT_TRUE(duration_text(std::numeric_limits<double>::infinity()).ends_with("h"));
  const std::string nan = duration_text(std::nan(""));
  EXPECT_EQ(nan.find('-'), std::string::npos) << nan;
}

const formats::StepMetrics kMetrics = {
    .step = 5, .tokens = 1000, .loss = 3.12345, .grad_norm = 0.5, .lr = 6e-4, .epoch = 0.034};
const Pace kPace = {"21:40:12", 75, 120, 1234.4, 0.123};

TEST(StepText, HasEverythingInOneLine) {
  EXPECT_EQ(step_text(kMetrics, 1500, kPace),
            "21:40:12  step    5/1500  loss 3.1235  norm 0.500  lr 6.00e-04  1234 tok/s  "
            "MFU 12.3 %  epoch 0.034  1m15s  ETA 2m00s");
}

TEST(StepText, TellsWhatALawExpects) {
  formats::StepMetrics metrics = kMetrics;
  metrics.expected_loss = 3.0625;
  EXPECT_NE(step_text(metrics, 1500, kPace).find("loss 3.1235 (3.0625 expected)  norm"),
            std::string::npos);
}

TEST(StepText, StepsLineUp) {
  formats::StepMetrics last = kMetrics;
  last.step = 1500;
  EXPECT_EQ(step_text(kMetrics, 1500, kPace).find("loss"),
            step_text(last, 1500, kPace).find("loss"));
}

TEST(StepText, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(step_text(kMetrics, 9, Pace()).find("ETA"), std::string::npos);
  EXPECT_EQ(step_text(kMetrics, 9, kPace).find("val_loss"), std::string::npos);
  formats::StepMetrics metrics = kMetrics;
  metrics.val_loss = metrics.best_val_loss = 3.25;
  metrics.best_step = 5;
  EXPECT_TRUE(step_text(metrics, 9, kPace).ends_with("ETA 2m00s  val_loss 3.2500 (the best)"));
  metrics.best_val_loss = 3.125, metrics.best_step = 4;
  EXPECT_TRUE(step_text(metrics, 9, kPace).ends_with("val_loss 3.2500 (best 3.1250 at step 4)"));
  metrics.loss = std::nan("");
  EXPECT_NE(step_text(metrics, 9, kPace).find("loss nan"), std::string::npos);
}

TEST(ProfileText, IsATableOfMeans) {
  const StepProfile profile = {.steps = 4,
                               .seconds = 2,
                               .peak_flops = 1e12,
                               .rows = {{"gemm", 396, 1200, 9e11, 0},
                                        {"gelu backward", 50, 400, 0, 8e9},
                                        {"loss", 4, 200, 1e11, 2e9}}};
  EXPECT_EQ(profile_text(profile),
            "a step took 500 ms, the mean of 4 without the first\n"
            "op               calls/step    ms/step    share   GFLOP/s  of peak    GB/s\n"
            "gemm                     99    300.000   60.0 %     750.0   75.0 %\n"
            "gelu backward          12.5    100.000   20.0 %                       20.0\n"
            "loss                      1     50.000   10.0 %     500.0   50.0 %    10.0\n"
            "everything else                 50.000   10.0 %");
}

TEST(ProfileText, LeavesOutWhatIsNotKnown) {
  StepProfile profile = {.steps = 1, .seconds = 0.001, .rows = {{"gemm", 1, 0.5, 1e9, 0}}};
  EXPECT_NE(profile_text(profile).find("50.0 %    2000.0\n"), std::string::npos)
      << profile_text(profile);
  profile.rows = {{"too short to see", 1, 0, 1e9, 1e9}};
  for (const char* wrong : {"inf", "nan", "-"}) {
    EXPECT_EQ(profile_text(profile).find(wrong), std::string::npos) << profile_text(profile);
  }
  profile.rows = {};
  EXPECT_NE(profile_text(profile).find("1.000  100.0 %"), std::string::npos)
      << profile_text(profile);
  EXPECT_EQ(profile_text({}), "no profile: it leaves out the first step, and there was no other");
}

TEST(ProfileText, LongNamesKeepTheColumnsInLine) {
  const StepProfile profile = {
      .steps = 1, .seconds = 1, .rows = {{"attention backward, recomputed", 1, 500, 0, 0}}};
  std::istringstream lines(profile_text(profile));
  std::string line;
  std::getline(lines, line);
  std::getline(lines, line);
  const size_t end_of_ms = line.find("ms/step") + 7;
  for (const char* digits : {"500.000", "500.000"}) {
    std::getline(lines, line);
    EXPECT_EQ(line.find(digits) + 7, end_of_ms) << line;
  }
}

TEST(Trace, ReadsAsJson) {
  const TemporaryDirectory directory;
  start_tracing(10);
  {
    const Zone outer("with \"quotes\", a \\ and a \n");
    const Zone inner("gemm", 1e6, 1e3);
  }
  stop_tracing();
  write_trace(directory / "trace.json");
  const auto events = nlohmann::json::parse(read_text(directory / "trace.json")).at("traceEvents");
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[0]["ph"], "M");
  EXPECT_EQ(events[1]["tid"], events[2]["tid"]) << "the thread that is named is the one that runs";
  EXPECT_EQ(events[2]["ph"], "X");
  EXPECT_EQ(events[2]["name"], "gemm");
  EXPECT_GT(events[2]["args"]["GFLOP/s"], 0);
  EXPECT_GT(events[2]["args"]["GB/s"], 0);
  EXPECT_GE(events[3]["dur"], events[2]["dur"]);
  EXPECT_EQ(events[3]["name"], "with \"quotes\", a \\ and a  ");
  EXPECT_FALSE(events[3].contains("args"));
}

// Under a test, standard error is captured into a file, which is no terminal.
TEST(Display, InALogLinesStayAndTheLiveLineIsLeftOut) {
  testing::internal::CaptureStderr();
  {
    Display display;
    display.live("live");
    display.line("first");
    display.live("live again");
    display.line("second");
    display.share("reading", 0.5);  // too early to be worth a line
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "first\nsecond\n");
}

TEST(Display, ATerminalBehindMpirunHasTheLiveLineCutToItsWidth) {
  ::setenv(kColumnsVariable, "8", 1);
  testing::internal::CaptureStderr();
  {
    Display display;
    display.live("a long live line");
    display.line("first");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "\ra long \r       \rfirst\n");
  ::unsetenv(kColumnsVariable);
}

}  // namespace
}  // namespace gigagpt::cli
