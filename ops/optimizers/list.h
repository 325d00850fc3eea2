// All optimizers that there are: a new one is added here.
#pragma once

#include <array>
#include <string>
#include <tuple>
#include <vector>

#include "ops/optimizers/adamw.h"
#include "ops/optimizers/lion.h"
#include "ops/optimizers/sgd.h"

namespace gigagpt::ops {

using Optimizers = std::tuple<AdamW, Lion, Sgd>;

// What is known of each, in the same order.
template <class... All>
constexpr auto infos_of(std::tuple<All...>*) {
  return std::array{&All::kInfo...};
}
inline constexpr auto kOptimizers = infos_of(static_cast<Optimizers*>(nullptr));

// The optimizer of that name; null if there is none.
inline const Optimizer* find_optimizer(const std::string& name) {
  for (const Optimizer* optimizer : kOptimizers) {
    if (name == optimizer->name) return optimizer;
  }
  return nullptr;
}

inline std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const Optimizer* optimizer : kOptimizers) names.emplace_back(optimizer->name);
  return names;
}

}  // namespace gigagpt::ops
