#include "engine/run/run_directory.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/lock.h"

namespace gigagpt::engine {
namespace {
namespace fs = std::filesystem;

constexpr const char* kBest = "best";
constexpr std::string_view kCheckpoint = "checkpoint_";
constexpr std::string_view kScratch = ".scratch-";
constexpr std::string_view kStore = ".store";

// A number in decimal as this program writes it, without signs or zeros before it.
std::optional<int64_t> number_of(std::string_view text) {
  int64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || number < 0 || std::to_string(number) != text) return std::nullopt;
  return number;
}

std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kCheckpoint)) return std::nullopt;
  return number_of(name.substr(kCheckpoint.size()));
}

bool is_scratch(std::string_view name) {
  if (!name.starts_with(kScratch) || !name.ends_with(kStore)) return false;
  name.remove_prefix(kScratch.size());
  return number_of(name.substr(0, name.size() - kStore.size())).has_value();
}

void remove_scratch(const Path& directory) {
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(directory, missing)) {
    if (is_scratch(entry.path().filename().native())) remove_if_unlocked(entry.path());
  }
}

}  // namespace

std::vector<int64_t> checkpoint_steps(const Path& out_dir) {
  std::vector<int64_t> steps;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(out_dir, missing)) {
    if (const auto step = step_of(entry.path().filename().native())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

Path checkpoint_directory(const Path& out_dir, int64_t step) {
  return out_dir / fmt::format("{}{}", kCheckpoint, step);
}

void remove_leftovers(const Path& out_dir) {
  remove_partial_directories(out_dir,
                             [](const std::string& name) { return step_of(name).has_value(); });
  remove_scratch(out_dir);
  for (const int64_t step : checkpoint_steps(out_dir)) {
    remove_scratch(checkpoint_directory(out_dir, step));
  }
  remove_if_unlocked(temporary_path(out_dir / "metrics.jsonl"));
}

void link_best(const Path& checkpoint) {
  const Path link = checkpoint.parent_path() / kBest;
  const Path temporary = temporary_path(link);
  std::error_code error;
  std::filesystem::remove(temporary, error);
  std::filesystem::create_directory_symlink(checkpoint.filename(), temporary, error);
  if (!error) std::filesystem::rename(temporary, link, error);
  if (error) fail("cannot make the link {}: {}", link.string(), error.message());
}

void remove_older_checkpoints(const Path& out_dir, size_t keep) {
  const auto steps = checkpoint_steps(out_dir);
  std::error_code missing;
  const Path best = std::filesystem::read_symlink(out_dir / kBest, missing);
  for (size_t i = 0; keep > 0 && i + keep < steps.size(); ++i) {
    const Path directory = checkpoint_directory(out_dir, steps[i]);
    if (directory.filename() != best) remove_directory(directory);
  }
}

}  // namespace gigagpt::engine
