#include "base/system.h"

#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <thread>

namespace gigagpt {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name"))
      return line.substr(std::min(line.find(": ") + 2, line.size()));
  }
  return "unknown CPU";
}

int core_count() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

double peak_rss_gb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e9;
}

void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

double available_memory_gb() {
  double available_gb = std::numeric_limits<double>::infinity();
  std::ifstream info("/proc/meminfo");
  for (std::string key, unit; info >> key;) {
    double value_kb = 0;
    info >> value_kb;
    std::getline(info, unit);
    if (key == "MemAvailable:") available_gb = value_kb * 1024 / 1e9;
  }
  double limit_bytes = 0, used_bytes = 0;
  const bool limited = std::ifstream("/sys/fs/cgroup/memory.max") >> limit_bytes &&
                       std::ifstream("/sys/fs/cgroup/memory.current") >> used_bytes;
  return limited ? std::min(available_gb, (limit_bytes - used_bytes) / 1e9) : available_gb;
}

}  // namespace gigagpt
