#include "formats/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/crc32c.h"
#include "base/error.h"
#include "formats/json.h"

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

json parse_header(std::string_view text, const std::string& where) {
  json header = parse_json<json>(text, where + ": bad safetensors header");
  if (!header.is_object()) fail("{}: its header is not a JSON object", where);
  return header;
}

std::vector<uint64_t> naturals(const json& list, const std::string& where) {
  if (!list.is_array()) fail("{}: {} is not a list", where, shortened(to_text(list)));
  std::vector<uint64_t> values;
  for (const json& value : list) {
    // 2^62 is far above any size, and its sums and signed form do not overflow.
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 62) {
      fail("{}: {} is not a size or place", where, shortened(to_text(value)));
    }
    values.push_back(value);
  }
  return values;
}

void check_tensor(const TensorInfo& info, uint64_t begin, uint64_t end, const std::string& where) {
  const uint64_t element_bytes = dtype_size_bytes(info.dtype);
  if (element_bytes == 0) fail("{} has unknown dtype {}", where, info.dtype);
  if (begin > end) fail("{} ends at byte {}, before it begins at {}", where, end, begin);
  uint64_t size_bytes = element_bytes;
  bool overflows = false;
  for (const int64_t extent : info.shape) {
    overflows |= __builtin_mul_overflow(size_bytes, static_cast<uint64_t>(extent), &size_bytes);
  }
  const bool empty = std::find(info.shape.begin(), info.shape.end(), 0) != info.shape.end();
  if (empty ? begin != end : overflows || size_bytes != end - begin) {
    fail("{}: shape [{}] does not match its {} bytes", where, fmt::join(info.shape, ", "),
         end - begin);
  }
}

}  // namespace

int64_t TensorInfo::count() const {
  // A zero first: the others alone may overflow, as the format allows.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
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

bool is_floating(std::string_view dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16" || dtype == "F64";
}

SafetensorsWriter::SafetensorsWriter(const Path& path, const std::vector<TensorInfo>& tensors,
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
  std::string text = to_text(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins 8-byte aligned
  const uint64_t length = text.size();
  put(std::as_bytes(std::span(&length, 1)));
  put(std::as_bytes(std::span(text)));
}

void SafetensorsWriter::put(std::span<const std::byte> bytes) {
  file_.write(bytes);
  file_bytes_ += bytes.size();
  crc32c_ = gigagpt::crc32c(bytes, crc32c_);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  put(bytes);
  written_bytes_ += bytes.size();
}

void SafetensorsWriter::finish() {
  GIGAGPT_ASSERT(written_bytes_ == expected_bytes_);
  file_.sync();
}

namespace {

// The header's text, as long as the file says that it is.
std::string read_header(const File& file) {
  const uint64_t file_bytes = file.size_bytes();
  uint64_t header_bytes = 0;
  const std::string where = file.path().string();
  if (file_bytes < 8) fail("{}: {} bytes are too few for a safetensors file", where, file_bytes);
  file.read_at(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
  if (header_bytes > std::min<uint64_t>(kMaxHeaderBytes, file_bytes - 8)) {
    fail("{}: its header of {} bytes does not fit the file; not safetensors, or truncated", where,
         header_bytes);
  }
  std::string text(header_bytes, '\0');
  file.read_at(8, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace

SafetensorsReader::SafetensorsReader(const Path& path) : file_(File::open_read(path)) {
  const std::string text = read_header(file_);
  data_start_ = 8 + text.size();
  std::map<std::pair<uint64_t, uint64_t>, std::vector<TensorInfo>> by_place;  // begin, end
  try {
    const json header = parse_header(text, path.string());
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        metadata_ = value.get<Metadata>();
        continue;
      }
      const std::string where = path.string() + ": tensor " + name;
      const auto offsets = naturals(value.at("data_offsets"), where);
      const auto shape = naturals(value.at("shape"), where);
      if (offsets.size() != 2) fail("{} needs two data_offsets", where);
      const TensorInfo info{name, value.at("dtype"), {shape.begin(), shape.end()}};
      check_tensor(info, offsets[0], offsets[1], where);
      by_place[{offsets[0], offsets[1]}].push_back(info);
    }
  } catch (const json::exception& error) {
    fail("{}: bad safetensors header: {}", path.string(), error.what());
  }
  // Every byte of the data belongs to just one tensor, as the format demands.
  uint64_t data_end = 0;
  for (auto& [place, tensors] : by_place) {
    for (TensorInfo& tensor : tensors) {
      const auto [begin, end] = place;
      const std::string where = path.string() + ": tensor " + tensor.name;
      if (begin < data_end) fail("{} overlaps another", where);
      if (begin > data_end) {
        fail("{} begins at byte {} of the data, not {}", where, begin, data_end);
      }
      data_end = end;
      index_[tensor.name] = tensors_.size();
      begins_.push_back(begin);
      tensors_.push_back(std::move(tensor));
    }
  }
  const uint64_t data_bytes = file_.size_bytes() - data_start_;
  if (data_end != data_bytes) {
    fail("{}: {} bytes of data where its tensors need {}; it is {}", path.string(), data_bytes,
         data_end, data_end > data_bytes ? "truncated" : "damaged");
  }
}

size_t SafetensorsReader::index_of(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) fail("{} has no tensor {}", path().string(), name);
  return found->second;
}

const TensorInfo& SafetensorsReader::info(const std::string& name) const {
  return tensors_[index_of(name)];
}

void SafetensorsReader::read_bytes(const std::string& name, uint64_t first,
                                   std::span<std::byte> bytes) const {
  GIGAGPT_ASSERT(first + bytes.size() <= info(name).size_bytes());
  file_.read_at(data_start_ + begins_[index_of(name)] + first, bytes);
}

std::vector<std::byte> SafetensorsReader::bytes(const std::string& name) const {
  std::vector<std::byte> bytes(info(name).size_bytes());
  read_bytes(name, 0, bytes);
  return bytes;
}

void SafetensorsReader::read_floats(const std::string& name, std::span<float> values) const {
  const TensorInfo& tensor = info(name);
  if (static_cast<size_t>(tensor.count()) != values.size()) {
    fail("{}: tensor {} has {} elements, not {}", path().string(), name, tensor.count(),
         values.size());
  }
  read_floats(name, 0, values);
}

void SafetensorsReader::read_floats(const std::string& name, int64_t first,
                                    std::span<float> values) const {
  const TensorInfo& tensor = info(name);
  GIGAGPT_ASSERT(first >= 0 && uint64_t(first) + values.size() <= uint64_t(tensor.count()));
  if (values.empty()) return;
  const size_t width = dtype_size_bytes(tensor.dtype);
  const uint64_t first_byte = uint64_t(first) * width;
  if (tensor.dtype == "F32") {
    return read_bytes(name, first_byte, std::as_writable_bytes(values));
  }
  std::vector<std::byte> raw(values.size() * width);
  read_bytes(name, first_byte, raw);
  if (tensor.dtype == "BF16") {
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
