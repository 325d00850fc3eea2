#include "engine/plan/cost.h"

#include <gtest/gtest.h>

namespace gigagpt::engine {
namespace {

TEST(Cost, IsEnergyAndRentOfAllSystems) {
  CostRules rules;
  EXPECT_FALSE(rules.any());
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "");
  rules.watts = 250;
  EXPECT_DOUBLE_EQ(*cost_of(rules, 7200, 4).kwh, 2);
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "2 kWh");
  rules.price_kwh = 0.3;
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "2 kWh, a price of 0.60");
  rules.price_hour = 1.5;  // eight hours of one system
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "2 kWh, a price of 12.60");
  rules.watts.reset();
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "a price of 12.00");
  EXPECT_TRUE(rules.any());
}

TEST(Cost, WhatWasMeasuredTakesThePlaceOfWatts) {
  CostRules rules;
  rules.watts = 250;
  rules.price_kwh = 2;
  EXPECT_EQ(cost_text(cost_of(rules, 3600, 1, 0.5)), "0.5 kWh, a price of 1.00");
}

}  // namespace
}  // namespace gigagpt::engine
