// What a disk gives a file that is read and written in large blocks, several at once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/file.h"

namespace gigagpt {

// Bytes a second; mixed: every other block is written, both counted. 0: not known.
struct DiskRates {
  double read = 0, write = 0, mixed = 0;
};

struct DiskTest {
  uint64_t size_bytes = uint64_t{1} << 30;
  size_t block_bytes = size_t{16} << 20;
  size_t depth = 8;  // blocks at once
};

// Measures in a file in `folder`, which is never seen there. Takes four passes over it. Throws
// Error if there is no room.
DiskRates measure_disk(const Path& folder, const DiskTest& test);

// The nearest folder above that is there already, itself included.
Path existing_folder(const Path& path);
// Which disk a path is, or would be, on: "8:1".
std::string disk_name(const Path& path);
// What is free there for this user, in bytes.
uint64_t free_bytes(const Path& path);
// What a file, or all in a folder, takes of it; 0 if it is not there.
uint64_t used_bytes(const Path& path);

}  // namespace gigagpt
