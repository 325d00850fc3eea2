#include "engine/state/state_file.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "base/crc32c.h"
#include "base/error.h"
#include "engine/state/description.h"
#include "engine/state/store_header.h"

namespace gigagpt::engine {
namespace {

constexpr char kInfoMagic[8] = {'G', 'I', 'G', 'A', 'i', 'n', 'f', 'o'};
constexpr uint64_t kDescriptionBegin = 2 * kBlockBytes;  // after both headers

// The blocks before parts, as they lie in the file: little-endian, the rest of the block zeros,
// with their own CRC-32C last.
constexpr uint32_t kState = 0, kGradientOnly = 1;  // what an info block is of
struct InfoBlock {
  char magic[8];
  uint64_t run_id;
  uint32_t kind, segment;
  int64_t step;
  uint32_t part_crcs[5];  // by Array
  uint32_t crc;
};

uint32_t crc_of(const InfoBlock& block) {
  return crc32c(std::as_bytes(std::span(&block, 1)).first(offsetof(InfoBlock, crc)));
}

InfoBlock block_at(const std::byte* bytes) {
  InfoBlock block;
  std::memcpy(&block, bytes, sizeof block);
  return block;
}

void put_block(InfoBlock block, std::byte* bytes) {
  block.crc = crc_of(block);
  std::memset(bytes, 0, kBlockBytes);
  std::memcpy(bytes, &block, sizeof block);
}

// The newest header of a file that has room for `least_bytes`.
StoreHeader read_header_of(AsyncFile& file, uint64_t least_bytes) {
  const std::string where = "store: " + file.path().string();
  if (file.size_bytes() < least_bytes) fail("{} is not a gigaGPT store, or is truncated", where);
  const PageBuffer headers(kDescriptionBegin);
  file.run({false, 0, {headers.bytes()}});
  const auto header = newest_header(headers.data(), where);
  if (!header) fail("{} is not a gigaGPT store, or both its headers are damaged", where);
  return *header;
}

// What of a segment has an array in its state.
std::vector<Array> state_arrays(const StateForm& form) {
  std::vector<Array> arrays;
  for (const Array kept : {Array::kExpAvg, Array::kExpAvgSq}) {
    if (form.keeps(kept)) arrays.push_back(kept);
  }
  if (form.has_masters()) arrays.push_back(Array::kMaster);
  arrays.push_back(Array::kWorking);
  return arrays;
}

InfoBlock make_info(uint64_t run_id, uint32_t kind, size_t segment, int64_t step) {
  InfoBlock info = {};
  std::copy_n(kInfoMagic, 8, info.magic);
  info.run_id = run_id;
  info.kind = kind;
  info.segment = uint32_t(segment);
  info.step = step;
  return info;
}

bool is_info(const std::byte* bytes, uint64_t run_id, uint32_t kind, size_t segment, int64_t step) {
  const auto info = block_at(bytes);
  return info.crc == crc_of(info) && info.run_id == run_id && info.kind == kind &&
         info.segment == segment && info.step == step;
}

uint32_t crc_of_part(const SlotPart& part, const std::byte* slot) {
  return crc32c({slot + part.at, part.size_bytes});
}

}  // namespace

uint64_t draw_run_id() {
  std::random_device random;
  return (uint64_t{random()} << 32 | random()) | 1;
}

StateFile::StateFile(const Path& path, AsyncFile::Mode mode, const StateLayout& layout,
                     const EngineMaker& engine, uint32_t version)
    : layout_(layout),
      file_(path, mode, engine),
      version_(version),
      description_(describe(layout, version)),
      slots_(layout.segments().size()) {
  slots_begin_ = kDescriptionBegin + whole_blocks(description_.size());
}

std::unique_ptr<StateFile> StateFile::create(const Path& path, const StateLayout& layout,
                                             size_t spare_slots, int64_t step_tokens,
                                             uint64_t run_id, const EngineMaker& engine) {
  std::unique_ptr<StateFile> made(
      new StateFile(path, AsyncFile::Mode::kCreate, layout, engine, StoreHeader::kVersion));
  made->run_id_ = run_id != 0 ? run_id : draw_run_id();
  made->step_tokens_ = step_tokens;
  made->slot_count_ = layout.own_segments() + spare_slots;
  for (size_t slot = made->slot_count_; slot-- > 0;) made->slots_.spares.push_back(uint32_t(slot));
  try {
    made->file_.reserve(planned_bytes(layout, spare_slots));
    const PageBuffer text(made->description_.size());
    std::memcpy(text.data(), made->description_.data(), made->description_.size());
    made->file_.run({true, kDescriptionBegin, {text.bytes()}});
    made->write_header(-1);
    sync_parent_directory(path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
    throw;
  }
  return made;
}

std::unique_ptr<StateFile> StateFile::open(const Path& path, const StateLayout& layout,
                                           const EngineMaker& engine) {
  const auto summary = peek(path);
  std::unique_ptr<StateFile> opened(
      new StateFile(path, AsyncFile::Mode::kOpen, layout, engine,
                    summary ? summary->version : StoreHeader::kVersion));
  // What a killed process wrote may not be durable yet; places that it replaced are used again.
  opened->file_.sync();
  opened->read_header();
  opened->find_segments();
  opened->check_found();
  return opened;
}

std::unique_ptr<StateFile> StateFile::open_to_inspect(const Path& path) {
  const auto [layout, version] = layout_in(path);
  std::unique_ptr<StateFile> opened(
      new StateFile(path, AsyncFile::Mode::kRead, layout, {}, version));
  opened->read_header();
  opened->find_segments();
  return opened;
}

// Reads through a lock of its own: a description that is just being written is none.
std::pair<StateLayout, uint32_t> StateFile::layout_in(const Path& path) {
  AsyncFile file(path, AsyncFile::Mode::kRead);
  const std::string where = "store: " + path.string();
  const StoreHeader header = read_header_of(file, kDescriptionBegin);
  const uint64_t size = file.size_bytes(), bytes = header.description_bytes;
  if (bytes > kMostDescriptionBytes) fail("{}: its description is too long", where);
  if (whole_blocks(bytes) > size - kDescriptionBegin) fail("{} is cut off", where);
  const PageBuffer memory(bytes);
  if (bytes > 0) file.run({false, kDescriptionBegin, {memory.bytes()}});
  const std::string_view text(reinterpret_cast<const char*>(memory.data()), bytes);
  if (crc32c(memory.bytes().first(bytes)) != header.description_crc) {
    fail("{}: its description, {} bytes from byte {}, is damaged", where, bytes, kDescriptionBegin);
  }
  StateLayout layout = read_description(text, header.version, size, where + ": its description");
  if (describe(layout, header.version) != text || header.slot_bytes != layout.slot_bytes()) {
    fail("{}: its description is not written as this program writes it", where);
  }
  return {std::move(layout), header.version};
}

std::optional<StateFile::Summary> StateFile::peek(const Path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const File file = File::open_read(path);
  if (file.size_bytes() < kDescriptionBegin) return std::nullopt;
  std::vector<std::byte> bytes(kDescriptionBegin);
  file.read_at(0, bytes);
  const auto header = newest_header(bytes.data(), "store: " + path.string());
  if (!header || header->update.step < 0) return std::nullopt;
  return Summary{header->run_id, header->update.step, header->step_tokens, header->gradient,
                 header->version};
}

std::optional<StateFile::Summary> StateFile::peek_or_older(const Path& path) {
  const auto found = peek(path);
  return found ? found : peek(place_of_older(path));
}

// In one that was never completed an intact header says so, or there are no segments.
bool StateFile::is_damaged(const Path& path) {
  // A slot begins with the block of its gradient; where there is none, the search finds those
  // within slots of less than half of that.
  constexpr uint64_t kSearched = uint64_t{1} << 30;
  const File file = File::open_read(path);
  if (file.size_bytes() < kDescriptionBegin) return file.size_bytes() > 0;
  std::vector<std::byte> bytes(kDescriptionBegin);
  file.read_at(0, bytes);
  if (newest_header(bytes.data(), "store: " + path.string())) return false;
  char magic[sizeof kInfoMagic];
  for (uint64_t at = kDescriptionBegin; at < kSearched && at + sizeof magic <= file.size_bytes();
       at += kBlockBytes) {
    file.read_at(at, std::as_writable_bytes(std::span(magic)));
    if (std::memcmp(magic, kInfoMagic, sizeof magic) == 0) return true;
  }
  return false;
}

// One that was never completed may be all zeros.
bool StateFile::is_foreign(const Path& path) {
  if (!std::filesystem::exists(path)) return false;
  const File file = File::open_read(path);
  if (file.size_bytes() == 0) return false;
  std::byte magic[8] = {};
  if (file.size_bytes() < sizeof magic) return true;
  file.read_at(0, magic);
  const std::byte zeros[8] = {};
  return !begins_a_store(magic) && std::memcmp(magic, zeros, 8) != 0;
}

uint64_t StateFile::planned_bytes(const StateLayout& layout, size_t spare_slots) {
  return kDescriptionBegin + whole_blocks(describe(layout, StoreHeader::kVersion).size()) +
         (layout.own_segments() + spare_slots) * layout.slot_bytes() +
         (layout.segments().size() - layout.own_segments()) * layout.others_slot_bytes();
}

uint64_t StateFile::offset_of(const SegmentPlace& place) const {
  if (layout_.is_own(layout_.segments()[place.segment])) return offset_of(place.slot);
  return offset_of(uint32_t(slot_count_)) +
         layout_.place_of(place.segment) * layout_.others_slot_bytes();
}

std::string StateFile::Summary::id() const {
  return fmt::format("{:016x}", run_id);
}

void StateFile::write_header(const Update& u, bool pending) {
  file_.sync();
  update_ = u;
  pending_ = pending;
  ++sequence_;
  const StoreHeader header = {.version = version_,
                              .run_id = run_id_,
                              .sequence = sequence_,
                              .description_bytes = description_.size(),
                              .description_crc = crc32c(std::as_bytes(std::span(description_))),
                              .slot_count = slot_count_,
                              .slot_bytes = layout_.slot_bytes(),
                              .step_tokens = step_tokens_,
                              .gradient = layout_.form().gradient,
                              .pending = pending,
                              .update = u};
  const PageBuffer memory(kBlockBytes);
  header.write_to(memory.data());
  file_.run({true, sequence_ % 2 * kBlockBytes, {memory.bytes()}});
  file_.sync();
}

void StateFile::read_header() {
  const std::string name = file_.path().string();
  const StoreHeader newest = read_header_of(file_, slots_begin_);
  const PageBuffer memory(description_.size());
  file_.run({false, kDescriptionBegin, {memory.bytes()}});
  const bool same = newest.description_bytes == description_.size() &&
                    newest.slot_bytes == layout_.slot_bytes() &&
                    std::memcmp(memory.data(), description_.data(), description_.size()) == 0;
  if (!same) fail("store: {} holds another model, precision, form of state or segment size", name);
  run_id_ = newest.run_id;
  sequence_ = newest.sequence;
  step_tokens_ = newest.step_tokens;
  slot_count_ = newest.slot_count;
  pending_ = newest.pending;
  update_ = newest.update;
  if (step() < 0) fail("store: {} was never completed; delete it to start again", name);
  const uint64_t slot_bytes = std::max<uint64_t>(1, layout_.slot_bytes());
  const uint64_t room = (file_.size_bytes() - slots_begin_) / slot_bytes;
  if (slot_count_ > std::min<uint64_t>(room, SlotTable::kNone)) fail("store: {} is cut off", name);
}

// A crash may have left a segment's content of the step before and after in two slots, the latter
// perhaps written in part: then the former counts, and the update is made again.
void StateFile::find_segments() {
  const PageBuffer memory(kBlockBytes);
  for (uint32_t slot = 0; slot < slot_count_; ++slot) {
    file_.run({false, offset_of(slot) + layout_.info_offset(), {memory.bytes()}});
    const auto info = block_at(memory.data());
    const bool ours = std::memcmp(info.magic, kInfoMagic, 8) == 0 && info.run_id == run_id_ &&
                      info.kind == kState && info.segment < slots_.slots.size() &&
                      layout_.is_own(layout_.segments()[info.segment]) &&
                      info.crc == crc_of(info) && info.step <= step() && info.step >= oldest_step();
    if (!ours) {
      slots_.spares.push_back(slot);
      continue;
    }
    const int64_t found = slots_.steps[info.segment];
    bool counts = info.step > found;
    if (found >= 0)
      counts = counts ? is_whole(info.segment, slot)
                      : !is_whole(info.segment, slots_.slots[info.segment]);
    const uint32_t unused = counts ? slots_.move(info.segment, slot) : slot;
    if (counts) slots_.steps[info.segment] = info.step;
    if (unused != SlotTable::kNone) slots_.spares.push_back(unused);
  }
}

bool StateFile::is_found(size_t segment) const {
  return slots_.has_slot(segment) && slots_.steps[segment] >= oldest_step();
}

void StateFile::check_found() const {
  for (size_t segment = 0; segment < slots_.slots.size(); ++segment) {
    if (is_found(segment) || !layout_.is_own(layout_.segments()[segment])) continue;
    fail("store: {} is missing from {}; go on from a checkpoint", place_name(segment),
         file_.path().string());
  }
}

bool StateFile::is_whole(size_t segment, uint32_t slot) {
  const SlotParts parts = parts_of(segment);
  const PageBuffer memory(parts.end);
  file_.run({false, offset_of(slot) + parts.state, {parts.state_in(memory.data())}});
  const auto info = block_at(memory.data() + parts.info);
  const auto arrays = state_arrays(layout_.form());
  return std::all_of(arrays.begin(), arrays.end(), [&](Array kept) {
    return crc_of_part(parts.of(kept), memory.data()) == info.part_crcs[size_t(kept)];
  });
}

std::string StateFile::place_name(size_t segment) const {
  const Segment& s = layout_.segments()[segment];
  return fmt::format("segment {} ({}, elements {} to {})", segment, layout_.spec(s.layer).name,
                     s.begin, s.begin + s.count);
}

void StateFile::describe_state(size_t segment, int64_t step, std::byte* slot) const {
  const SlotParts parts = parts_of(segment);
  InfoBlock info = make_info(run_id_, kState, segment, step);
  for (const Array kept : state_arrays(layout_.form())) {
    info.part_crcs[size_t(kept)] = crc_of_part(parts.of(kept), slot);
  }
  put_block(info, slot + parts.info);
}

void StateFile::describe_part(size_t segment, Array part, int64_t step, const std::byte* bytes,
                              std::byte* info_block) const {
  const bool gradient = part == Array::kGradient;
  InfoBlock info = make_info(run_id_, gradient ? kGradientOnly : kState, segment, step);
  info.part_crcs[size_t(part)] = crc32c({bytes, parts_of(segment).of(part).size_bytes});
  put_block(info, info_block);
}

void StateFile::check_state_info(const SegmentPlace& place, const std::byte* info) const {
  if (is_info(info, run_id_, kState, place.segment, place.step)) return;
  fail("{}: the description of {} at byte {} is damaged; go on from a checkpoint",
       file_.path().string(), place_name(place.segment),
       offset_of(place) + parts_of(place.segment).info);
}

void StateFile::check_gradient_info(const SegmentPlace& place, int64_t step,
                                    const std::byte* info) const {
  if (is_info(info, run_id_, kGradientOnly, place.segment, step)) return;
  fail("{}: the description of the gradient of {} at byte {} is damaged; go on from a checkpoint",
       file_.path().string(), place_name(place.segment),
       offset_of(place) + parts_of(place.segment).gradient_info);
}

void StateFile::check_part(const SegmentPlace& place, Array part, const std::byte* info,
                           const std::byte* bytes) const {
  const SlotPart there = parts_of(place.segment).of(part);
  if (crc32c({bytes, there.size_bytes}) == block_at(info).part_crcs[size_t(part)]) return;
  constexpr const char* kNames[] = {"master weights", "first moment", "second moment", "gradient",
                                    "weights"};
  fail(
      "{}: the checksum of {}'s {} at byte {} does not match: file or disk are damaged; go on "
      "from a checkpoint",
      file_.path().string(), place_name(place.segment), kNames[size_t(part)],
      offset_of(place) + there.at);
}

void StateFile::check_state(const SegmentPlace& place, const std::byte* slot) const {
  const SlotParts parts = parts_of(place.segment);
  check_state_info(place, slot + parts.info);
  for (const Array kept : state_arrays(layout_.form())) {
    // Beside masters working weights are written without being looked at.
    if (kept == Array::kWorking && layout_.form().has_masters()) continue;
    check_part(place, kept, slot + parts.info, slot + parts.of(kept).at);
  }
}

}  // namespace gigagpt::engine
