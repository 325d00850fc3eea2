// Files for a while.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace gigagpt {

// An empty directory in the one for temporary files, which goes away with everything in it. Throws
// Error.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "gigagpt_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail_errno("cannot create " + name);
    path_ = name;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const Path& path() const { return path_; }
  Path operator/(std::string_view name) const { return path_ / name; }
  // Writes a file, making its folders; returns its path.
  Path write(std::string_view name, std::string_view content) const {
    const Path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    File::create(file).write(content);
    return file;
  }

 private:
  Path path_;
};

}  // namespace gigagpt
