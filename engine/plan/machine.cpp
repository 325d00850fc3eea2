#include "engine/plan/machine.h"

#include <algorithm>
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

Path machine_file() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return Path(cache) / "gigagpt" / "machine.json";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return Path(home) / ".cache" / "gigagpt" / "machine.json";
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
                  {}};
  for (const auto& [name, disk] : json.at("disks").items()) {
    machine.disks[name] = {disk.at("read_bytes_per_s"), disk.at("write_bytes_per_s"),
                           disk.at("mixed_bytes_per_s")};
    const DiskRates& rates = machine.disks[name];
    if (std::min({rates.read, rates.write, rates.mixed}) < 0) return std::nullopt;
  }
  const bool sensible = machine.cores > 0 && machine.bf16_flops > 0 && machine.fp32_flops > 0 &&
                        machine.memory_bytes_per_s > 0;
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
  std::filesystem::create_directories(path.parent_path());
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
                  {"disks", disks}};
  write_text_atomically(path, formats::to_text(json, 2) + "\n");
} catch (const std::exception&) {
  // It is measured again the next time.
}

}  // namespace gigagpt::engine
