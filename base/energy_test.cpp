#include "base/energy.h"

#include <gtest/gtest.h>

#include "base/temporary_directory.h"

namespace gigagpt {
namespace {

class Energy : public testing::Test {
 protected:
  void set(const std::string& zone, long long uj, const std::string& name = "package-0") {
    std::filesystem::create_directories(folder_.path() / zone);
    File::create(folder_.path() / zone / "name").write(name + "\n");
    File::create(folder_.path() / zone / "energy_uj").write(std::to_string(uj) + "\n");
    File::create(folder_.path() / zone / "max_energy_range_uj").write(std::string("100000000\n"));
  }
  TemporaryDirectory folder_;
};

TEST_F(Energy, PackagesAndMemoryAreAddedUpAndWhatIsInThemIsNot) {
  set("intel-rapl:0", 1'000'000);
  set("intel-rapl:1", 5'000'000, "package-1");
  set("intel-rapl:0:0", 7'000'000, "core");
  set("intel-rapl:0:1", 2'000'000, "dram");
  set("intel-rapl:2", 0, "psys");
  set("intel-rapl-mmio:0", 1'000'000);
  set("dtpm", 1);
  EnergyMeter meter(folder_.path());
  EXPECT_EQ(meter.joules(), 0);
  set("intel-rapl:0", 3'500'000);
  set("intel-rapl:1", 6'000'000, "package-1");
  set("intel-rapl:0:0", 70'000'000, "core");
  set("intel-rapl:0:1", 2'250'000, "dram");
  set("intel-rapl:2", 90'000'000, "psys");
  set("intel-rapl-mmio:0", 3'500'000);
  EXPECT_DOUBLE_EQ(*meter.joules(), 3.75);
}

TEST_F(Energy, ACounterThatBeginsAnewGoesOn) {
  set("intel-rapl:0", 99'000'000);
  EnergyMeter meter(folder_.path());
  set("intel-rapl:0", 2'000'000);
  EXPECT_DOUBLE_EQ(*meter.joules(), 3);
  set("intel-rapl:0", 2'500'000);
  EXPECT_DOUBLE_EQ(*meter.joules(), 3.5);
}

TEST_F(Energy, WithoutCountersNothingIsSaid) {
  EXPECT_EQ(EnergyMeter(folder_.path()).joules(), std::nullopt);
  EXPECT_EQ(EnergyMeter(folder_.path() / "none").joules(), std::nullopt);
}

}  // namespace
}  // namespace gigagpt
