// Compressed files and archives as a stream, by libarchive: gzip, bzip2, xz, zstd; tar and zip,
// also tar in any of those.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace gigagpt::formats {

// Fills the front of a buffer and returns how many bytes that were, 0 only at the end. Throws Error
// where it cannot.
using ReadBytes = std::function<size_t(std::span<char>)>;

inline constexpr size_t kPackedHeadBytes = 512;  // as many as looks_packed wants, if there are

// Whether content that begins so is compressed or an archive, by its magic numbers. None of them
// begins a text: they are no UTF-8, or nothing that a person would write.
bool looks_packed(std::string_view head);

// Goes through the members of an archive; what is only compressed has a single member without a
// name. Memory does not depend on the size of anything. Every call throws Error, naming `where`,
// for what is damaged or cut short. (gzip's checksum is the one that libarchive does not compare.)
// Errors of `read` come through as they are. Use from one thread.
class PackedReader {
 public:
  PackedReader(std::string where, ReadBytes read);
  ~PackedReader();
  PackedReader(const PackedReader&) = delete;
  PackedReader& operator=(const PackedReader&) = delete;

  // Goes to the next member that is a file, not a folder or a link; false after the last.
  bool next();
  const std::string& name() const { return name_; }
  // The content of that member; 0 at its end.
  size_t read(std::span<char> bytes);

 private:
  struct Archive;
  [[noreturn]] void fail_damaged();
  void check_end();

  std::string where_;
  std::string name_;
  bool began_ = false, empty_member_ = false;
  std::unique_ptr<Archive> archive_;
};

}  // namespace gigagpt::formats
