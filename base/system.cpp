#include "base/system.h"

#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <latch>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#include "base/control_groups.h"
#include "base/error.h"

namespace gigagpt {
namespace {

cpu_set_t allowed_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof(allowed), &allowed);  // more CPUs than it holds: none
  return allowed;
}

// Time the allowed CPUs were not idle, since the machine started.
double busy_s() {
  const cpu_set_t allowed = allowed_cpus();
  std::ifstream file("/proc/stat");
  double ticks = 0;
  for (std::string line; std::getline(file, line);) {
    int cpu = 0;
    double user = 0, nice = 0, system = 0, idle = 0, wait = 0, hard = 0, soft = 0, steal = 0;
    if (std::sscanf(line.c_str(), "cpu%d %lf %lf %lf %lf %lf %lf %lf %lf", &cpu, &user, &nice,
                    &system, &idle, &wait, &hard, &soft, &steal) != 9)
      continue;
    if (CPU_ISSET(cpu, &allowed)) ticks += user + nice + system + hard + soft + steal;
  }
  return ticks / double(sysconf(_SC_CLK_TCK));
}

double own_s() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

OthersLoad::OthersLoad() : busy_s_(busy_s()), own_s_(own_s()) {}

double OthersLoad::share() const {
  const cpu_set_t allowed = allowed_cpus();
  const double all_s = watch_.seconds() * std::max(1, CPU_COUNT(&allowed));
  const double others_s = (busy_s() - busy_s_) - (own_s() - own_s_);
  return std::clamp(others_s / all_s, 0.0, 1.0);
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name"))
      return line.substr(std::min(line.find(": ") + 2, line.size()));
  }
  return "unknown CPU";
}

int core_count() {
  const cpu_set_t allowed = allowed_cpus();
  int cores = CPU_COUNT(&allowed);
  if (cores == 0) cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  // Part of a core is worth a thread: what it cannot compute the others do.
  const double quota = std::ceil(read_group_limits().cores);
  if (quota < cores) cores = std::max(1, static_cast<int>(quota));
  const char* wanted = std::getenv("OMP_NUM_THREADS");  // "4", or a list by depth of nesting
  const int threads = wanted ? std::atoi(wanted) : 0;
  return threads > 0 ? std::min(threads, cores) : cores;
}

// OpenMP ends the process, and others wait for ever, where a thread is refused in the middle of
// work. So all are started once before it begins.
void check_threads(int threads) {
  std::vector<std::thread> started;
  std::latch end(1);
  std::string refusal;
  try {
    for (int i = 0; i < threads; ++i) started.emplace_back([&] { end.wait(); });
  } catch (const std::system_error& error) {
    refusal = error.what();
  }
  end.count_down();
  for (std::thread& thread : started) thread.join();
  if (refusal.empty()) return;
  rlimit user{}, addresses{};
  getrlimit(RLIMIT_NPROC, &user);
  getrlimit(RLIMIT_AS, &addresses);
  const double group = read_group_limits().threads;
  std::string limits;
  if (user.rlim_cur != RLIM_INFINITY) limits += fmt::format("; ulimit -u is {}", user.rlim_cur);
  if (addresses.rlim_cur != RLIM_INFINITY)
    limits += fmt::format("; ulimit -v is {}", addresses.rlim_cur / 1024);
  if (std::isfinite(group)) limits += fmt::format("; the control group allows {:.0f} more", group);
  fail("threads: this process may start {} threads, but {} are needed ({}){}", started.size(),
       threads, refusal, limits);
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

double rss_gb() {
  double all_pages = 0, pages = 0;
  std::ifstream("/proc/self/statm") >> all_pages >> pages;
  return pages * double(::sysconf(_SC_PAGESIZE)) / 1e9;
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
  return std::min(available_gb, read_group_limits().memory_bytes / 1e9);
}

}  // namespace gigagpt
