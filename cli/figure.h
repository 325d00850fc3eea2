// Pictures of curves, drawn by gnuplot (https://gnuplot.sourceforge.net), which is run as a
// program.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/file.h"

namespace gigagpt::cli {

struct Curve {
  enum class Look { kLine, kDashed, kPoints, kLineAndPoints, kBand };
  std::string title;  // in the key; empty: not there
  std::vector<std::pair<double, double>> points;
  Look look = Look::kLine;
  int colour = 0;                  // of a palette that the colour-blind can tell apart; -1: grey
  std::vector<double> upper = {};  // of a band, whose lower edge is in `points`
};

struct Panel {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  bool key_outside = false;         // to the right of the curves
  std::vector<double> x_tics = {};  // empty: gnuplot's choice
  std::vector<Curve> curves;
};

struct Figure {
  std::string title;
  std::vector<Panel> panels;
  int columns = 1;
  int width = 900, height = 560;  // in pixels
};

// Throws Error for a name that does not end in .png or .svg.
void check_figure_file(const Path& file);
// Replaces the file. Throws Error if gnuplot is not there or cannot draw it.
void draw(const Figure& figure, const Path& file);
// The commands that gnuplot is given to write it to `out`.
std::string gnuplot_script(const Figure& figure, const Path& out, bool svg);

}  // namespace gigagpt::cli
