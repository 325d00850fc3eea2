#include "engine/plan/cost.h"

#include <fmt/format.h>

namespace gigagpt::engine {

std::vector<Option> CostRules::options() {
  return {
      {"watts", &watts, "power that one system draws, for kWh in the plan; null: not said",
       above(0)},
      {"price_kwh", &price_kwh, "of a kWh, in your currency", at_least(0)},
      {"price_hour", &price_hour, "of an hour of one rented system", at_least(0)},
  };
}

Cost cost_of(const CostRules& rules, double seconds, int64_t systems,
             std::optional<double> measured_kwh) {
  const double hours = seconds / 3600 * double(systems);
  Cost cost;
  cost.kwh = measured_kwh;
  if (!cost.kwh && rules.watts) cost.kwh = *rules.watts / 1000 * hours;
  if (cost.kwh && rules.price_kwh) cost.money = *cost.kwh * *rules.price_kwh;
  if (rules.price_hour) cost.money = cost.money.value_or(0) + hours * *rules.price_hour;
  return cost;
}

std::string cost_text(const Cost& cost) {
  std::string text;
  if (cost.kwh) text = fmt::format("{:.3g} kWh", *cost.kwh);
  if (cost.money) text += fmt::format("{}a price of {:.2f}", text.empty() ? "" : ", ", *cost.money);
  return text;
}

}  // namespace gigagpt::engine
