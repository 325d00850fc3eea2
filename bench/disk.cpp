// The disk by itself: the yardstick for streaming.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

#include "base/disk_rate.h"

namespace gigagpt {
namespace {

int run(int argc, char** argv) {
  CLI::App app{"Measures direct reads and writes in a file that is removed afterwards"};
  std::string folder = ".";
  double gb = 4;
  size_t depth = 8, block_mib = 18;
  app.add_option("--folder", folder, "where; on the disk that the store would be on");
  app.add_option("--gb", gb, "size of the file, in 1e9 bytes")->capture_default_str();
  app.add_option("--depth", depth, "blocks at once")->capture_default_str();
  app.add_option("--block_mib", block_mib, "size of a block")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const DiskRates rates = measure_disk(folder, {uint64_t(gb * 1e9), block_mib << 20, depth});
  fmt::print("write {:.3f}\nread {:.3f}\nmixed {:.3f}\n", rates.write / 1e9, rates.read / 1e9,
             rates.mixed / 1e9);
  return 0;
}

}  // namespace
}  // namespace gigagpt

int main(int argc, char** argv) {
  try {
    return gigagpt::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_disk: {}\n", error.what());
    return 1;
  }
}
