#include "cli/figure.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>

#include "base/error.h"

namespace gigagpt::cli {
namespace {

// Okabe and Ito's colours (2008, https://jfly.uni-koeln.de/color), the darker ones first.
constexpr const char* kColours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                    "#E69F00", "#56B4E9", "#000000"};

std::string colour_of(int index) {
  return index < 0 ? "#888888" : kColours[size_t(index) % std::size(kColours)];
}

std::string quoted(const std::string& text) {
  std::string to = "'";
  for (const char c : text) to += c == '\'' ? std::string("''") : std::string(1, c);
  return to + "'";
}

void add_data(const Panel& panel, size_t first, std::string& script) {
  for (size_t c = 0; c < panel.curves.size(); ++c) {
    const Curve& curve = panel.curves[c];
    script += fmt::format("$d{} << EOD\n", first + c);
    for (size_t i = 0; i < curve.points.size(); ++i) {
      const auto& [x, y] = curve.points[i];
      script += fmt::format("{:.9g} {:.9g}", x, y);
      if (curve.look == Curve::Look::kBand) script += fmt::format(" {:.9g}", curve.upper[i]);
      script += "\n";
    }
    script += "EOD\n";
  }
}

std::string look_of(const Curve& curve) {
  const std::string colour = quoted(colour_of(curve.colour));
  switch (curve.look) {
    case Curve::Look::kLine:
      return fmt::format("with lines lw 2 lc rgb {}", colour);
    case Curve::Look::kDashed:
      return fmt::format("with lines lw 1.5 dt 2 lc rgb {}", colour);
    case Curve::Look::kPoints:
      return fmt::format("with points pt 7 ps 0.9 lc rgb {}", colour);
    case Curve::Look::kLineAndPoints:
      return fmt::format("with linespoints lw 1.5 pt 7 ps 0.6 lc rgb {}", colour);
    case Curve::Look::kBand:
      return fmt::format("using 1:2:3 with filledcurves fs solid 0.18 noborder lc rgb {}", colour);
  }
  return "";
}

// gnuplot labels the decades alone, of which losses have one or none: as many round numbers as fit.
std::string log_tics(const Panel& panel) {
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const Curve& curve : panel.curves) {
    for (const auto& [_, y] : curve.points) least = std::min(least, y), most = std::max(most, y);
    for (const double y : curve.upper) most = std::max(most, y);
  }
  if (!(least > 0) || most / least > 100) return "set ytics autofreq\n";
  const std::vector<double> steps = most / least > 6
                                        ? std::vector<double>{1, 2, 5}
                                        : std::vector<double>{1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8};
  std::vector<std::string> tics;
  for (double decade = std::pow(10, std::floor(std::log10(least))); decade <= most; decade *= 10) {
    for (const double step : steps) {
      if (step * decade >= least && step * decade <= most)
        tics.push_back(fmt::format("{:.4g}", step * decade));
    }
  }
  if (tics.size() < 3) {  // a narrow range: evenly
    const double wide = std::max(most - least, 1e-3 * most),
                 power = std::pow(10, std::floor(std::log10(wide)));
    const double step = wide < 2 * power ? power / 4 : wide < 5 * power ? power / 2 : power;
    tics.clear();
    for (double tic = std::floor(least / step) * step; tic < most + step; tic += step)
      tics.push_back(fmt::format("{:.6g}", tic));
  }
  return fmt::format("set ytics ({})\n", fmt::join(tics, ","));
}

std::string plot_command(const Panel& panel, size_t first) {
  std::vector<std::string> parts;
  for (size_t c = 0; c < panel.curves.size(); ++c) {
    const Curve& curve = panel.curves[c];
    const std::string title = curve.title.empty() ? "notitle" : "title " + quoted(curve.title);
    parts.push_back(fmt::format("$d{} {} {}", first + c, look_of(curve), title));
  }
  return fmt::format("plot {}\n", fmt::join(parts, ", \\\n     "));
}

}  // namespace

void check_figure_file(const Path& file) {
  if (file.extension() == ".png" || file.extension() == ".svg") return;
  fail("--out: {} must end in .png or .svg", file.string());
}

std::string gnuplot_script(const Figure& figure, const Path& out, bool svg) {
  std::string script =
      fmt::format("set terminal {} size {},{} font 'sans,11'{}\nset output {}\nset encoding utf8\n",
                  svg ? "svg dynamic enhanced" : "pngcairo enhanced", figure.width, figure.height,
                  " background rgb 'white'", quoted(out.string()));
  size_t data = 0;
  for (const Panel& panel : figure.panels) {
    add_data(panel, data, script);
    data += panel.curves.size();
  }
  const auto rows = (int(figure.panels.size()) + figure.columns - 1) / figure.columns;
  if (figure.panels.size() > 1) {
    script += fmt::format("set multiplot layout {},{} title {} noenhanced\n", rows, figure.columns,
                          quoted(figure.title));
  }
  script += "set grid lc rgb '#dddddd'\nset border 3\nset tics nomirror\nset key noenhanced\n";
  data = 0;
  for (const Panel& panel : figure.panels) {
    const std::string& title = figure.panels.size() > 1 ? panel.title : figure.title;
    script +=
        fmt::format("set title {} noenhanced\nset xlabel {} noenhanced\nset ylabel {} noenhanced\n",
                    quoted(title), quoted(panel.x_label), quoted(panel.y_label));
    script += panel.log_x ? "set logscale x\n" : "unset logscale x\n";
    script += panel.log_y ? "set logscale y\nset autoscale yfix\n" + log_tics(panel)
                          : "unset logscale y\nset autoscale y\nset ytics autofreq\n";
    script += panel.key_outside ? "set key outside right center samplen 2 noopaque\n"
                                : "set key inside right top samplen 2 opaque\n";
    script += panel.x_tics.empty() ? "set xtics autofreq\n"
                                   : fmt::format("set xtics ({})\n", fmt::join(panel.x_tics, ","));
    script += "set autoscale xfix\nset offsets graph 0.03, graph 0.03, graph 0.03, graph 0.03\n";
    script += plot_command(panel, data);
    data += panel.curves.size();
  }
  if (figure.panels.size() > 1) script += "unset multiplot\n";
  return script + "set output\n";
}

void draw(const Figure& figure, const Path& file) {
  check_figure_file(file);
  if (std::system("command -v gnuplot >/dev/null") != 0) {
    fail("{} cannot be drawn: gnuplot is not installed; apt-get install gnuplot-nox",
         file.string());
  }
  const Path temporary = temporary_path(file);
  const auto discard = [&] {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
  };
  std::FILE* pipe = ::popen("LC_ALL=C.UTF-8 exec gnuplot >/dev/null", "w");
  if (pipe == nullptr) fail_errno("cannot start gnuplot");
  const std::string script = gnuplot_script(figure, temporary, file.extension() == ".svg");
  std::fwrite(script.data(), 1, script.size(), pipe);
  const int status = ::pclose(pipe);
  std::error_code missing;
  if (status != 0 || !std::filesystem::exists(temporary, missing)) {
    discard();
    fail("{}: gnuplot could not draw it", file.string());
  }
  std::filesystem::rename(temporary, file);
}

}  // namespace gigagpt::cli
