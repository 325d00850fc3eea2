#include "base/energy.h"

#include <fstream>

namespace gigagpt {
namespace {

std::optional<double> number_in(const Path& file) {
  double number = 0;
  std::ifstream in(file);
  return in >> number ? std::optional(number) : std::nullopt;
}

}  // namespace

EnergyMeter::EnergyMeter(const Path& root) {
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(root, none)) {
    // Of the zones "intel-rapl:0", "intel-rapl:0:1" and so on: packages, whose cores are in them,
    // and memory, which is not. "psys" has all of it once more, and "intel-rapl-mmio" the packages.
    std::string name;
    if (!entry.path().filename().string().starts_with("intel-rapl:")) continue;
    std::ifstream(entry.path() / "name") >> name;
    if (!name.starts_with("package") && name != "dram") continue;
    const auto now = number_in(entry.path() / "energy_uj"),
               range = number_in(entry.path() / "max_energy_range_uj");
    if (now && range) counters_.push_back({entry.path() / "energy_uj", *now, *range});
  }
}

std::optional<double> EnergyMeter::joules() {
  for (Counter& counter : counters_) {
    const auto now = number_in(counter.file);
    if (!now) return std::nullopt;
    const double passed = *now - counter.last_uj;
    joules_ += (passed < 0 ? passed + counter.range_uj : passed) / 1e6;
    counter.last_uj = *now;
  }
  return counters_.empty() ? std::nullopt : std::optional(joules_);
}

}  // namespace gigagpt
