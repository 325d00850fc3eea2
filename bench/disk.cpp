// What the disk gives a file that is read and written in segments, several at once: the yardstick
// for streaming.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "base/async_file.h"
#include "base/error.h"
#include "base/system.h"

namespace gigagpt {
namespace {

enum Kind { kRead, kWrite, kMixed };

// Goes through the file once, `depth` blocks at a time; mixed: every other block is written. GB/s.
double rate(AsyncFile& file, Kind kind, size_t blocks, const std::vector<PageBuffer>& buffers) {
  const Stopwatch watch;
  size_t started = 0;
  const auto start = [&](size_t buffer) {
    const bool write = kind == kWrite || (kind == kMixed && started % 2 == 1);
    const auto memory = buffers[buffer].bytes();
    file.start(buffer + 1, {write, uint64_t(started) * memory.size(), {memory}});
    ++started;
  };
  for (size_t i = 0; i < std::min(buffers.size(), blocks); ++i) start(i);
  while (file.under_way() > 0) {
    const auto id = file.wait();
    if (id && started < blocks) start(*id - 1);
  }
  file.sync();
  return double(blocks) * double(buffers[0].size_bytes()) / watch.seconds() / 1e9;
}

int run(int argc, char** argv) {
  CLI::App app{"Measures direct reads and writes in a file that is removed afterwards"};
  std::string path = "bench_disk.tmp";
  double gb = 4;
  size_t depth = 8, block_mib = 18;
  app.add_option("--file", path, "where; on the disk that the store would be on");
  app.add_option("--gb", gb, "size of the file, in 1e9 bytes")->capture_default_str();
  app.add_option("--depth", depth, "blocks at once")->capture_default_str();
  app.add_option("--block_mib", block_mib, "size of a block")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  std::vector<PageBuffer> buffers;
  for (size_t i = 0; i < depth; ++i) {
    buffers.emplace_back(block_mib << 20);
    std::memset(buffers.back().data(), int(i), buffers.back().size_bytes());
  }
  AsyncFile file(path, AsyncFile::Mode::kCreate);
  std::filesystem::remove(path);
  const size_t blocks = size_t(gb * 1e9 / double(block_mib << 20));
  file.reserve(blocks * (block_mib << 20));
  rate(file, kWrite, blocks, buffers);  // the first time costs the file system more
  fmt::print("write {:.3f}\n", rate(file, kWrite, blocks, buffers));
  fmt::print("read {:.3f}\n", rate(file, kRead, blocks, buffers));
  fmt::print("mixed {:.3f}\n", rate(file, kMixed, blocks, buffers));
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
