#include "engine/plan/machine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "base/file.h"
#include "base/testing.h"

namespace gigagpt::engine {
namespace {

class MachineFile : public testing::Test {
 protected:
  MachineFile() { ::setenv("XDG_CACHE_HOME", directory_.path().c_str(), 1); }
  ~MachineFile() override { ::unsetenv("XDG_CACHE_HOME"); }
  TemporaryDirectory directory_;
};

TEST_F(MachineFile, IsReadBackAndNeverTrusted) {
  EXPECT_FALSE(read_machine());
  Machine machine{"a cpu", 3, true, 1e12, 2e11, 3e10, {}};
  machine.disks[disk_name(".")] = {1e9, 2e9, 1.5e9};
  write_machine(machine);
  const auto back = read_machine();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->cpu, "a cpu");
  EXPECT_EQ(back->flops(Precision::kBf16), 1e12);
  EXPECT_EQ(back->flops(Precision::kFp32), 2e11);
  EXPECT_EQ(back->disk_of("nowhere/yet").mixed, 1.5e9);
  EXPECT_FALSE(back->is_current_host());
  const std::string whole = read_text(machine_file());
  std::mt19937_64 random(1);
  int accepted = 0;
  for (int i = 0; i < 500; ++i) {
    std::ofstream(machine_file()) << damaged(whole, random);
    const auto read = read_machine();  // nothing, or rates that a plan can divide by
    if (!read) continue;
    ++accepted;
    EXPECT_GT(read->cores, 0);
    for (const double rate : {read->bf16_flops, read->fp32_flops, read->memory_bytes_per_s}) {
      EXPECT_TRUE(std::isfinite(rate) && rate > 0) << rate;
    }
    for (const auto& [name, disk] : read->disks) {
      for (const double rate : {disk.read, disk.write, disk.mixed}) {
        EXPECT_TRUE(std::isfinite(rate) && rate >= 0) << name << " " << rate;
      }
    }
  }
  EXPECT_GT(accepted, 0) << "damage that is always refused shows nothing";
  std::ofstream(machine_file()) << "{}";
  EXPECT_FALSE(read_machine());
}

}  // namespace
}  // namespace gigagpt::engine
