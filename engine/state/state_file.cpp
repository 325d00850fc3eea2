#include "engine/state/state_file.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "base/crc32c.h"
#include "base/error.h"
#include "engine/state/blocks.h"
#include "engine/state/description.h"
#include "formats/json.h"

namespace gigagpt::engine {
namespace {

// What of a segment has an array in its state beside the working weights.
std::vector<Array> state_arrays(const StateForm& form) {
  if (!form.training) return {};
  std::vector<Array> arrays = {Array::kExpAvg, Array::kExpAvgSq};
  if (form.has_masters()) arrays.push_back(Array::kMaster);
  return arrays;
}

InfoBlock make_info(uint64_t run_id, InfoKind kind, size_t segment, int64_t step) {
  InfoBlock info = {};
  std::copy_n(kInfoMagic, 8, info.magic);
  info.run_id = run_id;
  info.kind = kind;
  info.segment = uint32_t(segment);
  info.step = step;
  return info;
}

std::string id_text(uint64_t run_id) {
  return fmt::format("{:016x}", run_id);
}

uint64_t in_blocks(uint64_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

const char* gradient_form_name(GradientForm form) {
  if (form == GradientForm::kNone) return "none";
  return form == GradientForm::kBf16 ? "bf16" : "fp32";
}

HeaderBlock read_newest_header(AsyncFile& file) {
  const std::string where = "store: " + file.path().string();
  if (file.size_bytes() < kDescriptionBegin) fail("{} is no store, or cut off", where);
  const PageBuffer headers(kDescriptionBegin);
  file.run({false, 0, {headers.bytes()}});
  const auto header = newest_header(headers.data());
  if (!header) fail("{} is no store, or both its headers are damaged", where);
  if (header->version == kVersion) return *header;
  fail("{} has version {}, this program knows {}", where, header->version, kVersion);
}

std::string describe(const StateLayout& layout) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (size_t i = 0; i < layout.layer_count(); ++i) {
    const LayerSpec& spec = layout.spec(i);
    nlohmann::ordered_json params = nlohmann::ordered_json::array();
    for (const ParamSpec& p : spec.params) params.push_back({{"name", p.name}, {"shape", p.shape}});
    layers.push_back({{"name", spec.name},
                      {"prefix", spec.prefix},
                      {"parameters", params},
                      {"shared", spec.shared}});
  }
  nlohmann::ordered_json description = {{"precision", precision_name(layout.precision())},
                                        {"training", layout.training()},
                                        {"compact", layout.form().compact},
                                        {"gradient", gradient_form_name(layout.form().gradient)},
                                        {"segment_elements", layout.segment_elements()}};
  if (layout.shard().systems > 1) {
    description["system"] = layout.shard().rank;
    description["systems"] = layout.shard().systems;
  }
  description["layers"] = layers;
  return formats::to_text(description);
}

}  // namespace

uint64_t draw_run_id() {
  std::random_device random;
  return (uint64_t{random()} << 32 | random()) | 1;
}

StateFile::StateFile(const Path& path, AsyncFile::Mode mode, const StateLayout& layout,
                     const EngineMaker& engine)
    : layout_(layout),
      file_(path, mode, engine),
      description_(describe(layout)),
      slots_(layout.segments().size(), kNone),
      state_steps_(layout.segments().size(), -1) {
  slots_begin_ = kDescriptionBegin + in_blocks(description_.size());
}

std::unique_ptr<StateFile> StateFile::create(const Path& path, const StateLayout& layout,
                                             size_t spare_slots, int64_t step_tokens,
                                             uint64_t run_id, const EngineMaker& engine) {
  std::unique_ptr<StateFile> made(new StateFile(path, AsyncFile::Mode::kCreate, layout, engine));
  struct Removal {  // of a file that could not be made
    ~Removal() {
      std::error_code ignored;
      if (!done) std::filesystem::remove(path, ignored);
    }
    const Path& path;
    bool done = false;
  } removal{path};
  made->run_id_ = run_id != 0 ? run_id : draw_run_id();
  made->step_tokens_ = step_tokens;
  made->slot_count_ = layout.own_segments() + spare_slots;
  for (size_t slot = made->slot_count_; slot-- > 0;) made->spares_.push_back(uint32_t(slot));
  made->file_.reserve(planned_bytes(layout, spare_slots));
  const PageBuffer text(made->description_.size());
  std::memcpy(text.data(), made->description_.data(), made->description_.size());
  made->file_.run({true, kDescriptionBegin, {text.bytes()}});
  made->write_header({});
  sync_parent_directory(path);
  removal.done = true;
  return made;
}

std::unique_ptr<StateFile> StateFile::open(const Path& path, const StateLayout& layout,
                                           const EngineMaker& engine) {
  std::unique_ptr<StateFile> opened(new StateFile(path, AsyncFile::Mode::kOpen, layout, engine));
  // What a killed process wrote may not be durable yet; places that it replaced are used again.
  opened->file_.sync();
  opened->read_header();
  opened->find_segments();
  opened->check_found();
  return opened;
}

std::unique_ptr<StateFile> StateFile::open_to_inspect(const Path& path) {
  std::unique_ptr<StateFile> opened(
      new StateFile(path, AsyncFile::Mode::kRead, layout_in(path), {}));
  opened->read_header();
  opened->find_segments();
  return opened;
}

// Reads through a lock of its own: a description that is just being written is none.
StateLayout StateFile::layout_in(const Path& path) {
  AsyncFile file(path, AsyncFile::Mode::kRead);
  const std::string where = "store: " + path.string();
  const HeaderBlock header = read_newest_header(file);
  const uint64_t size = file.size_bytes(), bytes = header.description_bytes;
  if (bytes > kMostDescriptionBytes) fail("{}: its description is too long", where);
  if (in_blocks(bytes) > size - kDescriptionBegin) fail("{} is cut off", where);
  const PageBuffer memory(bytes);
  if (bytes > 0) file.run({false, kDescriptionBegin, {memory.bytes()}});
  const std::string_view text(reinterpret_cast<const char*>(memory.data()), bytes);
  if (crc32c(memory.bytes().first(bytes)) != header.description_crc) {
    fail("{}: its description, {} bytes from byte {}, is damaged", where, bytes, kDescriptionBegin);
  }
  StateLayout layout = read_description(text, size, where + ": its description");
  if (describe(layout) != text || header.slot_bytes != layout.slot_bytes()) {
    fail("{}: its description is not written as this program writes it", where);
  }
  return layout;
}

std::optional<StateFile::Summary> StateFile::peek(const Path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const File file = File::open_read(path);
  if (file.size_bytes() < kDescriptionBegin) return std::nullopt;
  std::vector<std::byte> bytes(kDescriptionBegin);
  file.read_at(0, bytes);
  const auto header = newest_header(bytes.data());
  if (!header || header->step < 0) return std::nullopt;
  return Summary{header->run_id, header->step, header->step_tokens,
                 GradientForm(header->gradient_form)};
}

// One that was never completed may be all zeros.
bool StateFile::is_foreign(const Path& path) {
  if (!std::filesystem::exists(path)) return false;
  const File file = File::open_read(path);
  if (file.size_bytes() == 0) return false;
  char magic[8] = {};
  if (file.size_bytes() < sizeof magic) return true;
  file.read_at(0, std::as_writable_bytes(std::span(magic)));
  const char zeros[8] = {};
  return std::memcmp(magic, kHeaderMagic, 8) != 0 && std::memcmp(magic, zeros, 8) != 0;
}

uint64_t StateFile::planned_bytes(const StateLayout& layout, size_t spare_slots) {
  return kDescriptionBegin + in_blocks(describe(layout).size()) +
         (layout.own_segments() + spare_slots) * layout.slot_bytes() +
         (layout.segments().size() - layout.own_segments()) * layout.others_slot_bytes();
}

uint64_t StateFile::slot_offset(size_t segment) const {
  if (layout_.is_own(layout_.segments()[segment])) return offset_of(slots_[segment]);
  return offset_of(uint32_t(slot_count_)) +
         layout_.place_among_others(segment) * layout_.others_slot_bytes();
}

uint32_t StateFile::version() const {
  return kVersion;
}

std::string StateFile::Summary::id() const {
  return id_text(run_id);
}

std::string StateFile::id() const {
  return id_text(run_id_);
}

void StateFile::write_header(const StateHeader& header) {
  file_.sync();
  header_ = header;
  ++sequence_;
  HeaderBlock block = {};
  std::copy_n(kHeaderMagic, 8, block.magic);
  block.version = kVersion;
  block.run_id = run_id_;
  block.sequence = sequence_;
  block.description_bytes = description_.size();
  block.description_crc = crc32c(std::as_bytes(std::span(description_)));
  block.slot_count = slot_count_;
  block.slot_bytes = layout_.slot_bytes();
  block.step = header.step;
  block.step_tokens = step_tokens_;
  block.pending = header.pending;
  const Update& u = header.update;
  block.sgd = u.rule.sgd;
  block.beta1 = u.rule.beta1, block.beta2 = u.rule.beta2, block.epsilon = u.rule.epsilon;
  block.weight_decay = u.rule.weight_decay, block.lr = u.lr, block.grad_scale = u.grad_scale;
  block.seed = u.rule.seed;
  block.gradient_form = uint32_t(layout_.form().gradient);
  const PageBuffer memory(kBlockBytes);
  put_block(block, memory.data());
  file_.run({true, sequence_ % 2 * kBlockBytes, {memory.bytes()}});
  file_.sync();
}

void StateFile::read_header() {
  const std::string name = file_.path().string();
  const HeaderBlock newest = read_newest_header(file_);
  if (file_.size_bytes() < slots_begin_) fail("store: {} is cut off", name);
  const PageBuffer text(description_.size());
  file_.run({false, kDescriptionBegin, {text.bytes()}});
  const bool same = newest.description_bytes == description_.size() &&
                    newest.slot_bytes == layout_.slot_bytes() &&
                    std::memcmp(text.data(), description_.data(), description_.size()) == 0;
  if (!same) fail("store: {} holds another model, precision, form of state or segment size", name);
  run_id_ = newest.run_id;
  sequence_ = newest.sequence;
  step_tokens_ = newest.step_tokens;
  slot_count_ = newest.slot_count;
  header_ = {newest.step,
             newest.pending != 0,
             {.rule = {newest.sgd != 0, newest.beta1, newest.beta2, newest.epsilon,
                       newest.weight_decay, newest.seed},
              .lr = newest.lr,
              .step = newest.step,
              .grad_scale = newest.grad_scale}};
  if (header_.step < 0) fail("store: {} was never completed; delete it to start again", name);
  const uint64_t room = (file_.size_bytes() - slots_begin_) / layout_.slot_bytes();
  if (slot_count_ > std::min<uint64_t>(room, kNone)) fail("store: {} is cut off", name);
}

// A crash may have left a segment's content of the step before and after in two slots, the latter
// perhaps written in part: then the former counts, and the update is made again.
void StateFile::find_segments() {
  const PageBuffer memory(kBlockBytes);
  for (uint32_t slot = 0; slot < slot_count_; ++slot) {
    file_.run({false, offset_of(slot) + layout_.info_offset(), {memory.bytes()}});
    const auto info = block_at<InfoBlock>(memory.data());
    const bool ours = std::memcmp(info.magic, kInfoMagic, 8) == 0 && info.run_id == run_id_ &&
                      info.kind == kState && info.segment < slots_.size() &&
                      layout_.is_own(layout_.segments()[info.segment]) &&
                      info.crc == crc_of(info) && info.step <= header_.step &&
                      info.step >= oldest_step();
    if (!ours) {
      give_back(slot);
      continue;
    }
    const int64_t found = state_steps_[info.segment];
    bool counts = info.step > found;
    if (found >= 0)
      counts =
          counts ? is_whole(info.segment, slot) : !is_whole(info.segment, slots_[info.segment]);
    const uint32_t unused = counts ? move(info.segment, slot) : slot;
    if (counts) state_steps_[info.segment] = info.step;
    if (unused != kNone) give_back(unused);
  }
}

bool StateFile::is_found(size_t segment) const {
  return has_slot(segment) && state_steps_[segment] >= oldest_step();
}

void StateFile::check_found() const {
  for (size_t segment = 0; segment < slots_.size(); ++segment) {
    if (is_found(segment) || !layout_.is_own(layout_.segments()[segment])) continue;
    fail("store: {} is missing from {}; go on from a checkpoint", place_name(segment),
         file_.path().string());
  }
}

bool StateFile::is_whole(size_t segment, uint32_t slot) {
  const SlotParts parts = layout_.slot_parts(layout_.segments()[segment]);
  const PageBuffer memory(parts.end);
  const std::byte* bytes = memory.data();
  file_.run({false, offset_of(slot) + parts.state, {parts.state_in(memory.data())}});
  const auto info = block_at<InfoBlock>(bytes + parts.info);
  const auto holds = [&](const SlotPart& part, uint32_t crc) {
    return crc32c({bytes + part.at, part.size_bytes}) == crc;
  };
  bool whole = holds(parts.working, info.part_crcs[kWorkingCrc]);
  for (const Array kept : state_arrays(layout_.form())) {
    whole = whole && holds(parts.of(kept), info.part_crcs[size_t(kept)]);
  }
  return whole;
}

uint32_t StateFile::take_spare() {
  GIGAGPT_ASSERT(has_spare());
  const uint32_t slot = spares_.back();
  spares_.pop_back();
  return slot;
}

uint32_t StateFile::move(size_t segment, uint32_t slot) {
  return std::exchange(slots_[segment], slot);
}

std::string StateFile::place_name(size_t segment) const {
  const Segment& s = layout_.segments()[segment];
  return fmt::format("segment {} ({}, elements {} to {})", segment, layout_.spec(s.layer).name,
                     s.begin, s.begin + s.count);
}

void StateFile::describe_state(size_t segment, int64_t step, std::byte* slot) {
  const SlotParts parts = layout_.slot_parts(layout_.segments()[segment]);
  InfoBlock info = make_info(run_id_, kState, segment, step);
  const auto crc_of_part = [&](const SlotPart& part) {
    return crc32c({slot + part.at, part.size_bytes});
  };
  for (const Array kept : state_arrays(layout_.form())) {
    info.part_crcs[size_t(kept)] = crc_of_part(parts.of(kept));
  }
  info.part_crcs[kWorkingCrc] = crc_of_part(parts.working);
  put_block(info, slot + parts.info);
  state_steps_[segment] = step;
}

void StateFile::describe_weights(size_t segment, int64_t step, const std::byte* working,
                                 std::byte* info_block) {
  InfoBlock info = make_info(run_id_, kState, segment, step);
  const SlotParts parts = layout_.slot_parts(layout_.segments()[segment]);
  info.part_crcs[kWorkingCrc] = crc32c({working, parts.working.size_bytes});
  put_block(info, info_block);
  state_steps_[segment] = step;
}

void StateFile::describe_gradient(size_t segment, int64_t step, const std::byte* part,
                                  std::byte* info_block) {
  InfoBlock info = make_info(run_id_, kGradientOnly, segment, step);
  const SlotParts parts = layout_.slot_parts(layout_.segments()[segment]);
  info.part_crcs[size_t(Array::kGradient)] = crc32c({part, parts.gradient.size_bytes});
  put_block(info, info_block);
}

void StateFile::check_state_info(size_t segment, const std::byte* bytes) const {
  const auto info = block_at<InfoBlock>(bytes);
  const bool intact = info.crc == crc_of(info) && info.run_id == run_id_ && info.kind == kState &&
                      info.segment == segment && info.step == state_steps_[segment];
  if (intact) return;
  fail("{}: the description of {} at byte {} is damaged; go on from a checkpoint",
       file_.path().string(), place_name(segment),
       slot_offset(segment) + layout_.slot_parts(layout_.segments()[segment]).info);
}

void StateFile::check_gradient_info(size_t segment, int64_t step, const std::byte* bytes) const {
  const auto info = block_at<InfoBlock>(bytes);
  const bool intact = info.crc == crc_of(info) && info.run_id == run_id_ &&
                      info.kind == kGradientOnly && info.segment == segment && info.step == step;
  if (intact) return;
  fail("{}: the description of the gradient of {} at byte {} is damaged; go on from a checkpoint",
       file_.path().string(), place_name(segment),
       slot_offset(segment) + layout_.slot_parts(layout_.segments()[segment]).gradient_info);
}

void StateFile::check_part(size_t segment, Array part, const std::byte* info,
                           const std::byte* bytes) const {
  const SlotParts parts = layout_.slot_parts(layout_.segments()[segment]);
  constexpr const char* kNames[] = {"master weights", "first moment", "second moment", "gradient"};
  check_sum(segment, block_at<InfoBlock>(info).part_crcs[size_t(part)],
            {bytes, parts.of(part).size_bytes}, kNames[size_t(part)], parts.of(part).at);
}

void StateFile::check_working(size_t segment, const std::byte* info, const std::byte* bytes) const {
  const SlotParts parts = layout_.slot_parts(layout_.segments()[segment]);
  check_sum(segment, block_at<InfoBlock>(info).part_crcs[kWorkingCrc],
            {bytes, parts.working.size_bytes}, "weights", parts.working.at);
}

void StateFile::check_state(size_t segment, const std::byte* slot) const {
  const SlotParts parts = layout_.slot_parts(layout_.segments()[segment]);
  check_state_info(segment, slot + parts.info);
  for (const Array kept : state_arrays(layout_.form())) {
    check_part(segment, kept, slot + parts.info, slot + parts.of(kept).at);
  }
  // Beside masters they are written without being looked at.
  if (!layout_.form().has_masters()) {
    check_working(segment, slot + parts.info, slot + parts.working.at);
  }
}

void StateFile::check_sum(size_t segment, uint32_t wanted, std::span<const std::byte> bytes,
                          const char* what, uint64_t place) const {
  if (crc32c(bytes) == wanted) return;
  fail(
      "{}: the checksum of {}'s {} at byte {} does not match: file or disk are damaged; go on "
      "from a checkpoint",
      file_.path().string(), place_name(segment), what, slot_offset(segment) + place);
}

}  // namespace gigagpt::engine
