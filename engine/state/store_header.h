// The block that says what a store is, and of which step (docs/FILE_FORMAT.md). There are two at
// the start of a file, and the newer one counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/state/layout.h"
#include "engine/state/update.h"

namespace gigagpt::engine {

struct StoreHeader {
  static constexpr uint32_t kVersion = 3;
  static constexpr uint32_t kOldVersion = 2;  // is read as well, to be taken over

  uint32_t version = kVersion;
  uint64_t run_id = 0;
  uint64_t sequence = 0;  // counts headers written
  uint64_t description_bytes = 0;
  uint32_t description_crc = 0;
  uint64_t slot_count = 0;
  uint64_t slot_bytes = 0;
  int64_t step_tokens = 0;
  GradientForm gradient = GradientForm::kFp32;
  bool pending = false;          // the update may be still to be made in some segments
  Update update = {.step = -1};  // the last one, whose step is that of the state

  // Fills a block as its version has it.
  void write_to(std::byte* block) const;
};

// The one that counts of the two blocks at the start of a file; nothing if neither is intact.
// Throws Error, beginning with `where`, for one of another version or with an update that this
// program does not know.
std::optional<StoreHeader> newest_header(const std::byte* blocks, const std::string& where);
// Whether a file that begins so is a store, or was one.
bool begins_a_store(const std::byte* bytes);

}  // namespace gigagpt::engine
