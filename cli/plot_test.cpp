#include "cli/plot.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/temporary_directory.h"
#include "base/testing.h"

namespace gigagpt::cli {
namespace {

// A run whose loss is 100 - step / 10, with a validation every 400 steps.
Path write_run(const Path& folder, const std::string& name, int steps) {
  std::string lines;
  for (int step = 1; step <= steps; ++step) {
    lines += fmt::format(R"({{"step":{},"tokens":{},"loss":{},"step_ms":3600)", step, 50 * step,
                         100 - step / 10.0);
    lines += step % 400 == 0 ? fmt::format(R"(,"val_loss":{}}})", 200 - step / 10.0) + "\n" : "}\n";
  }
  std::filesystem::create_directories(folder / name);
  File::create(folder / name / "metrics.jsonl").write(lines);
  return folder / name;
}

TEST(Plot, HasALineForEachRunAndPointsForItsValidation) {
  const TemporaryDirectory folder;
  PlotArguments arguments;
  // A slash at its end is not its name.
  arguments.runs = {write_run(folder.path(), "one", 900).string() + "/",
                    write_run(folder.path(), "two", 90).string()};
  arguments.smooth = 0;
  const Figure figure = plot_of(arguments);
  ASSERT_EQ(figure.panels.size(), 1U);
  const auto& curves = figure.panels[0].curves;
  ASSERT_EQ(curves.size(), 3U);
  EXPECT_EQ(curves[0].title, "one");
  EXPECT_EQ(curves[1].title, "validation");
  EXPECT_EQ(curves[1].points, (std::vector<std::pair<double, double>>{{20000, 160}, {40000, 120}}));
  EXPECT_EQ(curves[1].colour, curves[0].colour);
  EXPECT_EQ(curves[2].title, "two");
  EXPECT_NE(curves[2].colour, curves[0].colour);
  EXPECT_EQ(curves[0].points.size(), 900U);
  EXPECT_EQ(curves[0].points[899], (std::pair<double, double>(45000, 10)));
  EXPECT_TRUE(figure.panels[0].log_x && figure.panels[0].log_y);
}

// A mean around a point of a straight line is the line.
TEST(Plot, SmoothingStaysWhereTheLossIs) {
  const TemporaryDirectory folder;
  PlotArguments arguments;
  arguments.runs = {write_run(folder.path(), "long", 5000).string()};
  arguments.smooth = 0.1;
  arguments.x = "steps";
  arguments.log = "x";
  const Figure figure = plot_of(arguments);
  const auto& points = figure.panels[0].curves[0].points;
  EXPECT_LE(points.size(), 1000U);
  for (const auto& [step, loss] : points) ASSERT_NEAR(loss, 100 - step / 10, 1e-9);
  EXPECT_FALSE(figure.panels[0].log_y);
  arguments.x = "hours";
  EXPECT_NEAR(plot_of(arguments).panels[0].curves[0].points[1].first, 0.006, 1e-12);
}

TEST(Plot, SaysWhatIsMissing) {
  const TemporaryDirectory folder;
  PlotArguments arguments;
  arguments.runs = {folder.path().string()};
  EXPECT_ERROR(plot_of(arguments), "there are no steps in its metrics.jsonl");
  arguments.runs = {write_run(folder.path(), "one", 5).string()};
  arguments.law = "cerebras-gpt";
  EXPECT_ERROR(plot_of(arguments), "--law: a law is over FLOPs: add --x flops");
  arguments.x = "flops";
  EXPECT_ERROR(plot_of(arguments), "there is no checkpoint");
}

}  // namespace
}  // namespace gigagpt::cli
