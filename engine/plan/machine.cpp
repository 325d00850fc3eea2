#include "engine/plan/machine.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "base/system.h"
#include "formats/json.h"

namespace gigagpt::engine {

using Json = nlohmann::ordered_json;

DiskRates Machine::disk_of(const Path& path) const {
  const auto found = disks.find(disk_name(path));
  return found == disks.end() ? DiskRates() : found->second;
}

Machine Machine::shared_by(int64_t systems) const {
  const double share = 1 / double(systems);
  Machine part = *this;
  part.cores = std::max(1, int(cores / systems));
  part.bf16_flops *= share, part.fp32_flops *= share, part.memory_bytes_per_s *= share;
  for (auto& [_, disk] : part.disks) disk.read *= share, disk.write *= share, disk.mixed *= share;
  return part;
}

bool Machine::is_current_host() const {
  return cpu == cpu_name() && cores == core_count();
}

namespace {

// Makes the folder for this user's files alone, or finds it made so.
bool is_own_folder(const Path& folder) {
  struct stat status {};
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return false;
  return ::lstat(folder.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
         status.st_uid == ::geteuid();
}

bool is_writable(const Path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  return !error && ::access(folder.c_str(), W_OK) == 0;
}

}  // namespace

Path machine_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  Path folder;
  if (cache != nullptr && *cache != '\0')
    folder = Path(cache) / "gigagpt";
  else if (home != nullptr && *home != '\0')
    folder = Path(home) / ".cache" / "gigagpt";
  if (!folder.empty() && is_writable(folder)) return folder / "machine.json";
  std::error_code error;
  const Path shared = std::filesystem::temp_directory_path(error);
  folder = shared / fmt::format("gigagpt-{}", ::geteuid());
  return !error && is_own_folder(folder) ? folder / "machine.json" : Path();
}

// A cache: what cannot be read is measured again.
std::optional<Machine> read_machine() try {
  const Path path = machine_file();
  if (path.empty() || !std::filesystem::exists(path)) return std::nullopt;
  const Json json = formats::parse_json<Json>(read_text(path), path.string());
  Machine machine{json.at("cpu"),
                  json.at("cores"),
                  json.at("native_bf16"),
                  json.at("bf16_flops"),
                  json.at("fp32_flops"),
                  json.at("memory_bytes_per_s"),
                  {},
                  json.value("others_share", 0.0),
                  json.value("program_bytes", 0.0)};
  for (const auto& [name, disk] : json.at("disks").items()) {
    machine.disks[name] = {disk.at("read_bytes_per_s"), disk.at("write_bytes_per_s"),
                           disk.at("mixed_bytes_per_s")};
    const DiskRates& rates = machine.disks[name];
    if (std::min({rates.read, rates.write, rates.mixed}) < 0) return std::nullopt;
  }
  const bool sensible = machine.cores > 0 && machine.bf16_flops > 0 && machine.fp32_flops > 0 &&
                        machine.memory_bytes_per_s > 0 && machine.program_bytes >= 0 &&
                        machine.program_bytes < 4e9;
  return sensible ? std::optional(machine) : std::nullopt;
} catch (const std::exception&) {
  return std::nullopt;
}

bool machine_is_known(const Path& path) {
  const auto machine = read_machine();
  return machine && machine->is_current_host() && machine->disk_of(path).mixed > 0;
}

void write_machine(const Machine& machine) try {
  const Path path = machine_file();
  if (path.empty()) return;
  Json disks = Json::object();
  for (const auto& [name, rates] : machine.disks) {
    disks[name] = {{"read_bytes_per_s", rates.read},
                   {"write_bytes_per_s", rates.write},
                   {"mixed_bytes_per_s", rates.mixed}};
  }
  const Json json{{"cpu", machine.cpu},
                  {"cores", machine.cores},
                  {"native_bf16", machine.native_bf16},
                  {"bf16_flops", machine.bf16_flops},
                  {"fp32_flops", machine.fp32_flops},
                  {"memory_bytes_per_s", machine.memory_bytes_per_s},
                  {"disks", disks},
                  {"others_share", machine.others_share},
                  {"program_bytes", machine.program_bytes}};
  write_text_atomically(path, formats::to_text(json, 2) + "\n");
} catch (const std::exception&) {
  // It is measured again the next time.
}

}  // namespace gigagpt::engine
