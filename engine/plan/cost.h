// What a run costs in energy and money, where the user says what a kilowatt hour or an hour costs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/option.h"

namespace gigagpt::engine {

// Config keys. Money is in whatever currency the prices are.
struct CostRules {
  std::optional<double> watts = {};       // that one system draws
  std::optional<double> price_kwh = {};   // of a kilowatt hour
  std::optional<double> price_hour = {};  // of one rented system

  std::vector<Option> options();  // they point into this object
  bool any() const { return watts || price_kwh || price_hour; }
};

struct Cost {
  std::optional<double> kwh = {};    // of all systems
  std::optional<double> money = {};  // of energy and rent
};

// Of so many seconds of so many systems. `measured_kwh` takes the place of watts.
Cost cost_of(const CostRules& rules, double seconds, int64_t systems,
             std::optional<double> measured_kwh = {});

// "12.3 kWh, a price of 4.31", "1.05 kWh" or "a price of 38.40"; empty if nothing is known.
std::string cost_text(const Cost& cost);

}  // namespace gigagpt::engine
