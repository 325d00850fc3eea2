// Counter-based random numbers: every number is a pure function of a key and a counter, so any
// part of a tensor can be drawn alone, in any order, on any thread, and drawn again.
// Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace gigagpt {

// Four independent 32-bit words for (key, counter).
std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter);

// Mixes a value into a key, e.g. mix(mix(seed, step), layer); well-distributed (SplitMix64).
constexpr uint64_t mix(uint64_t key, uint64_t value) {
  uint64_t z = key * 0x9E3779B97F4A7C15ULL + value + 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

// A 64-bit hash of a name (FNV-1a), for keys.
constexpr uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return hash;
}

// A uniform number in [0, 1) from 32 random bits.
constexpr double uniform(uint32_t bits) {
  return bits * 0x1p-32;
}

// Elements [first, first + size) of an endless row of normal numbers with the given mean and
// deviation; element i depends on (key, i) alone. `first` must be a multiple of 4. With a cut, the
// distribution is truncated: those that are more than so many deviations off are drawn again.
void fill_normal(std::span<float> values, uint64_t first, uint64_t key, float mean, float std,
                 double cut = 0);

// A permutation of [0, size) as a function: position -> element, in O(1) memory. A balanced
// Feistel network over the next power of four, walked until the result falls inside (Black and
// Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
class Permutation {
 public:
  Permutation(uint64_t size, uint64_t key);
  uint64_t operator()(uint64_t position) const;

 private:
  uint64_t size_;
  uint64_t key_;
  int half_bits_;
};

}  // namespace gigagpt
