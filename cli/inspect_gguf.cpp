// GGUF files, ours and others'.
#include <map>
#include <type_traits>

#include "base/error.h"
#include "cli/inspect_parts.h"
#include "formats/gguf.h"

namespace gigagpt::cli {
namespace {

using formats::GgufArray;
using formats::GgufTensor;
using formats::GgufValue;

// A number or text as it is, a list by its length.
std::string value_text(const GgufValue& value) {
  const auto list = [](const auto& values) -> std::string {
    if constexpr (requires { values.size(); }) {
      constexpr bool kTexts = std::is_same_v<std::decay_t<decltype(values[0])>, std::string>;
      return fmt::format("{} {}", values.size(), kTexts ? "texts" : "values");
    }
    return "";
  };
  const auto text = [&](const auto& v) -> std::string {
    using T = std::decay_t<decltype(v)>;
    if constexpr (std::is_same_v<T, GgufArray>) {
      return std::visit(list, v);
    } else if constexpr (std::is_floating_point_v<T>) {
      return fmt::format("{:.6g}", v);
    } else {
      return fmt::format("{}", v);
    }
  };
  return std::visit(text, value);
}

// "20 tensors of F32: 0.4 MB, ...": what the weights are stored as.
std::string types_text(const std::vector<GgufTensor>& tensors) {
  std::map<uint32_t, std::pair<size_t, uint64_t>> types;  // number of tensors, bytes
  for (const GgufTensor& tensor : tensors) {
    ++types[tensor.type].first;
    types[tensor.type].second += tensor.size_bytes();
  }
  std::vector<std::string> texts;
  for (const auto& [type, sum] : types) {
    texts.push_back(fmt::format("{} of {} ({})", sum.first, formats::gguf_layout(type)->name,
                                size_text(sum.second)));
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

}  // namespace

void inspect_gguf(const Path& path) {
  const formats::GgufReader reader(path);
  int64_t parameters = 0;
  for (const GgufTensor& tensor : reader.tensors()) parameters += tensor.count();
  fmt::print("{}: GGUF version {}, {}: {} tensors of {} elements, after a header of {} bytes\n",
             path.string(), reader.version(), size_text(std::filesystem::file_size(path)),
             reader.tensors().size(), parameters, reader.header_bytes());
  for (const auto& [key, value] : reader.entries()) print_fact(printable(key), value_text(value));
  print_fact("tensors", types_text(reader.tensors()));
  std::vector<std::vector<std::string>> rows = {{"tensor", "elements", "shape", "type", "bytes"}};
  for (const GgufTensor& tensor : reader.tensors()) {
    rows.push_back({tensor.name, fmt::format("{}", tensor.count()), shapes_text({tensor.shape}),
                    formats::gguf_layout(tensor.type)->name,
                    fmt::format("{}", tensor.size_bytes())});
  }
  print_table(rows);
  finish({}, "");
}

}  // namespace gigagpt::cli
