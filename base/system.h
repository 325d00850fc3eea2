// What this machine and process are.
#pragma once

#include <chrono>
#include <string>

namespace gigagpt {

// Runs from its construction.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

std::string cpu_name();  // as /proc/cpuinfo has it
int core_count();        // CPUs this process may run on
std::string host_name();
std::string boot_id();  // the same for all processes of a machine; "" if the system tells none
// What a process may still take, in 1e9 bytes: of the machine's memory, and of its control group's.
double available_memory_gb();
// Has malloc keep large buffers for their next use instead of giving them back to the system.
void keep_freed_memory();
double peak_rss_gb();  // the most memory this process has held, in 1e9 bytes

}  // namespace gigagpt
