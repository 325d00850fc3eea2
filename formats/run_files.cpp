#include "formats/run_files.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <sstream>
#include <utility>

#include "base/crc32c.h"
#include "formats/json.h"

namespace gigagpt::formats {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const TextPairs& pairs) {
  ordered_json object = ordered_json::object();
  for (const auto& [key, value] : pairs) object[key] = value;
  return object;
}

TextPairs from_json(const ordered_json& object, const std::string& where) {
  if (!object.is_object()) fail("{}: config and manifest must be objects", where);
  TextPairs pairs;
  for (const auto& [key, value] : object.items()) pairs.emplace_back(key, value.get<std::string>());
  return pairs;
}

ordered_json to_json(const std::vector<FileSum>& files) {
  ordered_json object = ordered_json::object();
  for (const FileSum& file : files) {
    object[file.name] = {{"bytes", file.bytes}, {"crc32c", fmt::format("{:08x}", file.crc32c)}};
  }
  return object;
}

std::vector<FileSum> files_from_json(const ordered_json& object, const std::string& where) {
  if (!object.is_object()) fail("{}: files must be an object", where);
  std::vector<FileSum> files;
  for (const auto& [name, sum] : object.items()) {
    const auto bytes = whole_number(sum, "bytes", 0, int64_t{1} << 60, where);
    const auto text = sum.at("crc32c").get<std::string>();
    uint32_t crc = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), crc, 16);
    if (error != std::errc{} || fmt::format("{:08x}", crc) != text) {
      fail("{}: the crc32c of {} is not eight hex digits", where, name);
    }
    files.push_back({name, uint64_t(bytes), crc});
  }
  return files;
}

constexpr const char* kTrainerState = "trainer_state.json";

// Eight hex digits.
std::string sum_of_text(const ordered_json& root) {
  const std::string text = to_text(root, 2);
  return fmt::format("{:08x}", crc32c(std::as_bytes(std::span(text))));
}

// Checksums are compared of files up to that size.
void verify(const Path& checkpoint, uint64_t most_bytes, bool moments) {
  if (!std::filesystem::exists(checkpoint / kTrainerState)) return;
  for (const FileSum& wanted : read_trainer_state(checkpoint).files) {
    if (!moments && wanted.name == kOptimizerFile) continue;
    const Path path = checkpoint / wanted.name;
    const uint64_t size = File::open_read(path).size_bytes();
    if (size == wanted.bytes && (size > most_bytes || sum_of_file(path) == wanted)) continue;
    fail(
        "{}: its {} bytes are not the {} bytes with the checksum that trainer_state.json has of "
        "them: file or disk are damaged, or it was changed; if that is right, take its entry out "
        "of trainer_state.json",
        path.string(), size, wanted.bytes);
  }
}

// Calls use(line, row) for each line of metrics.jsonl that is whole, up to that step.
template <class Use>
void for_each_line(const Path& out_dir, int64_t last_step, const Use& use) {
  const Path path = out_dir / "metrics.jsonl";
  if (last_step == 0 || !std::filesystem::exists(path)) return;
  std::istringstream lines(read_text(path));
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with(' ')) line += '}';
    const auto row = parse_json_or_null<nlohmann::json>(line);
    if (!row.is_object() || !row.contains("step")) continue;
    const auto& step = row["step"];
    if (step.is_number_unsigned() && step.get<uint64_t>() <= uint64_t(last_step)) use(line, row);
  }
}

// Infinities are null in JSON.
double number_in(const nlohmann::json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_number() ? found->get<double>()
                                                  : std::numeric_limits<double>::infinity();
}

// Of the config: others say how a run is made, or what else it does.
constexpr const char* kDecideLearning[] = {"dataset",      "batch_size",    "sequence_length",
                                           "num_steps",    "learning_rate", "warmup_steps",
                                           "decay_steps",  "decay_from",    "lr_decay",
                                           "min_lr",       "optimizer",     "beta1",
                                           "beta2",        "muon_momentum", "adam_epsilon",
                                           "weight_decay", "clip",          "max_gradient_norm",
                                           "dropout",      "seed",          "state",
                                           "on_spike"};

}  // namespace

std::string find_text(const TextPairs& pairs, const std::string& key) {
  const auto found = std::ranges::find(pairs, key, [](const auto& pair) { return pair.first; });
  return found == pairs.end() ? "" : found->second;
}

FileSum sum_of_file(const Path& path) {
  const File file = File::open_read(path);
  const uint64_t size = file.size_bytes();
  return {path.filename(), size, crc32c(file, 0, size)};
}

std::string differences(const TrainerState& was, const TextPairs& config, const std::string& data) {
  std::vector<std::string> texts;
  for (const char* key : kDecideLearning) {
    const std::string before = find_text(was.config, key), now = find_text(config, key);
    if (before.empty() || now.empty() || before == now) continue;
    texts.push_back(fmt::format("{} {} (was {})", key, now, before));
  }
  const bool same_name = find_text(was.config, "dataset") == find_text(config, "dataset");
  const std::string before = find_text(was.manifest, "data");
  if (same_name && !before.empty() && !data.empty() && before != data)
    texts.push_back(fmt::format("train.bin {} (was {})", data, before));
  return fmt::format("{}", fmt::join(texts, ", "));
}

void write_trainer_state(const Path& directory, TrainerState state) {
  std::map<std::string, Path> others;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    others[entry.path().filename()] = entry.path();
  for (const FileSum& file : state.files) others.erase(file.name);
  others.erase(kTrainerState);
  for (const auto& [name, path] : others) state.files.push_back(sum_of_file(path));
  ordered_json root = {{"global_step", state.step},
                       {"tokens", state.tokens},
                       {"config", to_json(state.config)},
                       {"manifest", to_json(state.manifest)}};
  if (!state.files.empty()) root["files"] = to_json(state.files);
  root["crc32c"] = sum_of_text(root);
  write_text_atomically(directory / kTrainerState, to_text(root, 2) + "\n");
}

TrainerState read_trainer_state(const Path& directory) {
  const Path path = directory / kTrainerState;
  try {
    auto root = parse_json<ordered_json>(read_text(path), path.string());
    if (root.is_object() && root.contains("crc32c")) {
      const std::string sum = root["crc32c"].get<std::string>();
      root.erase("crc32c");
      if (sum != sum_of_text(root)) {
        fail(
            "{}: it is not as it was written: damaged, or if it was changed on purpose, take out "
            "its key crc32c",
            path.string());
      }
    }
    const int64_t most = int64_t{1} << 60;
    return {whole_number(root, "global_step", 0, most, path.string()),
            whole_number(root, "tokens", 0, most, path.string()),
            from_json(root.at("config"), path.string()),
            from_json(root.at("manifest"), path.string()),
            root.contains("files") ? files_from_json(root.at("files"), path.string())
                                   : std::vector<FileSum>{}};
  } catch (const ordered_json::exception& error) {
    fail("{}: {}", path.string(), error.what());
  }
}

void for_each_logged(const Path& out_dir, int64_t last_step,
                     const std::function<void(const StepMetrics&)>& use) {
  for_each_line(out_dir, last_step, [&](const std::string&, const nlohmann::json& row) {
    StepMetrics metrics{.step = row["step"].get<int64_t>(),
                        .loss = number_in(row, "loss"),
                        .grad_norm = number_in(row, "grad_norm")};
    if (row.contains("tokens")) metrics.tokens = int64_t(number_in(row, "tokens"));
    if (row.contains("step_ms")) metrics.step_ms = number_in(row, "step_ms");
    if (row.contains("val_loss")) metrics.val_loss = number_in(row, "val_loss");
    use(metrics);
  });
}

int64_t last_logged_step(const Path& out_dir) {
  int64_t last = 0;
  for_each_logged(out_dir, std::numeric_limits<int64_t>::max(),
                  [&](const StepMetrics& row) { last = row.step; });
  return last;
}

void verify_files(const Path& checkpoint, bool moments) {
  verify(checkpoint, std::numeric_limits<uint64_t>::max(), moments);
}

void verify_quickly(const Path& checkpoint) {
  verify(checkpoint, uint64_t{16} << 20, /*moments=*/true);
}

MetricsLog::MetricsLog(const Path& out_dir, int64_t completed_steps, const TextPairs& config,
                       bool writes, Warn warn)
    : board_directory_(out_dir / "tensorboard"), warn_(std::move(warn)) {
  if (!writes) return;
  const Path path = out_dir / "metrics.jsonl";
  std::string kept;
  for_each_line(out_dir, completed_steps,
                [&](const std::string& line, const auto&) { kept += line + "\n"; });
  write_text_atomically(path, kept);
  file_.emplace(File::open_append(path));
  attempt([&] {
    board_.emplace(board_directory_, completed_steps);
    board_->write_text(completed_steps + 1, "config", markdown_table(config));
  });
}

template <class Write>
bool MetricsLog::attempt(const Write& write) {
  try {
    write();
    return true;
  } catch (const Error& error) {
    if (warn_ && !std::exchange(warned_, true)) {
      warn_(fmt::format("note: {}; the run goes on, and its log has a gap", error.what()));
    }
    return false;
  }
}

void MetricsLog::sync() {
  if (!file_) return;
  attempt([&] {
    file_->sync();
    if (board_) board_->sync();
  });
}

void MetricsLog::write_line(const std::string& text) {
  cut_ = !attempt([&] { file_->write(cut_ ? "\n" + text : text); });
}

// A file of events that was cut short cannot be read beyond that: a new one goes on.
void MetricsLog::write_events(const std::vector<Scalar>& scalars) {
  const bool written = attempt([&] {
    if (!board_) board_.emplace(board_directory_, step_ - 1);
    board_->write(step_, scalars);
  });
  if (!written) board_.reset();
}

void MetricsLog::begin(const StepMetrics& m) {
  if (!file_) return;
  ordered_json row = {{"step", m.step},
                      {"tokens", m.tokens},
                      {"loss", m.loss},
                      {"grad_norm", m.grad_norm},
                      {"lr", m.lr},
                      {"epoch", m.epoch},
                      {"tokens_per_s", m.tokens_per_s},
                      {"mfu", m.mfu},
                      {"step_ms", m.step_ms},
                      {"rss_gb", m.rss_gb},
                      {"read_bytes", m.io.read_bytes},
                      {"write_bytes", m.io.write_bytes},
                      {"sent_bytes", m.io.sent_bytes},
                      {"stall_ms", m.io.stall_ms}};
  std::vector<Scalar> scalars = {{"train/loss", m.loss},
                                 {"train/grad_norm", m.grad_norm},
                                 {"train/lr", m.lr},
                                 {"train/tokens_per_s", m.tokens_per_s},
                                 {"train/mfu", m.mfu}};
  if (m.expected_loss) {
    row["expected_loss"] = *m.expected_loss;
    scalars.push_back({"train/expected_loss", *m.expected_loss});
  }
  for (const auto& [name, loss] : m.added_losses) {
    row[name] = loss;
    scalars.push_back({"train/" + name, loss});
  }
  std::string text = to_text(row);
  text.back() = ' ';  // in place of the brace: no number is cut short
  write_line(text);
  step_ = m.step;
  write_events(scalars);
}

void MetricsLog::end(std::optional<double> val_loss) {
  if (!file_) return;
  if (!cut_) {
    write_line(val_loss ? to_text(ordered_json{{"val_loss", *val_loss}}).replace(0, 1, ",") + "\n"
                        : "}\n");
  }
  if (val_loss) write_events({{"val/loss", *val_loss}});
}

}  // namespace gigagpt::formats
