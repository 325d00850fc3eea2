#include "formats/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000U) << 16;
  const uint32_t exponent = (half >> 10) & 0x1FU;
  const uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0) {
    const float tiny = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -tiny : tiny;
  }
  const uint32_t wide = exponent == 31 ? 255U : exponent + 112U;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

template <class T, class Convert>
void convert(std::span<const std::byte> from, std::span<float> to, Convert to_float) {
  for (size_t i = 0; i < to.size(); ++i) {
    T value;
    std::memcpy(&value, from.data() + i * sizeof(T), sizeof(T));
    to[i] = to_float(value);
  }
}

}  // namespace

int64_t TensorInfo::count() const {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

uint64_t TensorInfo::size_bytes() const {
  return static_cast<uint64_t>(count()) * dtype_size_bytes(dtype);
}

size_t dtype_size_bytes(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  return 0;
}

SafetensorsWriter::SafetensorsWriter(const Path& path, std::vector<TensorInfo> tensors,
                                     const Metadata& metadata)
    : file_(File::create(path)) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  for (const TensorInfo& tensor : tensors) {
    GIGAGPT_ASSERT(dtype_size_bytes(tensor.dtype) > 0 && !header.contains(tensor.name));
    const uint64_t end = expected_bytes_ + tensor.size_bytes();
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {expected_bytes_, end}}};
    expected_bytes_ = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins 8-byte aligned
  const uint64_t length = text.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(text);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  file_.write(bytes);
  written_bytes_ += bytes.size();
}

void SafetensorsWriter::finish() {
  GIGAGPT_ASSERT(written_bytes_ == expected_bytes_);
  file_.sync();
}

SafetensorsReader::SafetensorsReader(const Path& path) : file_(path) {
  const auto bytes = file_.bytes();
  uint64_t header_bytes = 0;
  if (bytes.size() < 8)
    fail("{}: {} bytes are too few for a safetensors file", path.string(), bytes.size());
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - 8)) {
    fail("{}: its header of {} bytes does not fit the file; not safetensors, or truncated",
         path.string(), header_bytes);
  }
  data_start_ = 8 + header_bytes;
  const uint64_t data_bytes = bytes.size() - data_start_;
  const char* text = reinterpret_cast<const char*>(bytes.data() + 8);
  try {
    // The callback sees keys in order, so a name that comes twice does not pass unnoticed.
    std::vector<std::string> names;
    const auto header =
        json::parse(text, text + header_bytes, [&](int depth, auto event, json& key) {
          if (depth == 1 && event == json::parse_event_t::key) names.push_back(key);
          return true;
        });
    if (!header.is_object() || names.size() != header.size()) {
      fail("{}: a tensor's name comes twice in the header", path.string());
    }
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        metadata_ = value.get<Metadata>();
        continue;
      }
      const auto offsets = value.at("data_offsets").get<std::array<uint64_t, 2>>();
      add_tensor({name, value.at("dtype"), value.at("shape")}, offsets[0], offsets[1], data_bytes);
    }
  } catch (const json::exception& error) {
    fail("{}: bad safetensors header: {}", path.string(), error.what());
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  uint64_t previous_end = 0;
  std::vector<Entry> by_place;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    Entry& entry = index_.at(tensors_[i].name);
    entry.tensor = i;
    by_place.push_back(entry);
  }
  std::sort(by_place.begin(), by_place.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  for (const Entry& entry : by_place) {
    if (entry.begin < previous_end) {
      fail("{}: tensor {} overlaps another", path.string(), tensors_[entry.tensor].name);
    }
    previous_end = entry.end;
  }
}

void SafetensorsReader::add_tensor(TensorInfo info, uint64_t begin, uint64_t end,
                                   uint64_t data_bytes) {
  const std::string where = path().string() + ": tensor " + info.name;
  const size_t element_bytes = dtype_size_bytes(info.dtype);
  if (element_bytes == 0) fail("{} has unknown dtype {}", where, info.dtype);
  if (begin > end || end > data_bytes) {
    fail("{} lies at bytes {}..{} of {}: the file is truncated or damaged", where, begin, end,
         data_bytes);
  }
  uint64_t left = (end - begin) / element_bytes;
  bool matches = (end - begin) % element_bytes == 0;
  uint64_t count = 1;
  for (const int64_t extent : info.shape) {
    // Dividing instead of multiplying first: a hostile shape must not overflow.
    if (extent < 0 || (extent > 0 && count > left / static_cast<uint64_t>(extent))) matches = false;
    if (!matches) break;
    count *= static_cast<uint64_t>(extent);
  }
  if (!matches || count != left) {
    fail("{}: shape [{}] does not match its {} bytes", where, fmt::join(info.shape, ", "),
         end - begin);
  }
  index_[info.name] = {0, begin, end};
  tensors_.push_back(std::move(info));
}

const TensorInfo& SafetensorsReader::info(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) fail("{} has no tensor {}", path().string(), name);
  return tensors_[found->second.tensor];
}

std::span<const std::byte> SafetensorsReader::bytes(const std::string& name) const {
  info(name);
  const Entry& entry = index_.at(name);
  return file_.bytes().subspan(data_start_ + entry.begin, entry.end - entry.begin);
}

void SafetensorsReader::read_floats(const std::string& name, std::span<float> values) const {
  const TensorInfo& tensor = info(name);
  const auto raw = bytes(name);
  if (static_cast<size_t>(tensor.count()) != values.size()) {
    fail("{}: tensor {} has {} elements, not {}", path().string(), name, tensor.count(),
         values.size());
  }
  if (tensor.dtype == "F32") {
    if (!raw.empty()) std::memcpy(values.data(), raw.data(), raw.size());
  } else if (tensor.dtype == "BF16") {
    convert<uint16_t>(raw, values,
                      [](uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); });
  } else if (tensor.dtype == "F16") {
    convert<uint16_t>(raw, values, half_to_float);
  } else if (tensor.dtype == "F64") {
    convert<double>(raw, values, [](double v) { return static_cast<float>(v); });
  } else {
    fail("{}: tensor {} is {}, not floating point", path().string(), name, tensor.dtype);
  }
}

}  // namespace gigagpt::formats
