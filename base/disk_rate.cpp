#include "base/disk_rate.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/async_file.h"
#include "base/error.h"
#include "base/system.h"

namespace gigagpt {
namespace {

enum Kind { kRead, kWrite, kMixed };

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
  return double(blocks) * double(buffers[0].size_bytes()) / watch.seconds();
}

}  // namespace

DiskRates measure_disk(const Path& folder, const DiskTest& test) {
  std::vector<PageBuffer> buffers;
  for (size_t i = 0; i < test.depth; ++i) {
    buffers.emplace_back(test.block_bytes);
    std::memset(buffers.back().data(), int(i), buffers.back().size_bytes());
  }
  const Path path = folder / fmt::format(".disk-test-{}.tmp", ::getpid());
  AsyncFile file(path, AsyncFile::Mode::kCreate);
  std::filesystem::remove(path);
  const size_t blocks = size_t(test.size_bytes / buffers[0].size_bytes());
  file.reserve(blocks * buffers[0].size_bytes());
  rate(file, kWrite, blocks, buffers);  // the first time costs the file system more
  DiskRates rates;
  rates.write = rate(file, kWrite, blocks, buffers);
  rates.read = rate(file, kRead, blocks, buffers);
  rates.mixed = rate(file, kMixed, blocks, buffers);
  return rates;
}

Path existing_folder(const Path& path) {
  Path folder = std::filesystem::absolute(path);
  std::error_code missing;
  while (!std::filesystem::is_directory(folder, missing) && folder != folder.parent_path()) {
    folder = folder.parent_path();
  }
  return folder;
}

std::string disk_name(const Path& path) {
  struct stat status {};
  const Path folder = existing_folder(path);
  if (::stat(folder.c_str(), &status) != 0) fail_errno("cannot stat " + folder.string());
  return fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev));
}

uint64_t free_bytes(const Path& path) {
  return std::filesystem::space(existing_folder(path)).available;
}

uint64_t used_bytes(const Path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return 0;
  uint64_t bytes = 512 * uint64_t(status.st_blocks);
  std::error_code ignored;
  if (!S_ISDIR(status.st_mode)) return bytes;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
    bytes += used_bytes(entry.path());
  }
  return bytes;
}

}  // namespace gigagpt
