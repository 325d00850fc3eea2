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

// How busy other programs keep the CPUs this process may run on, from its construction on. What the
// host takes from a virtual machine counts, too.
class OthersLoad {
 public:
  OthersLoad();
  double share() const;  // 0 to 1 of the CPUs' time; 0 if the system does not tell

 private:
  double busy_s_ = 0, own_s_ = 0;
  Stopwatch watch_;
};

std::string cpu_name();  // as /proc/cpuinfo has it
// Threads that computing is worth: the CPUs this process may run on, no more than the CPU time that
// control groups leave it, nor than OMP_NUM_THREADS.
int core_count();
// Throws Error, naming what limits them, if this process may not start so many threads more.
void check_threads(int threads);
std::string host_name();
std::string boot_id();  // the same for all processes of a machine; "" if the system tells none
// What a process may still take, in 1e9 bytes: of the machine's memory, and of its control groups'.
double available_memory_gb();
// Has malloc keep large buffers for their next use instead of giving them back to the system.
void keep_freed_memory();
double peak_rss_gb();  // the most memory this process has held, in 1e9 bytes
double rss_gb();       // that it holds now; 0 if the system does not tell

}  // namespace gigagpt
