// Random numbers: published vectors, statistics with derived bounds, and permutations.
#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <vector>

namespace gigagpt {
namespace {

using Words = std::array<uint32_t, 4>;

// Philox4x32-10 written out from the paper with its whole 128-bit counter, which the published
// vectors need; the code under test uses the low 64 bits of it.
Words philox_of_paper(std::array<uint32_t, 2> k, Words c) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ULL * c[0];
    const uint64_t p1 = 0xCD9E8D57ULL * c[2];
    const auto high = [](uint64_t p) { return static_cast<uint32_t>(p / 0x100000000ULL); };
    const auto low = [](uint64_t p) { return static_cast<uint32_t>(p % 0x100000000ULL); };
    c = {high(p1) ^ c[1] ^ k[0], low(p1), high(p0) ^ c[3] ^ k[1], low(p0)};
    k = {k[0] + 0x9E3779B9U, k[1] + 0xBB67AE85U};
  }
  return c;
}

TEST(Philox, MatchesThePublishedVectors) {
  // kat_vectors of Random123 (D. E. Shaw Research).
  const Words zeros = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  EXPECT_EQ(philox(0, 0), zeros);
  // The other two have a 128-bit counter; they vouch for the long-hand version.
  EXPECT_EQ(philox_of_paper({0, 0}, {0, 0, 0, 0}), zeros);
  EXPECT_EQ(philox_of_paper({~0U, ~0U}, {~0U, ~0U, ~0U, ~0U}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      philox_of_paper({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
      (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UsesAllBitsOfKeyAndCounter) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t key = random();
    const uint64_t counter = random();
    const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
    ASSERT_EQ(philox(key, counter), philox_of_paper({low(key), low(key >> 32)},
                                                    {low(counter), low(counter >> 32), 0, 0}));
  }
}

TEST(Mix, IsSplitMix64) {
  // The first outputs of SplitMix64 with seed 1234567, as published on Rosetta Code.
  EXPECT_EQ(mix(0, 1234567), 6457827717110365317ULL);
  EXPECT_EQ(mix(1, 1234567), 3203168211198807973ULL);
  EXPECT_EQ(mix(2, 1234567), 9817491932198370423ULL);
}

TEST(HashName, IsFnv1a) {
  EXPECT_EQ(hash_name(""), 0xcbf29ce484222325ULL);
  EXPECT_EQ(hash_name("a"), 0xaf63dc4c8601ec8cULL);
  EXPECT_EQ(hash_name("foobar"), 0x85944171f73967e8ULL);
}

TEST(Uniform, StaysBelowOne) {
  EXPECT_EQ(uniform(0), 0.0);
  EXPECT_EQ(uniform(0x80000000U), 0.5);
  EXPECT_LT(uniform(0xFFFFFFFFU), 1.0);
}

TEST(FillNormal, HasTheMomentsOfANormalDistribution) {
  constexpr size_t kCount = 1 << 20;
  std::vector<float> values(kCount);
  fill_normal(values, 0, 42, 3.0F, 0.5F);
  double sum[5] = {};
  double neighbours = 0;
  double last = 0;
  for (const float value : values) {
    const double x = (value - 3.0) / 0.5;
    sum[1] += x;
    sum[2] += x * x;
    sum[3] += x * x * x;
    sum[4] += x * x * x * x;
    neighbours += x * last;
    last = x;
  }
  // For standard normal x, E x^2 = 1, E x^4 = 3, E x^6 = 15 and E x^8 = 105, so the variances of
  // x, x^2, x^3, x^4 and of a product of independent ones are 1, 2, 15, 96 and 1. The mean of n
  // draws then lies within 5 sqrt(variance / n) but for one key in two million; the key is fixed.
  const double n = kCount;
  const auto bound = [n](double variance) { return 5 * std::sqrt(variance / n); };
  EXPECT_NEAR(sum[1] / n, 0, bound(1));
  EXPECT_NEAR(sum[2] / n, 1, bound(2));
  EXPECT_NEAR(sum[3] / n, 0, bound(15));
  EXPECT_NEAR(sum[4] / n, 3, bound(96));
  EXPECT_NEAR(neighbours / n, 0, bound(1));
}

TEST(FillNormal, FollowsTheNormalDistributionFunction) {
  constexpr size_t kCount = 1 << 18;
  std::vector<float> values(kCount);
  fill_normal(values, 0, 7, 0.0F, 1.0F);
  for (const double at : {-3.0, -2.0, -1.0, -0.25, 0.0, 0.5, 1.5, 2.5}) {
    const double expected = 0.5 * std::erfc(-at / std::sqrt(2.0));
    double below = 0;
    for (const float value : values) below += value < at ? 1 : 0;
    // A count of n tries with probability p deviates by sqrt(n p (1 - p)).
    const double deviation = std::sqrt(kCount * expected * (1 - expected));
    EXPECT_NEAR(below, kCount * expected, 5 * deviation) << at;
  }
  // Box-Muller from 32 bits reaches at most sqrt(-2 ln 2^-32) = 6.66.
  for (const float value : values) ASSERT_LT(std::abs(value), 6.67F);
}

// The truncated normal distribution: within (-c, c) the probability of (-inf, x) is
// (Phi(x) - Phi(-c)) / (Phi(c) - Phi(-c)), and at c = 2 the deviation is 0.87962566 of the plain
// one.
TEST(FillNormal, WithACutFollowsTheTruncatedNormalDistribution) {
  constexpr size_t kCount = 1 << 18;
  std::vector<float> values(kCount), plain(kCount);
  fill_normal(values, 0, 7, 1.0F, 0.5F, 2);
  fill_normal(plain, 0, 7, 1.0F, 0.5F);
  const auto phi = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  for (const double at : {-1.9, -1.0, -0.25, 0.0, 0.5, 1.5, 1.99}) {
    const double expected = (phi(at) - phi(-2)) / (phi(2) - phi(-2));
    double below = 0;
    for (const float value : values) below += (value - 1) / 0.5 < at ? 1 : 0;
    EXPECT_NEAR(below, kCount * expected, 5 * std::sqrt(kCount * expected * (1 - expected))) << at;
  }
  double squares = 0;
  for (size_t i = 0; i < kCount; ++i) {
    const double z = (values[i] - 1) / 0.5;
    ASSERT_LE(std::abs(z), 2.0000001);
    squares += z * z;
    // Those within the cut are as they were.
    if (std::abs(plain[i] - 1) < 1) {
      ASSERT_EQ(values[i], plain[i]) << i;
    }
  }
  // The variance of z^2 is below that of the plain one, 2.
  const double variance = 0.87962566 * 0.87962566;
  EXPECT_NEAR(squares / kCount, variance, 5 * std::sqrt(2.0 / kCount));
}

TEST(FillNormal, PartsEqualTheWhole) {
  std::vector<float> whole(1003);
  fill_normal(whole, 0, 5, 0.0F, 0.02F);
  for (const size_t first : {size_t{0}, size_t{4}, size_t{500}, size_t{1000}}) {
    for (const size_t size : {size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{7}, size_t{503}}) {
      if (first + size > whole.size()) continue;
      std::vector<float> part(size);
      fill_normal(part, first, 5, 0.0F, 0.02F);
      for (size_t i = 0; i < size; ++i) ASSERT_EQ(part[i], whole[first + i]) << first << "+" << i;
    }
  }
  fill_normal(whole, 0, 5, 0.0F, 0.02F, 0.5);
  std::vector<float> part(500);
  fill_normal(part, 500, 5, 0.0F, 0.02F, 0.5);
  for (size_t i = 0; i < part.size(); ++i) ASSERT_EQ(part[i], whole[500 + i]) << i;
}

TEST(FillNormal, DependsOnTheKeyAndTakesDegenerateDeviations) {
  std::vector<float> a(64), b(64), constant(5);
  fill_normal(a, 0, 1, 0.0F, 1.0F);
  fill_normal(b, 0, 2, 0.0F, 1.0F);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NE(a[i], b[i]) << i;
  fill_normal(constant, 0, 1, 1.5F, 0.0F);
  EXPECT_EQ(constant, std::vector<float>(5, 1.5F));
  fill_normal({}, 0, 1, 0.0F, 1.0F);
}

TEST(FillNormalDeathTest, RefusesAStartInsideABlock) {
  std::vector<float> values(4);
  EXPECT_DEATH(fill_normal(values, 2, 1, 0.0F, 1.0F), "internal error");
}

TEST(Permutation, IsABijectionForEverySize) {
  std::vector<uint64_t> sizes = {63, 64, 65, 255, 256, 257, 1000, 4096, 4097};
  for (uint64_t size = 1; size <= 20; ++size) sizes.push_back(size);
  for (const uint64_t size : sizes) {
    for (const uint64_t key : {0ULL, 1ULL, 0xFFFFFFFFFFFFFFFFULL}) {
      const Permutation permutation(size, key);
      std::vector<bool> seen(size);
      for (uint64_t i = 0; i < size; ++i) {
        const uint64_t element = permutation(i);
        ASSERT_LT(element, size);
        ASSERT_FALSE(seen[element]) << size << " " << key << " " << i;
        seen[element] = true;
      }
    }
  }
}

TEST(Permutation, DiffersAcrossKeysAndFromTheIdentity) {
  constexpr uint64_t kSize = 1000;
  const Permutation a(kSize, 1), b(kSize, 2), again(kSize, 1);
  int fixed = 0, equal = 0;
  for (uint64_t i = 0; i < kSize; ++i) {
    fixed += a(i) == i ? 1 : 0;
    equal += a(i) == b(i) ? 1 : 0;
    ASSERT_EQ(a(i), again(i));
  }
  // The fixed points of a random permutation are about Poisson with mean 1: 10 or more come once
  // in ten million.
  EXPECT_LT(fixed, 10);
  EXPECT_LT(equal, 10);
}

TEST(Permutation, SendsTheFirstPositionEverywhere) {
  // Over 4000 keys each of 16 elements is expected 250 times, deviation sqrt(4000 15/256) = 15.3.
  std::array<int, 16> counts{};
  for (uint64_t key = 0; key < 4000; ++key) ++counts[Permutation(16, key)(0)];
  for (const int count : counts) EXPECT_NEAR(count, 250, 5 * 15.3);
}

TEST(Permutation, WorksOnHugeSizes) {
  constexpr uint64_t kSize = (1ULL << 62) + 1;
  const Permutation permutation(kSize, 9);
  std::set<uint64_t> elements;
  for (uint64_t i = 0; i < 1000; ++i) elements.insert(permutation(kSize - 1 - i));
  EXPECT_EQ(elements.size(), 1000U);
  EXPECT_LT(*elements.rbegin(), kSize);
}

}  // namespace
}  // namespace gigagpt
