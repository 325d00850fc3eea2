#include "formats/stored_weights.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "formats/json.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

constexpr const char* kWhole = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// Where each tensor is, by the index of a model in several files.
std::map<std::string, std::string> read_index(const Path& path) {
  try {
    const json root = parse_json<json>(read_text(path), path.string());
    std::map<std::string, std::string> places;
    const json& map = root.at("weight_map");
    if (!map.is_object() || map.empty()) fail("{}: weight_map names no tensor", path.string());
    for (const auto& [tensor, file] : map.items()) {
      const auto name = file.get<std::string>();
      // Its files lie beside it.
      if (name.empty() || Path(name).filename() != name || name == "." || name == "..") {
        fail("{}: '{}' is not the name of a file in this folder", path.string(), name);
      }
      places[tensor] = name;
    }
    return places;
  } catch (const json::exception& error) {
    fail("{}: {}", path.string(), error.what());
  }
}

void check_tensor(const SafetensorsReader& file, const std::string& name,
                  const std::vector<int64_t>& wanted) {
  const TensorInfo& info = file.info(name);
  const std::string where = file.path().string() + ": tensor " + name;
  if (info.shape != wanted) {
    fail("{} is [{}], but this configuration needs [{}]", where, fmt::join(info.shape, ", "),
         fmt::join(wanted, ", "));
  }
  if (!is_floating(info.dtype)) fail("{} is {}, not floating point", where, info.dtype);
}

}  // namespace

std::vector<Path> weight_files(const Path& directory) {
  if (std::filesystem::exists(directory / kWhole)) return {directory / kWhole};
  if (std::filesystem::exists(directory / kIndex)) {
    std::set<std::string> names;
    for (const auto& [_, file] : read_index(directory / kIndex)) names.insert(file);
    std::vector<Path> paths;
    for (const std::string& name : names) paths.push_back(directory / name);
    return paths;
  }
  for (const char* other : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (!std::filesystem::exists(directory / other)) continue;
    fail(
        "{}: weights in {}, a pickle, are not read; save them as {} first, with "
        "GPT2LMHeadModel.from_pretrained(...).save_pretrained(..., safe_serialization=True)",
        directory.string(), other, kWhole);
  }
  fail("{} is missing, and there is no {} either", (directory / kWhole).string(), kIndex);
}

StoredWeights::StoredWeights(const Path& directory, std::vector<StoredTensor> tensors)
    : tensors_(std::move(tensors)) {
  for (const Path& path : weight_files(directory)) {
    const SafetensorsReader& file = files_.emplace_back(path);
    for (const TensorInfo& info : file.tensors()) {
      if (file_of_.emplace(info.name, files_.size() - 1).second) continue;
      fail("{}: tensor {} is in another file of this model too", path.string(), info.name);
    }
  }
  if (!std::filesystem::exists(directory / kWhole)) {
    for (const auto& [name, file] : read_index(directory / kIndex)) {
      const SafetensorsReader* found = find(name);
      if (found != nullptr && found->path().filename() == file) continue;
      fail("{}: tensor {} is not in {}", (directory / kIndex).string(), name, file);
    }
  }
  std::set<std::string> known;
  for (const StoredTensor& tensor : tensors_) {
    const SafetensorsReader* file = find(name_of(tensor));
    known.insert(name_of(tensor));
    if (tensor.foreign && (file == nullptr || tensor.parameter.empty())) continue;
    if (file == nullptr) {
      const bool one = files_.size() == 1;
      fail("{} has no tensor {}", one ? files_[0].path().string() : directory.string(),
           tensor.name);
    }
    check_tensor(*file, name_of(tensor), tensor.shape);
  }
  for (const auto& [name, file] : file_of_) {
    if (known.contains(name)) continue;
    fail("{}: unexpected tensor {}: a model with this configuration has no such parameter",
         files_[file].path().string(), name);
  }
}

const SafetensorsReader* StoredWeights::find(const std::string& name) const {
  const auto found = file_of_.find(name);
  return found == file_of_.end() ? nullptr : &files_[found->second];
}

const std::string& StoredWeights::name_of(const StoredTensor& tensor) const {
  return file_of_.contains(tensor.name) || tensor.other_name.empty() ? tensor.name
                                                                     : tensor.other_name;
}

const SafetensorsReader& StoredWeights::file_of(const StoredTensor& tensor) const {
  const SafetensorsReader* file = find(name_of(tensor));
  GIGAGPT_ASSERT(file != nullptr);
  return *file;
}

void StoredWeights::read_floats(const StoredTensor& tensor, int64_t first,
                                std::span<float> values) const {
  file_of(tensor).read_floats(name_of(tensor), first, values);
}

void StoredWeights::check_values() const {
  std::map<std::string, const StoredTensor*> by_parameter;
  for (const StoredTensor& tensor : tensors_) {
    if (!tensor.foreign) by_parameter[tensor.parameter] = &tensor;
  }
  std::vector<float> values;
  for (const StoredTensor& tensor : tensors_) {
    if (tensor.foreign) {
      const bool there = !tensor.parameter.empty() && find(name_of(tensor)) != nullptr;
      if (there) check_equal(tensor, *by_parameter.at(tensor.parameter));
      continue;
    }
    if (!tensor.parameter.empty()) continue;
    in_pieces(file_of(tensor).info(name_of(tensor)).count(), [&](int64_t first, size_t count) {
      values.resize(count);
      read_floats(tensor, first, values);
      if (std::all_of(values.begin(), values.end(), [](float v) { return v == 0; })) return;
      fail("{}: {} is not zero, but bias is false", file_of(tensor).path().string(),
           name_of(tensor));
    });
  }
}

void StoredWeights::check_equal(const StoredTensor& tensor, const StoredTensor& twin) const {
  std::vector<float> values, wanted;
  in_pieces(file_of(tensor).info(name_of(tensor)).count(), [&](int64_t first, size_t count) {
    values.resize(count), wanted.resize(count);
    read_floats(tensor, first, values);
    read_floats(twin, first, wanted);
    if (values == wanted) return;
    fail("{}: {} differs from {}; only models in which they are one are supported",
         file_of(tensor).path().string(), name_of(tensor), name_of(twin));
  });
}

}  // namespace gigagpt::formats
