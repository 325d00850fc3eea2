#include "ops/optimizers/list.h"

#include <array>

namespace gigagpt::ops {
namespace {

template <class... All>
constexpr auto infos_of(std::tuple<All...>*) {
  return std::array{&All::kInfo...};
}
constexpr auto kInfos = infos_of(static_cast<Optimizers*>(nullptr));

}  // namespace

std::span<const Optimizer* const> optimizers() {
  return kInfos;
}

const Optimizer* find_optimizer(const std::string& name) {
  for (const Optimizer* optimizer : kInfos) {
    if (name == optimizer->name) return optimizer;
  }
  return nullptr;
}

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const Optimizer* optimizer : kInfos) names.emplace_back(optimizer->name);
  return names;
}

}  // namespace gigagpt::ops
