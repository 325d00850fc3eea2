#include "base/control_groups.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace gigagpt {
namespace {

// A hierarchy of groups, as it is mounted.
struct Mount {
  std::string controllers;  // of version 1, with commas around each; "" is version 2
  Path group;               // the group that is seen at `directory`
  Path directory;
};

// Lines are: id parent device root mount-point options [tags] - type source options.
std::vector<Mount> read_mounts(const Path& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line), after(line.substr(dash + 3));
    std::string word, group, directory, type, source, options;
    before >> word >> word >> word >> group >> directory;
    after >> type >> source >> options;
    if (type != "cgroup" && type != "cgroup2") continue;
    mounts.push_back({type == "cgroup2" ? "" : "," + options + ",", group,
                      root / Path(directory).relative_path()});
  }
  return mounts;
}

// The group of this process in the hierarchy that has the controller. Lines are:
// id:controllers:group; version 2 has no controllers there.
std::optional<Path> find_group(const Path& root, const Mount& mount,
                               const std::string& controller) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool version_2 = controllers == ",,";
    const bool matches = mount.controllers.empty()
                             ? version_2
                             : controllers.find("," + controller + ",") != std::string::npos;
    if (matches) return line.substr(second + 1);
  }
  return std::nullopt;
}

// The directories of this process's group and of those above it, as far as they are mounted.
std::vector<Path> group_directories(const Path& root, const Mount& mount,
                                    const std::string& controller) {
  std::vector<Path> directories = {mount.directory};
  const auto group = find_group(root, mount, controller);
  if (!group) return {};
  // In a container the mount may begin at the container's own group.
  const Path below = group->lexically_relative(mount.group);
  for (const Path& name : below.empty() ? group->relative_path() : below) {
    const Path next = directories.back() / name;
    std::error_code missing;
    if (name == ".." || !std::filesystem::is_directory(next, missing)) break;
    if (name != ".") directories.push_back(next);
  }
  return directories;
}

std::optional<double> read_number(const Path& file) {
  std::ifstream stream(file);
  double number = 0;
  return stream >> number ? std::optional(number) : std::nullopt;  // "max" is none
}

// The sum of some rows of a file like memory.stat.
double sum_rows(const Path& file, const std::vector<std::string>& names) {
  std::ifstream stream(file);
  double sum = 0, value = 0;
  for (std::string name; stream >> name >> value;) {
    if (std::find(names.begin(), names.end(), name) != names.end()) sum += value;
  }
  return sum;
}

void take_least(double& least, std::optional<double> limit, double used) {
  if (limit && *limit >= 0) least = std::min(least, std::max(0.0, *limit - used));
}

void limit_memory(const Path& group, bool version_2, double& bytes) {
  const auto used = read_number(group / (version_2 ? "memory.current" : "memory.usage_in_bytes"));
  if (!used) return;
  const double cached =
      version_2 ? sum_rows(group / "memory.stat", {"active_file", "inactive_file"})
                : sum_rows(group / "memory.stat", {"total_active_file", "total_inactive_file"});
  const double taken = std::max(0.0, *used - cached);
  if (version_2) {
    take_least(bytes, read_number(group / "memory.max"), taken);
    take_least(bytes, read_number(group / "memory.high"), taken);
  } else {
    take_least(bytes, read_number(group / "memory.limit_in_bytes"), taken);
  }
}

void limit_cores(const Path& group, bool version_2, double& cores) {
  double quota = 0, period = 0;
  if (version_2) {
    std::ifstream stream(group / "cpu.max");
    if (!(stream >> quota >> period)) return;  // "max 100000"
  } else {
    quota = read_number(group / "cpu.cfs_quota_us").value_or(-1);
    period = read_number(group / "cpu.cfs_period_us").value_or(0);
  }
  if (quota > 0 && period > 0) cores = std::min(cores, quota / period);
}

}  // namespace

GroupLimits read_group_limits(const Path& root) {
  GroupLimits limits;
  for (const Mount& mount : read_mounts(root)) {
    const bool version_2 = mount.controllers.empty();
    const auto for_each_group = [&](const std::string& controller, auto read) {
      if (!version_2 && mount.controllers.find("," + controller + ",") == std::string::npos) return;
      for (const Path& group : group_directories(root, mount, controller)) read(group);
    };
    for_each_group("memory",
                   [&](const Path& group) { limit_memory(group, version_2, limits.memory_bytes); });
    for_each_group("cpu", [&](const Path& group) { limit_cores(group, version_2, limits.cores); });
    for_each_group("pids", [&](const Path& group) {
      take_least(limits.threads, read_number(group / "pids.max"),
                 read_number(group / "pids.current").value_or(0));
    });
  }
  return limits;
}

}  // namespace gigagpt
