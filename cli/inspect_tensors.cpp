// Safetensors files, alone and as the parts of a checkpoint.
#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "base/crc32c.h"
#include "base/error.h"
#include "cli/display.h"
#include "cli/inspect_parts.h"
#include "engine/plan/plan.h"
#include "engine/run/resume.h"
#include "engine/state/state_file.h"
#include "formats/run_files.h"
#include "gpt/config.h"

namespace gigagpt::cli {
namespace {
namespace fs = std::filesystem;

using formats::FileSum;
using formats::SafetensorsReader;
using formats::TensorInfo;

// What reading a whole file tells.
struct Scan {
  FileSum sum;
  std::map<std::string, Norm> norms;  // by tensor, of those in floating point
};

// Reads the file from its begin to its end, in pieces.
Scan scan(const SafetensorsReader& reader, const std::function<void(double bytes)>& progress) {
  constexpr int64_t kPiece = 1 << 20;
  Scan scan{{reader.path().filename()}, {}};
  const auto take = [&](std::span<const std::byte> bytes) {
    scan.sum.crc32c = crc32c(bytes, scan.sum.crc32c);
    scan.sum.bytes += bytes.size();
    progress(double(bytes.size()));
  };
  const uint64_t header_bytes = reader.header_bytes();
  scan.sum = {reader.path().filename(), header_bytes, reader.header_crc32c()};
  progress(double(header_bytes));
  std::vector<float> values;
  std::vector<std::byte> bytes;
  for (const TensorInfo& tensor : reader.tensors()) {
    const int64_t count = tensor.count();
    const size_t width = formats::dtype_size_bytes(tensor.dtype);
    for (int64_t first = 0; first < count; first += kPiece) {
      const size_t piece = size_t(std::min(kPiece, count - first));
      bytes.resize(piece * width);
      reader.read_bytes(tensor.name, uint64_t(first) * width, bytes);
      take(bytes);
      if (!formats::is_floating(tensor.dtype)) continue;
      values.resize(piece);
      reader.read_floats(tensor.name, first, values);
      scan.norms[tensor.name].add(values);
    }
  }
  return scan;
}

uint64_t bytes_of(const Path& file) {
  std::error_code error;
  const auto bytes = fs::file_size(file, error);
  return error ? 0 : bytes;
}

// What a checkpoint's directory tells of itself, as far as it can be read.
struct Checkpoint {
  Path path;
  std::optional<formats::TrainerState> state;
  std::optional<GPTConfig> config;
  std::map<std::string, std::string> names;      // in the files, by our parameters' names
  std::map<std::string, Norm> weights, moments;  // by the names in their files
  std::vector<std::string> sums;                 // what is known of each file
  std::vector<std::string> problems;

  // Notes what the action throws; whether it threw nothing.
  template <class Action>
  bool tries(const Action& action) {
    try {
      action();
      return true;
    } catch (const Error& error) {
      problems.emplace_back(error.what());
      return false;
    }
  }
  bool has(const char* name) const {
    std::error_code error;
    return fs::exists(path / name, error);
  }
};

void check_sum(Checkpoint& c, const FileSum& found) {
  const auto& files = c.state ? c.state->files : std::vector<FileSum>{};
  const auto wanted = std::find_if(files.begin(), files.end(),
                                   [&](const FileSum& file) { return file.name == found.name; });
  std::string verdict = "no checksums";
  if (wanted != files.end()) {
    verdict = *wanted == found ? "checksum matches" : "checksum does not match";
  }
  c.sums.push_back(fmt::format("{} ({}): {}", found.name, size_text(found.bytes), verdict));
  if (wanted == files.end() || *wanted == found) return;
  c.problems.push_back(fmt::format(
      "{}: its {} bytes have the CRC-32C {:08x}, not {} bytes with {:08x} as trainer_state.json "
      "says: file or disk are damaged",
      (c.path / found.name).string(), found.bytes, found.crc32c, wanted->bytes, wanted->crc32c));
}

// The model that config.json means, if the weights can be that at all.
void read_model(Checkpoint& c, size_t tensors) {
  const GPTConfig config = GPTConfig::of_checkpoint(c.path);
  check_layers(c.path, config.depth, tensors);
  const formats::StoredWeights weights(c.path, engine::stored_tensors(config.layers()));
  for (const formats::StoredTensor& tensor : weights.tensors()) {
    if (!tensor.foreign) c.names[tensor.parameter] = weights.name_of(tensor);
  }
  c.config = config;
}

void read_files(Checkpoint& c) {
  if (c.has("trainer_state.json")) c.tries([&] { c.state = formats::read_trainer_state(c.path); });
  std::vector<Path> files;
  c.tries([&] { files = formats::weight_files(c.path); });
  uint64_t all_bytes = bytes_of(c.path / "optimizer.safetensors");
  for (const Path& file : files) all_bytes += bytes_of(file);
  Display display;
  const auto progress = count_up(display, "reading", double(all_bytes));
  const auto read = [&](const Path& path, std::map<std::string, Norm>& norms) {
    size_t tensors = 0;
    c.tries([&] {
      if (!fs::is_regular_file(path)) fail("{} is missing", path.string());
      const SafetensorsReader reader(path);
      tensors = reader.tensors().size();
      Scan found = scan(reader, progress);
      check_sum(c, found.sum);
      norms.merge(found.norms);
    });
    return tensors;
  };
  size_t tensors = 0;
  for (const Path& file : files) tensors += read(file, c.weights);
  if (!files.empty()) c.tries([&] { read_model(c, tensors); });
  const Path optimizer = c.path / formats::kOptimizerFile;
  const auto sums = c.state ? c.state->files : std::vector<FileSum>();
  const bool wanted =
      std::ranges::find(sums, formats::kOptimizerFile, &FileSum::name) != sums.end();
  if (wanted || fs::exists(optimizer)) read(optimizer, c.moments);
  for (const FileSum& sum : sums) {
    const Path path = c.path / sum.name;
    if (path == optimizer || std::ranges::find(files, path) != files.end()) continue;
    c.tries([&] { check_sum(c, formats::sum_of_file(path)); });
  }
}

std::string moments_text(const Checkpoint& c) {
  if (c.has("optimizer.safetensors")) return "in optimizer.safetensors";
  const std::string id = c.state ? formats::find_text(c.state->manifest, "store") : "";
  if (id.empty()) return "none: weights alone";
  const std::string store = store_key(c.state->config);
  const auto files = engine::find_store_files(store, c.path.parent_path());
  for (const Path& file : files) {
    const auto summary = engine::StateFile::peek(file);
    if (!summary || summary->id() != id) continue;
    return fmt::format("in {}{}, now at step {}", file.string(), files.size() > 1 ? " ..." : "",
                       summary->step);
  }
  const Path file = engine::store_file(store, c.path.parent_path());
  return fmt::format("in a store with id {}, which is not at {}: they are lost if it is gone", id,
                     file.string());
}

std::string pairs_text(const formats::TextPairs& pairs, const std::set<std::string>& wanted) {
  std::vector<std::string> texts;
  for (const auto& [key, value] : pairs) {
    if (wanted.empty() || wanted.contains(key)) texts.push_back(key + " " + value);
  }
  return fmt::format("{}", fmt::join(texts, ", "));
}

void print_facts(const Checkpoint& c) {
  fmt::print("{}: a checkpoint{}\n", c.path.string(),
             c.state ? fmt::format(" of step {}, after {} tokens", c.state->step, c.state->tokens)
                     : ", of weights alone or of another program");
  if (c.config) {
    const GPTConfig& m = *c.config;
    print_fact("model", fmt::format("depth {}, width {}, heads {}, vocab_size {}, {} positions{}",
                                    m.depth, m.width, m.heads, m.vocab_size,
                                    m.max_position_embeddings, m.bias ? "" : ", no bias") +
                            (m.activation == "gelu" ? "" : ", " + m.activation));
  }
  if (c.state) {
    print_fact("config", pairs_text(c.state->config,
                                    {"dataset", "batch_size", "sequence_length", "num_steps",
                                     "learning_rate", "optimizer", "precision", "store", "seed"}));
    print_fact("computed by", pairs_text(c.state->manifest, {}));
  }
  print_fact("moments", moments_text(c));
  for (const std::string& sum : c.sums) print_fact("file", sum);
}

void print_layers(Checkpoint& c) {
  std::vector<std::vector<std::string>> rows = {
      {"layer", "parameters", "shapes", "|weights|", "|exp_avg|", "|exp_avg_sq|"}};
  for (const auto& layer : c.config->layers()) {
    std::array<Norm, 3> norms;
    const auto add = [](Norm& norm, const std::map<std::string, Norm>& of,
                        const std::string& name) {
      const auto found = of.find(name);
      if (found != of.end()) norm.add(found->second);
    };
    for (const auto& param : layer.params) {
      const std::string name = layer.prefix + param.name;
      add(norms[0], c.weights, c.names[name]);
      add(norms[1], c.moments, "exp_avg/" + name);
      add(norms[2], c.moments, "exp_avg_sq/" + name);
    }
    rows.push_back(layer_row(layer, norms));
  }
  print_table(rows);
}

}  // namespace

void inspect_safetensors(const Path& path) {
  const SafetensorsReader reader(path);
  int64_t parameters = 0;
  for (const TensorInfo& tensor : reader.tensors()) parameters += tensor.count();
  fmt::print("{}: safetensors, {}: {} tensors of {} elements, after a header of {} bytes\n",
             path.string(), size_text(bytes_of(path)), reader.tensors().size(), parameters,
             reader.header_bytes());
  for (const auto& [key, value] : reader.metadata()) print_fact(key, value);
  Scan found;
  {
    Display display;
    found = scan(reader, count_up(display, "reading", double(bytes_of(path))));
  }
  std::vector<std::vector<std::string>> rows = {{"tensor", "elements", "shape", "type", "norm"}};
  for (const TensorInfo& tensor : reader.tensors()) {
    rows.push_back({tensor.name, fmt::format("{}", tensor.count()), shapes_text({tensor.shape}),
                    tensor.dtype, found.norms[tensor.name].text()});
  }
  print_table(rows);
  finish({}, "");
}

void inspect_checkpoint(const Path& directory) {
  Checkpoint checkpoint{directory, {}, {}, {}, {}, {}, {}, {}};
  read_files(checkpoint);
  print_facts(checkpoint);
  if (checkpoint.config) print_layers(checkpoint);
  finish(checkpoint.problems, fmt::format("{}: {} things are wrong with this checkpoint",
                                          directory.string(), checkpoint.problems.size()));
}

}  // namespace gigagpt::cli
