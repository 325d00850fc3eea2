#include "cli/figure.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"
#include "base/temporary_directory.h"

namespace gigagpt::cli {
namespace {

Figure two_panels() {
  const Curve line{"it's steep", {{1, 2}, {10, 20}, {100, 200}}};
  const Curve band{"", {{1, 1}, {100, 100}}, Curve::Look::kBand, 3, {3, 300}};
  return {"A figure",
          {{"left", "x", "y", true, true, true, {1, 100}, {line, band}},
           {"right", "x", "y", false, false, false, {}, {line}}},
          2};
}

TEST(Figure, IsDrawnAsItsNameSays) {
  const TemporaryDirectory folder;
  const Path png = folder.path() / "a b's.png", svg = folder.path() / "c.svg";
  draw(two_panels(), png);
  EXPECT_EQ(read_text(png).substr(1, 3), "PNG");
  draw(two_panels(), svg);
  const std::string text = read_text(svg);
  EXPECT_NE(text.find("<svg"), std::string::npos);
  for (const char* word : {"A figure", "left", "right", "it's steep"})
    EXPECT_NE(text.find(word), std::string::npos) << word;
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
}

TEST(Figure, OtherNamesAreRefused) {
  EXPECT_THROW(check_figure_file("a.gif"), Error);
  EXPECT_THROW(check_figure_file("png"), Error);
}

TEST(Figure, WithoutGnuplotTheMessageSaysWhatToInstall) {
  const TemporaryDirectory folder;
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", folder.path().c_str(), 1);
  try {
    draw(two_panels(), folder.path() / "a.svg");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("apt-get install gnuplot-nox"), std::string::npos);
  }
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace gigagpt::cli
