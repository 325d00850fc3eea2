#include "cli/systems.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <sstream>

#include "base/error.h"
#include "cli/arguments.h"
#include "cli/launch.h"
#include "cli/run_settings.h"
#include "engine/run/measure.h"
#include "formats/dataset.h"

namespace gigagpt::cli {
namespace {

// Ends this process, and with it all others, after the message of the first who comes.
[[noreturn]] void end_process(const std::string& message) {
  static std::atomic_flag ending;
  while (ending.test_and_set()) ::pause();
  if (!message.empty()) say(message);
  ::_exit(1);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string config_text(GPTConfig& config) {
  std::string text;
  for (const auto& [key, value] : option_texts(config.options())) {
    text += fmt::format("{}: {}\n", key, value);
  }
  return text;
}

// The config of the system that leads, on each.
std::vector<Setting> leaders_settings(engine::Cluster& cluster, GPTConfig& config) {
  std::vector<Setting> settings;
  for (const std::string& line : lines_of(cluster.gather_texts(config_text(config))[0])) {
    const size_t colon = line.find(": ");
    settings.push_back({line.substr(0, colon), line.substr(colon + 2), cluster.name_of(0)});
  }
  return settings;
}

}  // namespace

std::unique_ptr<engine::Cluster> join_systems(const GPTConfig& config) {
  if (config.num_systems == 1) return std::make_unique<engine::Cluster>();
  auto cluster = std::make_unique<engine::Cluster>(
      engine::make_mpi_wire, 60 * config.systems.system_timeout_minutes, end_process);
  GIGAGPT_ASSERT(cluster->systems() == config.num_systems);
  return cluster;
}

void check_alike(engine::Cluster& cluster, GPTConfig& config, const std::string& split) {
  const auto folder = cluster.together([&] { return formats::find_dataset(config.dataset); });
  if (cluster.is_alone()) return;  // data sets may be large
  const std::string mine = cluster.together([&] {
    const bool compact = config.storage.state == "compact";
    return fmt::format("version: {}\n{}precision in use: {}\n{}.bin: {}\n", program_version(),
                       config_text(config),
                       engine::precision_name(engine::choose_precision(config.precision, compact)),
                       split, formats::fingerprint(folder / (split + ".bin")));
  });
  const auto all = cluster.gather_texts(mine);
  const auto first = lines_of(all[0]);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    const auto lines = lines_of(all[rank]);
    const size_t common = std::min(lines.size(), first.size());
    for (size_t i = 0; i < common; ++i) {
      if (lines[i] == first[i]) continue;
      throw engine::AgreedError(fmt::format("{} disagrees: it has {}, but {} has {}",
                                            cluster.name_of(int(rank)), lines[i],
                                            cluster.name_of(0), first[i]));
    }
  }
}

void share_config(engine::Cluster& cluster, GPTConfig& config) {
  apply_settings(leaders_settings(cluster, config), config);
}

void share_model(engine::Cluster& cluster, const std::vector<Setting>& settings,
                 GPTConfig& config) {
  GPTConfig leaders;
  apply_settings(leaders_settings(cluster, config), leaders);
  cluster.together([&] { adopt_model(leaders, cluster.name_of(0), settings, config); });
}

}  // namespace gigagpt::cli
