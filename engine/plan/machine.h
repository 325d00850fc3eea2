// What a machine can do, as a plan counts with it, measured once and kept in the user's cache.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/disk_rate.h"
#include "engine/state/layout.h"

namespace gigagpt::engine {

// Of the CPUs' time; rates that were measured while others took more are not worth much.
inline constexpr double kBusyShare = 0.2;

struct Machine {
  std::string cpu;
  int cores = 0;
  bool native_bf16 = false;
  double bf16_flops = 0, fp32_flops = 0;   // a second, of large matrix products on all cores
  double memory_bytes_per_s = 0;           // read and written by all cores together
  std::map<std::string, DiskRates> disks;  // by disk_name()
  double others_share = 0;   // of the CPUs' time, that other programs took while it was measured
  double program_bytes = 0;  // that a process takes beside its arrays; 0: not known

  double flops(Precision precision) const {
    return precision == Precision::kBf16 ? bf16_flops : fp32_flops;
  }
  // Of the disk that the path would be on; zeros if that was not measured.
  DiskRates disk_of(const Path& path) const;
  // What each of several systems has that share this machine.
  Machine shared_by(int64_t systems) const;
  // Whether it was measured on a machine like this one.
  bool is_current_host() const;
};

// $XDG_CACHE_HOME/gigagpt/machine.json, else below ~/.cache; where neither can be written, in a
// folder of this user's in the directory for temporary files. Empty if there is none of them.
Path machine_file();

// What is kept there; nothing if there is none, or nothing that makes sense.
std::optional<Machine> read_machine();
// Whether that is this machine's, with the disk that the path would be on.
bool machine_is_known(const Path& path);
void write_machine(const Machine& machine);  // nothing happens if there is no place for it

}  // namespace gigagpt::engine
