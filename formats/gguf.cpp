#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "base/error.h"

namespace gigagpt::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian here");

constexpr uint32_t kVersion = 3;
constexpr size_t kMaxNameBytes = 63;  // of a tensor, in llama.cpp
constexpr size_t kBlock = 32;         // values of a block of Q8_0

uint64_t aligned(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

template <class T>
void put(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void put(std::string& out, const std::string& text) {
  put(out, uint64_t{text.size()});
  out += text;
}

void put(std::string& out, const GgufArray& array) {
  put(out, uint32_t(array.index()));
  const auto put_all = [&](const auto& list) {
    if constexpr (requires { list.size(); }) {
      put(out, uint64_t{list.size()});
      for (const auto& value : list) put(out, value);
    } else {
      GIGAGPT_ASSERT(false);  // no array of arrays
    }
  };
  std::visit(put_all, array);
}

std::string header_of(const GgufEntries& entries, const std::vector<GgufTensor>& tensors) {
  std::string header = "GGUF";
  put(header, kVersion);
  put(header, uint64_t{tensors.size()});
  put(header, uint64_t{entries.size()});
  for (const auto& [key, value] : entries) {
    put(header, key);
    put(header, uint32_t(value.index()));
    std::visit([&](const auto& v) { put(header, v); }, value);
  }
  uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    GIGAGPT_ASSERT(tensor.name.size() <= kMaxNameBytes);
    put(header, tensor.name);
    put(header, uint32_t(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) put(header, uint64_t(tensor.shape[i]));
    put(header, tensor.type);
    put(header, offset);
    offset += aligned(tensor.size_bytes(), GgufWriter::kAlignment);
  }
  header.resize(aligned(header.size(), GgufWriter::kAlignment), '\0');
  return header;
}

template <class T>
void append(std::vector<std::byte>& bytes, const T* values, size_t count) {
  const auto* begin = reinterpret_cast<const std::byte*>(values);
  bytes.insert(bytes.end(), begin, begin + count * sizeof(T));
}

// The factor of a block of Q8_0.
float block_scale(std::span<const float> block) {
  float largest = 0;
  for (const float value : block) largest = std::max(largest, std::fabs(value));
  return largest / 127.0F;
}

void encode_block(std::span<const float> block, std::vector<std::byte>& bytes) {
  const float scale = block_scale(block);
  const float inverse = 1.0F / scale;
  const uint16_t half = float_to_half(scale);
  std::array<int8_t, kBlock> codes = {};
  if (std::isfinite(inverse)) {  // else all are zeros, or too small for a half
    for (size_t i = 0; i < kBlock; ++i) codes[i] = int8_t(std::round(block[i] * inverse));
  }
  append(bytes, &half, 1);
  append(bytes, codes.data(), kBlock);
}

// Reads the header front to back; every length is held against what is left of the file.
class Cursor {
 public:
  explicit Cursor(const File& file) : file_(file), file_bytes_(file.size_bytes()) {}

  uint64_t place() const { return place_; }
  uint64_t left() const { return file_bytes_ - place_; }

  template <class... Args>
  [[noreturn]] void complain(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: byte {}: {}", file_.path().string(), place_,
         fmt::format(format, std::forward<Args>(args)...));
  }
  template <class T>
  void take(T& value) {
    std::memcpy(&value, next(sizeof(T)), sizeof(T));
  }
  void take(bool& value) {
    uint8_t byte = 0;
    take(byte);
    if (byte > 1) complain("{} is neither true nor false", byte);
    value = byte == 1;
  }
  void take(std::string& text) {
    const uint64_t size = take_count(1, "bytes of text");
    text.assign(next(size), size);
  }
  template <class T>
  void take(std::vector<T>& list) {
    // A text takes at least the 8 bytes of its length.
    const uint64_t count =
        take_count(std::is_same_v<T, std::string> ? 8 : sizeof(T), "elements of an array");
    list.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      T value{};
      take(value);
      list.push_back(std::move(value));
    }
  }
  void take(std::monostate&) { complain("an array of arrays is not supported"); }
  void take(GgufArray& array) { take_variant(array); }
  // A type's number, then a value of that type.
  template <class... Types>
  void take_variant(std::variant<Types...>& value) {
    uint32_t type = 0;
    take(type);
    if (type >= sizeof...(Types)) complain("there is no type {} of values", type);
    uint32_t index = 0;
    ((index++ == type ? take(value.template emplace<Types>()) : void()), ...);
  }
  // A number of things of at least so many bytes each.
  uint64_t take_count(uint64_t least_bytes, const char* what) {
    uint64_t count = 0;
    take(count);
    if (count > left() / least_bytes) {
      complain("{} {} do not fit the {} bytes that are left", count, what, left());
    }
    return count;
  }

 private:
  // That many bytes, valid until the next call.
  const char* next(uint64_t bytes) {
    constexpr uint64_t kBlockBytes = 1 << 16;
    if (left() < bytes) {
      fail("{} ends at byte {}: it is truncated", file_.path().string(), file_bytes_);
    }
    if (place_ + bytes > block_begin_ + block_.size()) {
      block_.resize(std::min(std::max(bytes, kBlockBytes), left()));
      file_.read_at(place_, std::as_writable_bytes(std::span(block_)));
      block_begin_ = place_;
    }
    place_ += bytes;
    return block_.data() + (place_ - bytes - block_begin_);
  }

  const File& file_;
  const uint64_t file_bytes_;
  uint64_t place_ = 0;
  std::string block_;  // of the file, from block_begin_ on
  uint64_t block_begin_ = 0;
};

uint64_t take_alignment(const GgufValue* value, const Path& path) {
  if (value == nullptr) return GgufWriter::kAlignment;
  const auto* alignment = std::get_if<uint32_t>(value);
  if (alignment == nullptr || !std::has_single_bit(*alignment)) {
    fail("{}: general.alignment is not a power of two", path.string());
  }
  return *alignment;
}

GgufTensor take_tensor(Cursor& cursor) {
  GgufTensor tensor;
  cursor.take(tensor.name);
  uint32_t dimensions = 0;
  cursor.take(dimensions);
  if (dimensions < 1 || dimensions > 4) {
    cursor.complain("a tensor of {} dimensions, not 1 to 4", dimensions);
  }
  tensor.shape.resize(dimensions);
  uint64_t product = 1;
  for (size_t i = dimensions; i-- > 0;) {
    uint64_t extent = 0;
    cursor.take(extent);
    // 2^58 values of any type are far above any file, and their bytes do not overflow.
    if (extent == 0 || __builtin_mul_overflow(product, extent, &product) ||
        product > uint64_t{1} << 58) {
      cursor.complain("a tensor dimension of {} is invalid", extent);
    }
    tensor.shape[i] = int64_t(extent);
  }
  cursor.take(tensor.type);
  const GgufLayout* layout = gguf_layout(tensor.type);
  if (layout == nullptr) cursor.complain("type {} of a tensor is not known", tensor.type);
  if (tensor.shape.back() % layout->elements != 0) {
    cursor.complain("rows of {} values are not whole blocks of {}, which has {} in each",
                    tensor.shape.back(), layout->name, layout->elements);
  }
  return tensor;
}

}  // namespace

const GgufLayout* gguf_layout(uint32_t type) {
  static constexpr std::array<GgufLayout, 14> kLayouts = {{{0, "F32", 1, 4},
                                                           {1, "F16", 1, 2},
                                                           {2, "Q4_0", 32, 18},
                                                           {3, "Q4_1", 32, 20},
                                                           {6, "Q5_0", 32, 22},
                                                           {7, "Q5_1", 32, 24},
                                                           {8, "Q8_0", 32, 34},
                                                           {10, "Q2_K", 256, 84},
                                                           {11, "Q3_K", 256, 110},
                                                           {12, "Q4_K", 256, 144},
                                                           {13, "Q5_K", 256, 176},
                                                           {14, "Q6_K", 256, 210},
                                                           {28, "F64", 1, 8},
                                                           {30, "BF16", 1, 2}}};
  const auto found = std::find_if(kLayouts.begin(), kLayouts.end(),
                                  [&](const GgufLayout& layout) { return layout.type == type; });
  return found == kLayouts.end() ? nullptr : &*found;
}

int64_t GgufTensor::count() const {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

uint64_t GgufTensor::size_bytes() const {
  const GgufLayout* layout = gguf_layout(type);
  GIGAGPT_ASSERT(layout != nullptr && shape.back() % layout->elements == 0);
  return uint64_t(count()) / layout->elements * layout->bytes;
}

uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000U;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return uint16_t(sign | 0x7E00U);
  if (magnitude >= 65520.0F) return uint16_t(sign | 0x7C00U);
  if (magnitude < 0x1p-14F) {
    // A subnormal half counts steps of 2^-24; the sum has just these in its last bits, rounded.
    return uint16_t(sign | (std::bit_cast<uint32_t>(magnitude + 0.5F) & 0x7FFU));
  }
  const uint32_t wide = bits & 0x7FFFFFFFU;
  const uint32_t rounded = wide + 0xFFFU + (wide >> 13 & 1U);
  return uint16_t(sign | ((rounded >> 13) - (112U << 10)));
}

uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return uint16_t(bits >> 16 | 0x40U);
  return uint16_t((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

void gguf_encode(GgufType type, std::span<const float> values, std::vector<std::byte>& bytes) {
  switch (type) {
    case GgufType::kF32:
      return append(bytes, values.data(), values.size());
    case GgufType::kF16:
    case GgufType::kBF16:
      for (const float value : values) {
        const uint16_t code = type == GgufType::kF16 ? float_to_half(value) : float_to_bf16(value);
        append(bytes, &code, 1);
      }
      return;
    case GgufType::kQ8_0:
      GIGAGPT_ASSERT(values.size() % kBlock == 0);
      for (size_t i = 0; i < values.size(); i += kBlock) {
        encode_block(values.subspan(i, kBlock), bytes);
      }
      return;
  }
}

GgufWriter::GgufWriter(const Path& path, const GgufEntries& entries,
                       std::vector<GgufTensor> tensors)
    : file_(File::create(path)), tensors_(std::move(tensors)) {
  const std::string header = header_of(entries, tensors_);
  file_bytes_ = header.size();
  for (const GgufTensor& tensor : tensors_) file_bytes_ += aligned(tensor.size_bytes(), kAlignment);
  file_.write(header);
}

void GgufWriter::check(std::span<const float> values) const {
  const GgufTensor& tensor = tensors_[current_];
  const auto type = GgufType(tensor.type);
  // The largest value that is not rounded to infinity.
  const float limit = type == GgufType::kF16    ? std::nextafter(65520.0F, 0.0F)
                      : type == GgufType::kBF16 ? std::nextafter(0x1.FFp127F, 0.0F)
                      : type == GgufType::kQ8_0 ? 65504.0F * 127.0F
                                                : std::numeric_limits<float>::max();
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::fabs(values[i]) <= limit) continue;
    const bool finite = std::isfinite(values[i]);
    fail("tensor {}: element {} is {}, {}", tensor.name, written_ + int64_t(i), values[i],
         finite ? fmt::format("too large for {}: use another type", gguf_layout(tensor.type)->name)
                : "not a finite number");
  }
}

void GgufWriter::write(std::span<const float> values) {
  constexpr size_t kPiece = 1 << 18;  // values; whole blocks
  GIGAGPT_ASSERT(current_ < tensors_.size());
  const GgufTensor& tensor = tensors_[current_];
  check(values);
  for (size_t first = 0; first < values.size(); first += kPiece) {
    bytes_.clear();
    gguf_encode(GgufType(tensor.type),
                values.subspan(first, std::min(kPiece, values.size() - first)), bytes_);
    file_.write(bytes_);
  }
  written_ += int64_t(values.size());
  GIGAGPT_ASSERT(written_ <= tensor.count());
  if (written_ < tensor.count()) return;
  const uint64_t size = tensor.size_bytes();
  file_.write(std::string(aligned(size, kAlignment) - size, '\0'));
  written_ = 0;
  ++current_;
}

void GgufWriter::finish() {
  GIGAGPT_ASSERT(current_ == tensors_.size());
  file_.sync();
}

GgufReader::GgufReader(const Path& path) : file_(File::open_read(path)) {
  Cursor cursor(file_);
  std::array<char, 4> magic = {};
  cursor.take(magic);
  if (std::string_view(magic.data(), 4) != "GGUF") fail("{} is not a GGUF file", path.string());
  cursor.take(version_);
  if (version_ < 2 || version_ > kVersion) {
    fail("{}: GGUF version {}, but only 2 and 3, little-endian, are supported", path.string(),
         version_);
  }
  // The least that a tensor takes: lengths of its name and shape, one extent, type and offset.
  const uint64_t tensor_count = cursor.take_count(8 + 4 + 8 + 4 + 8, "tensors");
  const uint64_t entry_count = cursor.take_count(8 + 4 + 1, "metadata entries");
  std::map<std::string_view, size_t> names;
  for (uint64_t i = 0; i < entry_count; ++i) {
    auto& [key, value] = entries_.emplace_back();
    cursor.take(key);
    cursor.take_variant(value);
  }
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!names.emplace(entries_[i].first, i).second) {
      fail("{}: the key {} appears twice", path.string(), entries_[i].first);
    }
  }
  alignment_ = take_alignment(find("general.alignment"), path);
  for (uint64_t i = 0; i < tensor_count; ++i) {
    tensors_.push_back(take_tensor(cursor));
    cursor.take(offsets_.emplace_back());
  }
  header_bytes_ = cursor.place();
  data_start_ = aligned(header_bytes_, alignment_);
  check_places();
}

// No byte of the file belongs to two tensors, and none that is needed is missing.
void GgufReader::check_places() const {
  std::vector<size_t> order(tensors_.size());
  std::map<std::string_view, size_t> names;
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
    if (names.emplace(tensors_[i].name, i).second) continue;
    fail("{}: there are two tensors {}", path().string(), tensors_[i].name);
  }
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return offsets_[a] < offsets_[b]; });
  uint64_t end = 0;
  for (const size_t i : order) {
    const std::string where = path().string() + ": tensor " + tensors_[i].name;
    if (offsets_[i] % alignment_ != 0) fail("{} is not aligned to {} bytes", where, alignment_);
    if (offsets_[i] < end) fail("{} overlaps another", where);
    const uint64_t file_bytes = file_.size_bytes();
    const uint64_t data_bytes = file_bytes > data_start_ ? file_bytes - data_start_ : 0;
    const uint64_t size = tensors_[i].size_bytes();
    if (size > data_bytes || offsets_[i] > data_bytes - size) {
      fail("{}: {} bytes from byte {} of the data on are beyond the file's end; it is truncated",
           where, size, offsets_[i]);
    }
    end = offsets_[i] + size;
  }
}

const GgufValue* GgufReader::find(std::string_view key) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const auto& entry) { return entry.first == key; });
  return found == entries_.end() ? nullptr : &found->second;
}

std::vector<std::byte> GgufReader::bytes(size_t tensor) const {
  std::vector<std::byte> bytes(tensors_[tensor].size_bytes());
  file_.read_at(data_start_ + offsets_[tensor], bytes);
  return bytes;
}

}  // namespace gigagpt::formats
