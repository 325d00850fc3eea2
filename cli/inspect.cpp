#include "cli/inspect.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include "base/error.h"
#include "base/lock.h"
#include "cli/inspect_parts.h"
#include "engine/plan/plan.h"
#include "engine/run/resume.h"
#include "engine/run/run_directory.h"
#include "engine/state/state_file.h"
#include "formats/json.h"
#include "formats/run_files.h"

namespace gigagpt::cli {
namespace {
namespace fs = std::filesystem;

constexpr const char* kKnown =
    "a store, a checkpoint, a run's out_dir, a safetensors or a GGUF file";

// What the content of a file that is not ours looks like.
std::string guess(const std::string& begin) {
  if (begin.empty()) return "empty";
  const auto is = [&](auto test) { return std::all_of(begin.begin(), begin.end(), test); };
  if (is([](char c) { return c == '\0'; })) return "zeros, as of a store that was never completed";
  const bool text = is([](unsigned char c) { return c >= ' ' || std::isspace(c) != 0; });
  if (!text) return "binary data of another program, or damaged";
  return begin[0] == '{' ? "JSON" : "text";
}

void inspect_file(const Path& path) {
  const std::string begin = first_bytes(path, 2 * kBlockBytes);
  constexpr std::string_view kStore = "GIGAstor";  // at the start of either header
  const bool store = begin.starts_with(kStore) ||
                     (begin.size() > kBlockBytes &&
                      std::string_view(begin).substr(kBlockBytes).starts_with(kStore));
  if (store) return inspect_store(path);
  if (begin.starts_with("GGUF") || path.extension() == ".gguf") return inspect_gguf(path);
  const bool safetensors = begin.size() > 8 && begin[8] == '{' && begin[7] == 0 && begin[6] == 0;
  if (safetensors || path.extension() == ".safetensors") return inspect_safetensors(path);
  fail("{} is not {}: it seems to be {}", path.string(), kKnown, guess(begin));
}

// The newest whole line of metrics.jsonl, "step 3, loss 4.1, ...".
std::string last_metrics(const Path& path) {
  const File file = File::open_read(path);
  const uint64_t size = file.size_bytes();
  std::string tail(std::min<uint64_t>(size, 1 << 16), '\0');
  file.read_at(size - tail.size(), std::as_writable_bytes(std::span(tail)));
  while (!tail.empty()) {
    const size_t end = tail.find_last_not_of('\n');
    if (end == std::string::npos) break;
    const size_t before = tail.find_last_of('\n', end);
    const size_t begin = before == std::string::npos ? 0 : before + 1;
    const std::string line = tail.substr(begin, end + 1 - begin);
    tail.resize(begin);
    const auto row = formats::parse_json_or_null<nlohmann::ordered_json>(line);
    if (!row.is_object()) continue;
    std::vector<std::string> pairs;
    for (const auto& [key, value] : row.items()) {
      pairs.push_back(value.is_number_float() ? fmt::format("{} {:.6g}", key, value.get<double>())
                                              : key + " " + formats::to_text(value));
    }
    return fmt::format("{}", fmt::join(pairs, ", "));
  }
  return "none";
}

std::string store_text(const Path& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return file.string() + ", which is no file";
  const auto summary = engine::StateFile::peek(file);
  if (!summary) return file.string() + ", which holds no completed state";
  return fmt::format("{}, {}, id {}, at step {}", file.string(), size_text(fs::file_size(file)),
                     summary->id(), summary->step);
}

// What the newest checkpoint's run has its state in.
std::vector<Path> stores_of(const Path& out_dir, const std::vector<int64_t>& steps) {
  std::string store = "auto";
  try {
    const Path newest = engine::checkpoint_directory(out_dir, steps.empty() ? 0 : steps.back());
    store = store_key(formats::read_trainer_state(newest).config);
  } catch (const Error&) {  // a listing says what is wrong with it
  }
  const Path plain = engine::store_file(store, out_dir);
  std::error_code error;
  auto files = engine::find_store_files(store, out_dir);
  if (files.empty() && fs::exists(plain, error)) files.push_back(plain);
  return files;
}

void inspect_out_dir(const Path& path) {
  const auto steps = engine::checkpoint_steps(path);
  const auto holder = DirectoryLock::holder(path);
  fmt::print("{}: a run's out_dir, {}\n", path.string(),
             holder ? "in use by " + *holder : "which no process uses");
  const auto stores = stores_of(path, steps);
  if (stores.empty()) print_fact("store", "none: the state is in RAM, or in a file elsewhere");
  for (const Path& file : stores) print_fact("store", store_text(file));
  const Path metrics = path / "metrics.jsonl";
  print_fact("last metrics", fs::is_regular_file(metrics) ? last_metrics(metrics) : "none");
  std::vector<std::string> problems;
  std::vector<std::vector<std::string>> rows = {{"checkpoint", "step", "", "tokens"}};
  for (const int64_t step : steps) {
    const Path checkpoint = engine::checkpoint_directory(path, step);
    std::string tokens;
    try {
      tokens = fmt::format("{}", formats::read_trainer_state(checkpoint).tokens);
      formats::verify_files(checkpoint);
    } catch (const Error& error) {
      tokens = "damaged";
      problems.emplace_back(error.what());
    }
    rows.push_back({checkpoint.filename(), fmt::format("{}", step), "", tokens});
  }
  if (steps.empty())
    print_fact("checkpoints", "none");
  else
    print_table(rows);
  finish(problems, fmt::format("{}: {} of {} checkpoints are damaged", path.string(),
                               problems.size(), steps.size()));
}

void inspect_directory(const Path& path) {
  std::set<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (names.size() < 1000) names.insert(entry.path().filename());
  }
  if (error) fail("cannot read {}: {}", path.string(), error.message());
  if (path.filename().native().ends_with(".gigagpt-partial")) {
    fail("{} is what a process that ended left half-written; the next start removes it",
         path.string());
  }
  const auto has = [&](const char* name) { return names.contains(name); };
  if (has("model.safetensors") || has("trainer_state.json") || has("config.json")) {
    return inspect_checkpoint(path);
  }
  const bool run = has("metrics.jsonl") || has("model.store") || has(".lock");
  if (run || !engine::checkpoint_steps(path).empty()) return inspect_out_dir(path);
  if (names.empty()) fail("{} is an empty directory, not {}", path.string(), kKnown);
  const bool data = has("train.bin") && has("val.bin");
  fail("{} is not {}: it seems to be {}", path.string(), kKnown,
       data ? "a data set" : fmt::format("another directory, with {}", printable(*names.begin())));
}

}  // namespace

std::string Norm::text() const {
  if (damaged_) return "damaged";
  return any_ ? fmt::format("{:.6g}", std::sqrt(squares_)) : "-";
}

std::string first_bytes(const Path& path, size_t most) {
  const File file = File::open_read(path);
  std::string bytes(std::min<uint64_t>(file.size_bytes(), most), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

std::string store_key(const formats::TextPairs& config) {
  const std::string store = formats::find_text(config, "store");
  return store.empty() ? "auto" : store;
}

void check_layers(const Path& checkpoint, int64_t layers, size_t tensors) {
  if (layers <= int64_t(tensors)) return;
  fail("{}: n_layer is {}, but its weights are {} tensors", (checkpoint / "config.json").string(),
       layers, tensors);
}

std::string printable(std::string text) {
  constexpr size_t kMost = 2000;
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  for (char& c : text) {
    if (std::iscntrl(static_cast<unsigned char>(c)) != 0) c = '?';
  }
  return text;
}

std::string size_text(uint64_t bytes) {
  if (bytes < 1'000'000) return fmt::format("{} bytes", bytes);
  const bool giga = bytes >= 1'000'000'000;
  return fmt::format("{:.2f} {}", double(bytes) / (giga ? 1e9 : 1e6), giga ? "GB" : "MB");
}

std::string shapes_text(const std::vector<std::vector<int64_t>>& shapes) {
  std::vector<std::pair<std::vector<int64_t>, int>> counts;  // in the order of their first
  std::map<std::vector<int64_t>, size_t> places;
  for (const auto& shape : shapes) {
    const auto [place, fresh] = places.emplace(shape, counts.size());
    if (fresh) counts.emplace_back(shape, 0);
    ++counts[place->second].second;
  }
  std::vector<std::string> texts;
  for (const auto& [shape, count] : counts) {
    texts.push_back(
        fmt::format("{}[{}]", count > 1 ? fmt::format("{}*", count) : "", fmt::join(shape, ",")));
  }
  return fmt::format("{}", fmt::join(texts, " "));
}

std::vector<std::string> layer_row(const engine::LayerSpec& layer,
                                   const std::array<Norm, 3>& norms) {
  std::vector<std::vector<int64_t>> shapes;
  for (const auto& param : layer.params) shapes.push_back(param.shape);
  return {layer.name,          fmt::format("{}", engine::parameter_count({layer})),
          shapes_text(shapes), norms[0].text(),
          norms[1].text(),     norms[2].text()};
}

void print_fact(const std::string& name, const std::string& value) {
  fmt::print("  {:<13} {}\n", name, printable(value));
}

void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows.at(0).size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], std::min<size_t>(printable(row[i]).size(), 60));
    }
  }
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      if (widths[i] == 0) continue;
      const std::string cell = printable(row[i]);
      line += i == 0 || i == 2 ? fmt::format("  {:<{}}", cell, widths[i])
                               : fmt::format("  {:>{}}", cell, widths[i]);
    }
    fmt::print("{}\n", line.erase(line.find_last_not_of(' ') + 1));
  }
}

void finish(const std::vector<std::string>& problems, const std::string& summary) {
  std::fflush(stdout);
  if (problems.empty()) return;
  if (problems.size() == 1) fail("{}", printable(problems.front()));
  fmt::print("wrong:\n");
  for (const std::string& problem : problems) fmt::print("  {}\n", printable(problem));
  std::fflush(stdout);
  fail("{}", summary);
}

void inspect(const Path& given) {
  const Path path = without_slash(given);
  std::error_code error;
  const auto status = fs::status(path, error);
  if (!fs::exists(status)) {
    fail("cannot inspect {}: {}", path.string(),
         error ? error.message() : "No such file or directory");
  }
  if (fs::is_directory(status)) return inspect_directory(path);
  if (!fs::is_regular_file(status)) fail("{} is neither a file nor a directory", path.string());
  inspect_file(path);
}

}  // namespace gigagpt::cli
