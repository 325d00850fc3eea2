// CRC-32C (Castagnoli, the polynomial of iSCSI), by ISA-L: tens of GB/s.
#pragma once

#include <isa-l/crc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/file.h"

namespace gigagpt {

// Of `bytes` alone, or as they follow what has the checksum `before`.
inline uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0) {
  constexpr size_t kPiece = size_t{1} << 30;  // its length is an int
  uint32_t crc = ~before;
  while (!bytes.empty()) {
    const auto piece = bytes.first(std::min(kPiece, bytes.size()));
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(piece.data()));
    crc = crc32_iscsi(data, int(piece.size()), crc);
    bytes = bytes.subspan(piece.size());
  }
  return ~crc;
}

// The same of a part of a file, read in blocks. Throws Error if it ends before.
inline uint32_t crc32c(const File& file, uint64_t begin, uint64_t size, uint32_t before = 0) {
  std::vector<std::byte> block(std::min<uint64_t>(size, 1 << 20));
  for (uint64_t done = 0; done < size; done += block.size()) {
    block.resize(std::min<uint64_t>(block.size(), size - done));
    file.read_at(begin + done, block);
    before = crc32c(block, before);
  }
  return before;
}

}  // namespace gigagpt
