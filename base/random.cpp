#include "base/random.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace gigagpt {

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter) {
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                               0, 0};
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53U} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57U} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

namespace {

std::array<double, 4> four_normals(uint64_t key, uint64_t counter, float std) {
  const auto bits = philox(key, counter);
  std::array<double, 4> z = {};
  for (size_t pair = 0; pair < 4; pair += 2) {
    // Box-Muller; 1 - u lies in (0, 1], so the logarithm is finite.
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(bits[pair])));
    const double angle = 2.0 * std::numbers::pi * uniform(bits[pair + 1]);
    z[pair] = std * radius * std::cos(angle);
    z[pair + 1] = std * radius * std::sin(angle);
  }
  return z;
}

}  // namespace

void fill_normal(std::span<float> values, uint64_t first, uint64_t key, float mean, float std,
                 double cut) {
  GIGAGPT_ASSERT(first % 4 == 0);
  for (size_t i = 0; i < values.size(); i += 4) {
    const uint64_t counter = (first + i) / 4;
    const auto z = four_normals(key, counter, std);
    for (size_t k = 0; k < 4 && i + k < values.size(); ++k) {
      double one = z[k];
      for (uint64_t again = 1; cut > 0 && std::abs(one) > cut * std; ++again)
        one = four_normals(mix(key, again), counter, std)[k];
      values[i + k] = static_cast<float>(mean + one);
    }
  }
}

Permutation::Permutation(uint64_t size, uint64_t key)
    : size_(size),
      key_(key),
      half_bits_((std::bit_width(size > 1 ? size - 1 : uint64_t{1}) + 1) / 2) {
  GIGAGPT_ASSERT(size > 0);
}

uint64_t Permutation::operator()(uint64_t position) const {
  GIGAGPT_ASSERT(position < size_);
  const uint64_t half_mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t value = position;
  do {
    uint64_t left = value >> half_bits_;
    uint64_t right = value & half_mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t next = left ^ (mix(mix(key_, round), right) & half_mask);
      left = right;
      right = next;
    }
    value = left << half_bits_ | right;
  } while (value >= size_);
  return value;
}

}  // namespace gigagpt
