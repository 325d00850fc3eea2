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
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "2 kWh, 0.60 of money");
  rules.price_hour = 1.5;  // eight hours of one system
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "2 kWh, 12.60 of money");
  rules.watts.reset();
  EXPECT_EQ(cost_text(cost_of(rules, 7200, 4)), "12.00 of money");
  EXPECT_TRUE(rules.any());
}

TEST(Cost, WhatWasMeasuredTakesThePlaceOfWatts) {
  CostRules rules;
  rules.watts = 250;
  rules.price_kwh = 2;
  EXPECT_EQ(cost_text(cost_of(rules, 3600, 1, 0.5)), "0.5 kWh, 1.00 of money");
}

}  // namespace
}  // namespace gigagpt::engine
