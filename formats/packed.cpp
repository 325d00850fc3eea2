#include "formats/packed.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <vector>

#include "base/error.h"

namespace gigagpt::formats {
namespace {

constexpr size_t kBlockBytes = 1 << 16;
constexpr size_t kTarBlockBytes = 512;

// ustar and GNU tar have it at byte 257.
constexpr std::string_view kTarMagic = "ustar";
constexpr size_t kTarMagicPlace = 257;

}  // namespace

bool looks_packed(std::string_view head) {
  using namespace std::string_view_literals;
  // gzip, xz, zstd, zip and a zip file of nothing
  for (const std::string_view magic :
       {"\x1F\x8B"sv, "\xFD\x37zXZ\0"sv, "\x28\xB5\x2F\xFD"sv, "PK\3\4"sv, "PK\5\6"sv}) {
    if (head.starts_with(magic)) return true;
  }
  // bzip2: behind the level the digits of pi, or of its root where nothing follows.
  const std::string_view digits = head.substr(std::min<size_t>(4, head.size()));
  if (head.starts_with("BZh") &&
      (digits.starts_with("1AY&SY") || digits.starts_with("\x17rE8P\x90"))) {
    return true;
  }
  return head.size() >= kTarBlockBytes && head.substr(kTarMagicPlace).starts_with(kTarMagic);
}

// What libarchive calls back. Exceptions must not run through its C: they wait in `error`.
struct PackedReader::Archive {
  archive* handle = archive_read_new();
  ReadBytes source;
  std::exception_ptr error;
  std::vector<char> block = std::vector<char>(kBlockBytes);
  size_t zeros = 0;  // that the content ends with, so far

  ~Archive() { archive_read_free(handle); }

  static la_ssize_t read_block(archive* handle, void* self, const void** bytes) {
    Archive& my = *static_cast<Archive*>(self);
    try {
      const size_t size = my.source(my.block);
      *bytes = my.block.data();
      size_t zeros = 0;
      while (zeros < size && my.block[size - 1 - zeros] == 0) ++zeros;
      my.zeros = zeros == size ? my.zeros + zeros : zeros;
      return static_cast<la_ssize_t>(size);
    } catch (...) {
      my.error = std::current_exception();
      archive_set_error(handle, EIO, "reading failed");
      return ARCHIVE_FATAL;
    }
  }
};

PackedReader::PackedReader(std::string where, ReadBytes read)
    : where_(std::move(where)), archive_(std::make_unique<Archive>()) {
  archive* handle = archive_->handle;
  if (handle == nullptr) fail("{}: no memory to read it", where_);
  archive_->source = std::move(read);
  archive_read_support_filter_gzip(handle);
  archive_read_support_filter_bzip2(handle);
  archive_read_support_filter_xz(handle);
  archive_read_support_filter_zstd(handle);
  archive_read_support_format_tar(handle);
  archive_read_support_format_zip_streamable(handle);
  archive_read_support_format_raw(handle);
  archive_read_support_format_empty(handle);
  // Tar files that were put one behind the other are read to the end; else the rest would be lost.
  archive_read_set_option(handle, "tar", "read_concatenated_archives", "1");
  const int opened =
      archive_read_open(handle, archive_.get(), nullptr, Archive::read_block, nullptr);
  if (opened != ARCHIVE_OK) fail_damaged();
}

PackedReader::~PackedReader() = default;

void PackedReader::fail_damaged() {
  if (archive_->error) std::rethrow_exception(archive_->error);
  const char* message = archive_error_string(archive_->handle);
  fail("{}: damaged or cut short{}{}; get the file again", where_, message ? ": " : "",
       message ? message : "");
}

void PackedReader::check_end() {
  archive* handle = archive_->handle;
  const int format = archive_format(handle);
  if (archive_filter_count(handle) > 1) return;  // what is compressed says itself where it ends
  if (format == ARCHIVE_FORMAT_EMPTY) fail("{}: empty, though its name is an archive's", where_);
  // A tar file that was cut between two members looks whole but for the zeros at its end.
  const bool is_tar = (format & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_TAR;
  if (is_tar && archive_->zeros < kTarBlockBytes) {
    fail("{}: cut short: a tar file ends with a block of zeros; get the file again", where_);
  }
}

bool PackedReader::next() {
  archive* handle = archive_->handle;
  archive_entry* entry = nullptr;
  if (empty_member_) return false;
  while (true) {
    const int result = archive_read_next_header(handle, &entry);
    if (result == ARCHIVE_EOF) {
      check_end();
      // Of nothing in a compressed file libarchive makes no member.
      empty_member_ = !began_ && archive_format(handle) == ARCHIVE_FORMAT_EMPTY;
      began_ = true;
      return empty_member_;
    }
    // A warning is about names and times.
    if (result != ARCHIVE_OK && result != ARCHIVE_WARN) fail_damaged();
    const bool raw = archive_format(handle) == ARCHIVE_FORMAT_RAW;
    if (raw && archive_filter_count(handle) == 1) {
      fail(
          "{}: looks like a compressed file or an archive, by its name or first bytes, but cannot "
          "be read as one",
          where_);
    }
    began_ = true;
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != nullptr) {
      continue;
    }
    const char* name = archive_entry_pathname_utf8(entry);
    if (name == nullptr) name = archive_entry_pathname(entry);
    name_ = raw ? "" : name == nullptr || *name == 0 ? "(a member without a name)" : name;
    return true;
  }
}

size_t PackedReader::read(std::span<char> bytes) {
  if (empty_member_) return 0;
  const la_ssize_t got = archive_read_data(archive_->handle, bytes.data(), bytes.size());
  if (got < 0) fail_damaged();
  return static_cast<size_t>(got);
}

}  // namespace gigagpt::formats
