#include "base/control_groups.h"

#include <gtest/gtest.h>

#include "base/system.h"
#include "base/testing.h"

namespace gigagpt {
namespace {

constexpr double kNone = std::numeric_limits<double>::infinity();

// Files as the kernel shows them, below a folder.
class ControlGroups : public testing::Test {
 protected:
  void mount(const std::string& type, const std::string& at, const std::string& options,
             const std::string& group = "/") {
    mounts_ += "31 23 0:28 " + group + " " + at + " rw,nosuid shared:9 - " + type + " cgroup " +
               options + "\n";
    write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts_);
  }
  void write(const std::string& name, const std::string& text) const { folder_.write(name, text); }
  GroupLimits limits() const { return read_group_limits(folder_.path()); }

  TemporaryDirectory folder_;
  std::string mounts_;
};

TEST_F(ControlGroups, ThatAreNotThereLimitNothing) {
  EXPECT_EQ(limits().memory_bytes, kNone);
  EXPECT_EQ(limits().cores, kNone);
  EXPECT_EQ(limits().threads, kNone);
}

TEST_F(ControlGroups, OfVersion2LimitAtAnyDepth) {
  mount("cgroup2", "/sys/fs/cgroup", "rw");
  write("proc/self/cgroup", "0::/user.slice/user-1000.slice/run.scope\n");
  write("sys/fs/cgroup/memory.stat", "anon 5\n");  // the root has no limits
  write("sys/fs/cgroup/user.slice/memory.max", "8000\n");
  write("sys/fs/cgroup/user.slice/memory.current", "5000\n");
  write("sys/fs/cgroup/user.slice/memory.stat",
        "anon 1000\nfile 4000\ninactive_file 3000\nactive_file 500\n");
  write("sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n");
  write("sys/fs/cgroup/user.slice/user-1000.slice/memory.max", "max\n");
  write("sys/fs/cgroup/user.slice/user-1000.slice/memory.current", "5000\n");
  write("sys/fs/cgroup/user.slice/user-1000.slice/pids.max", "100\n");
  write("sys/fs/cgroup/user.slice/user-1000.slice/pids.current", "40\n");
  write("sys/fs/cgroup/user.slice/user-1000.slice/run.scope/cpu.max", "max 100000\n");
  EXPECT_EQ(limits().memory_bytes, 8000 - 1500);  // the page cache gives way
  EXPECT_EQ(limits().cores, 1.5);
  EXPECT_EQ(limits().threads, 60);
  write("sys/fs/cgroup/user.slice/user-1000.slice/run.scope/memory.high", "2000\n");
  write("sys/fs/cgroup/user.slice/user-1000.slice/run.scope/memory.current", "2500\n");
  EXPECT_EQ(limits().memory_bytes, 0);
}

TEST_F(ControlGroups, OfVersion1LimitAtAnyDepth) {
  mount("cgroup", "/sys/fs/cgroup/memory", "rw,memory");
  mount("cgroup", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct");
  mount("cgroup2", "/sys/fs/cgroup/unified", "rw");
  write("proc/self/cgroup", "5:memory:/jobs/7\n4:cpu,cpuacct:/jobs/7\n3:cpuset:/x\n0::/\n");
  const std::string memory = "sys/fs/cgroup/memory/jobs/";
  write(memory + "memory.limit_in_bytes", "3000\n");
  write(memory + "memory.usage_in_bytes", "2900\n");
  write(memory + "memory.stat", "cache 7\ntotal_inactive_file 1900\ntotal_active_file 500\n");
  write(memory + "7/memory.limit_in_bytes", "9223372036854771712\n");
  write(memory + "7/memory.usage_in_bytes", "100\n");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu,cpuacct/jobs/7/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(limits().memory_bytes, 3000 - 500);
  EXPECT_EQ(limits().cores, 0.5);
  EXPECT_EQ(limits().threads, kNone);
}

TEST_F(ControlGroups, OfAContainerAreWhereTheMountBegins) {
  // Docker shows the container's own group at the mount point, but names it as the host does.
  mount("cgroup", "/sys/fs/cgroup/memory", "rw,memory", "/docker/abc");
  write("proc/self/cgroup", "5:memory:/docker/abc\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "700\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "100\n");
  EXPECT_EQ(limits().memory_bytes, 600);
  write("proc/self/cgroup", "5:memory:/docker/abc/inner\n");
  write("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "50\n");
  write("sys/fs/cgroup/memory/inner/memory.usage_in_bytes", "20\n");
  EXPECT_EQ(limits().memory_bytes, 30);
  // A process that was moved out of the namespace of its groups sees those of the mount.
  write("proc/self/cgroup", "5:memory:/../other\n");
  EXPECT_EQ(limits().memory_bytes, 600);
}

TEST(CoreCount, FollowsOmpNumThreads) {
  ::unsetenv("OMP_NUM_THREADS");
  const int cores = core_count();
  ::setenv("OMP_NUM_THREADS", "1,2", 1);
  EXPECT_EQ(core_count(), 1);
  ::setenv("OMP_NUM_THREADS", "4096", 1);
  EXPECT_EQ(core_count(), cores);
  ::setenv("OMP_NUM_THREADS", "many", 1);
  EXPECT_EQ(core_count(), cores);
  ::unsetenv("OMP_NUM_THREADS");
}

}  // namespace
}  // namespace gigagpt
