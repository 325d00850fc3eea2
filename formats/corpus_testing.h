// For tests only: archives and compressed files, made by libarchive.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace gigagpt::formats {

using Members = std::vector<std::pair<std::string, std::string>>;  // name and content

// `format` is tar, zip or raw (which has one member), `filter` none, gzip, bzip2, xz or zstd.
inline std::string packed(const std::string& format, const std::string& filter,
                          const Members& members) {
  std::string out;
  const auto write = [](archive*, void* self, const void* bytes, size_t size) -> la_ssize_t {
    static_cast<std::string*>(self)->append(static_cast<const char*>(bytes), size);
    return static_cast<la_ssize_t>(size);
  };
  archive* handle = archive_write_new();
  const auto check = [&](la_ssize_t result) {
    if (result < 0) fail("{} in {}: {}", format, filter, archive_error_string(handle));
  };
  check(archive_write_set_format_by_name(handle, format == "tar" ? "ustar" : format.c_str()));
  if (filter != "none") check(archive_write_add_filter_by_name(handle, filter.c_str()));
  check(archive_write_set_bytes_in_last_block(handle, 1));
  check(archive_write_open(handle, &out, nullptr, write, nullptr));
  for (const auto& [name, content] : members) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_filetype(entry, name.ends_with('/') ? AE_IFDIR : AE_IFREG);
    archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    check(archive_write_header(handle, entry));
    check(archive_write_data(handle, content.data(), content.size()));
    archive_entry_free(entry);
  }
  check(archive_write_close(handle));
  archive_write_free(handle);
  return out;
}

inline std::string tar(const Members& members, const std::string& filter = "none") {
  return packed("tar", filter, members);
}

inline std::string compressed(const std::string& filter, const std::string& content) {
  return packed("raw", filter, {{"content", content}});
}

}  // namespace gigagpt::formats
