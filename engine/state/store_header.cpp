#include "engine/state/store_header.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>

#include "base/async_file.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "formats/json.h"

namespace gigagpt::engine {
namespace {

constexpr char kMagic[8] = {'G', 'I', 'G', 'A', 's', 't', 'o', 'r'};

// As they lie in the file: little-endian, with their own CRC-32C last.
struct Block {
  char magic[8];
  uint32_t version, gradient_form;
  uint64_t run_id, sequence;
  uint64_t description_bytes, slot_count, slot_bytes;
  int64_t step, step_tokens;
  uint64_t pending;
  uint32_t description_crc, update_bytes;
  char update[4004];
  uint32_t crc;
};
static_assert(sizeof(Block) == kBlockBytes);

struct OldBlock {
  char magic[8];
  uint32_t version, sgd;
  uint64_t run_id, sequence;
  uint64_t description_bytes, slot_count, slot_bytes;
  int64_t step, step_tokens;
  uint64_t pending;
  double beta1, beta2, epsilon, weight_decay, lr, grad_scale;
  uint64_t seed;
  uint32_t gradient_form, description_crc, unused, crc;
};

template <class Any>
uint32_t crc_of(const Any& block) {
  return crc32c(std::as_bytes(std::span(&block, 1)).first(offsetof(Any, crc)));
}

// The block, if its version, magic and checksum are right.
template <class Any>
std::optional<Any> intact_block(const std::byte* bytes) {
  Any block;
  std::memcpy(&block, bytes, sizeof block);
  const uint32_t version =
      sizeof(Any) == sizeof(Block) ? StoreHeader::kVersion : StoreHeader::kOldVersion;
  const bool intact =
      begins_a_store(bytes) && block.version == version && block.crc == crc_of(block);
  return intact ? std::optional(block) : std::nullopt;
}

std::string text_of(const Update& update) {
  const ops::OptimizerNumbers& numbers = update.rule.numbers;
  return formats::to_text(nlohmann::ordered_json{{"optimizer", update.rule.optimizer->name},
                                                 {"beta1", numbers.beta1},
                                                 {"beta2", numbers.beta2},
                                                 {"epsilon", numbers.epsilon},
                                                 {"weight_decay", numbers.weight_decay},
                                                 {"muon_momentum", numbers.muon_momentum},
                                                 {"lr", update.lr},
                                                 {"grad_scale", update.grad_scale},
                                                 {"seed", update.rule.seed}});
}

Update read_update(std::string_view text, int64_t step, const std::string& where) {
  try {
    const auto json = formats::parse_json<nlohmann::json>(text, where);
    const auto name = json.at("optimizer").get<std::string>();
    const ops::Optimizer* optimizer = ops::find_optimizer(name);
    if (optimizer == nullptr) fail("{}: this program does not know its optimizer {}", where, name);
    const auto number = [&](const char* key) { return json.at(key).get<double>(); };
    return {.rule = {optimizer,
                     {number("beta1"), number("beta2"), number("epsilon"), number("weight_decay"),
                      json.value("muon_momentum", 0.95)},  // younger than this version
                     json.at("seed").get<uint64_t>()},
            .lr = number("lr"),
            .step = step,
            .grad_scale = number("grad_scale")};
  } catch (const nlohmann::json::exception& error) {
    fail("{}: its header's update: {}", where, error.what());
  }
}

template <class Any>
StoreHeader common_part(const Any& block) {
  return {.version = block.version,
          .run_id = block.run_id,
          .sequence = block.sequence,
          .description_bytes = block.description_bytes,
          .description_crc = block.description_crc,
          .slot_count = block.slot_count,
          .slot_bytes = block.slot_bytes,
          .step_tokens = block.step_tokens,
          .gradient = GradientForm(std::min<uint32_t>(block.gradient_form, 2)),
          .pending = block.pending != 0};
}

StoreHeader read_block(const Block& block, const std::string& where) {
  StoreHeader header = common_part(block);
  if (block.update_bytes > sizeof block.update) fail("{}: its header's update is too long", where);
  header.update = read_update({block.update, block.update_bytes}, block.step, where);
  return header;
}

StoreHeader read_block(const OldBlock& block) {
  StoreHeader header = common_part(block);
  header.update = {.rule = {ops::find_optimizer(block.sgd != 0 ? "sgd" : "adamw"),
                            {block.beta1, block.beta2, block.epsilon, block.weight_decay},
                            block.seed},
                   .lr = block.lr,
                   .step = block.step,
                   .grad_scale = block.grad_scale};
  return header;
}

template <class Any>
Any common_block(const StoreHeader& header) {
  Any block = {};
  std::copy_n(kMagic, 8, block.magic);
  block.version = header.version;
  block.gradient_form = uint32_t(header.gradient);
  block.run_id = header.run_id;
  block.sequence = header.sequence;
  block.description_bytes = header.description_bytes;
  block.description_crc = header.description_crc;
  block.slot_count = header.slot_count;
  block.slot_bytes = header.slot_bytes;
  block.step = header.update.step;
  block.step_tokens = header.step_tokens;
  block.pending = header.pending;
  return block;
}

}  // namespace

void StoreHeader::write_to(std::byte* bytes) const {
  std::memset(bytes, 0, kBlockBytes);
  if (version == kOldVersion) {
    auto block = common_block<OldBlock>(*this);
    const ops::OptimizerNumbers& n = update.rule.numbers;
    block.sgd = std::string_view(update.rule.optimizer->name) == "sgd";
    block.beta1 = n.beta1, block.beta2 = n.beta2, block.epsilon = n.epsilon;
    block.weight_decay = n.weight_decay, block.lr = update.lr, block.grad_scale = update.grad_scale;
    block.seed = update.rule.seed;
    block.crc = crc_of(block);
    std::memcpy(bytes, &block, sizeof block);
    return;
  }
  auto block = common_block<Block>(*this);
  const std::string text = text_of(update);
  GIGAGPT_ASSERT(text.size() <= sizeof block.update);
  std::copy(text.begin(), text.end(), block.update);
  block.update_bytes = uint32_t(text.size());
  block.crc = crc_of(block);
  std::memcpy(bytes, &block, sizeof block);
}

bool begins_a_store(const std::byte* bytes) {
  return std::memcmp(bytes, kMagic, sizeof kMagic) == 0;
}

std::optional<StoreHeader> newest_header(const std::byte* blocks, const std::string& where) {
  std::optional<StoreHeader> newest;
  uint32_t versions[2] = {};
  std::memcpy(&versions[0], blocks + offsetof(Block, version), sizeof versions[0]);
  std::memcpy(&versions[1], blocks + kBlockBytes + offsetof(Block, version), sizeof versions[1]);
  for (const std::byte* at : {blocks, blocks + kBlockBytes}) {
    std::optional<StoreHeader> header;
    if (const auto block = intact_block<Block>(at)) header = read_block(*block, where);
    if (const auto block = intact_block<OldBlock>(at)) header = read_block(*block);
    if (header && (!newest || header->sequence > newest->sequence)) newest = header;
  }
  const bool stores = begins_a_store(blocks) && begins_a_store(blocks + kBlockBytes);
  if (!newest && stores && versions[0] == versions[1] && versions[0] > StoreHeader::kVersion) {
    fail("{} has version {}, this program knows {}", where, versions[0], StoreHeader::kVersion);
  }
  return newest;
}

}  // namespace gigagpt::engine
