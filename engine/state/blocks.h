// The blocks of a store file as they lie in it (docs/FILE_FORMAT.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "base/async_file.h"
#include "base/crc32c.h"

namespace gigagpt::engine {

constexpr uint32_t kVersion = 2;
constexpr char kHeaderMagic[8] = {'G', 'I', 'G', 'A', 's', 't', 'o', 'r'};
constexpr char kInfoMagic[8] = {'G', 'I', 'G', 'A', 'i', 'n', 'f', 'o'};
constexpr uint64_t kDescriptionBegin = 2 * kBlockBytes;  // after both headers

// The two headers and the blocks before parts, as they lie in the file: little-endian, the rest of
// the block zeros, with their own CRC-32C last.
struct HeaderBlock {
  char magic[8];
  uint32_t version;
  uint32_t sgd;
  uint64_t run_id, sequence;
  uint64_t description_bytes, slot_count, slot_bytes;
  int64_t step, step_tokens;
  uint64_t pending;
  double beta1, beta2, epsilon, weight_decay, lr, grad_scale;
  uint64_t seed;
  uint32_t gradient_form;
  uint32_t description_crc;
  uint32_t unused;
  uint32_t crc;
};
enum InfoKind : uint32_t { kState, kGradientOnly };
struct InfoBlock {
  char magic[8];
  uint64_t run_id;
  uint32_t kind, segment;
  int64_t step;
  uint32_t part_crcs[5];  // by Array, then the working weights
  uint32_t crc;
};
constexpr size_t kWorkingCrc = 4;

template <class Block>
uint32_t crc_of(const Block& block) {
  return crc32c(std::as_bytes(std::span(&block, 1)).first(offsetof(Block, crc)));
}

template <class Block>
Block block_at(const std::byte* bytes) {
  Block block;
  std::memcpy(&block, bytes, sizeof block);
  return block;
}

template <class Block>
void put_block(Block block, std::byte* bytes) {
  block.crc = crc_of(block);
  std::memset(bytes, 0, kBlockBytes);
  std::memcpy(bytes, &block, sizeof block);
}

// Of the two at the start of a file; nothing if neither is intact.
inline std::optional<HeaderBlock> newest_header(const std::byte* bytes) {
  std::optional<HeaderBlock> newest;
  for (const std::byte* at : {bytes, bytes + kBlockBytes}) {
    const auto block = block_at<HeaderBlock>(at);
    const bool intact =
        std::memcmp(block.magic, kHeaderMagic, 8) == 0 && block.crc == crc_of(block);
    if (intact && (!newest || block.sequence > newest->sequence)) newest = block;
  }
  return newest;
}

}  // namespace gigagpt::engine
