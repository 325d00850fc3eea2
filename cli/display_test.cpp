// Progress as text.
#include "cli/display.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

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

const formats::StepMetrics kMetrics = {.step = 5,
                                       .tokens = 1000,
                                       .loss = 3.12345,
                                       .grad_norm = 0.5,
                                       .lr = 6e-4,
                                       .tokens_per_s = 1234.4,
                                       .mfu = 0.123};

TEST(StepText, HasEverythingInOneLine) {
  EXPECT_EQ(step_text(kMetrics, 1500, 120),
            "step    5/1500  loss 3.1235  norm 0.500  lr 6.00e-04  1234 tok/s  MFU 12.3 %  "
            "ETA 2m00s");
}

TEST(StepText, StepsLineUp) {
  formats::StepMetrics last = kMetrics;
  last.step = 1500;
  EXPECT_EQ(step_text(kMetrics, 1500, -1).find("loss"), step_text(last, 1500, -1).find("loss"));
}

TEST(StepText, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(step_text(kMetrics, 9, -1).find("ETA"), std::string::npos);
  EXPECT_NE(step_text(kMetrics, 9, 0).find("ETA 0s"), std::string::npos);
  EXPECT_EQ(step_text(kMetrics, 9, -1).find("val_loss"), std::string::npos);
  formats::StepMetrics metrics = kMetrics;
  metrics.val_loss = 3.25;
  EXPECT_TRUE(step_text(metrics, 9, 60).ends_with("ETA 1m00s  val_loss 3.2500"));
  metrics.loss = std::nan("");
  EXPECT_NE(step_text(metrics, 9, 60).find("loss nan"), std::string::npos);
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

}  // namespace
}  // namespace gigagpt::cli
