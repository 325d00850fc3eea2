// Numbers in 8 bits, random rounding, and the update on them.
#include "ops/compact.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "ops/optimizers/list.h"

namespace gigagpt::ops {
namespace {

using kernels::Bf16;
using kernels::code_kernels;
using kernels::kCodeBlock;
using Block = std::vector<float>;

// Magnitudes over ten decades, so that every code is met and some values are below all of them.
Block draw_block(unsigned seed, bool positive) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> exponent(-10, 0);
  Block values(kCodeBlock);
  for (float& value : values) {
    value = 3.7F * std::pow(10.0F, exponent(random));
    if (!positive && random() % 2 == 0) value = -value;
  }
  values[7] = 0;
  return values;
}

struct Encoded {
  std::vector<uint8_t> codes = std::vector<uint8_t>(kCodeBlock);
  float scale = 0;
};

Encoded encode(const Block& values, bool positive) {
  Encoded encoded;
  encoded.scale = code_kernels().encode[size_t(positive)](values.data(), encoded.codes.data());
  return encoded;
}

Block decode(const Encoded& encoded, bool positive) {
  Block values(kCodeBlock);
  code_kernels().decode[size_t(positive)](encoded.codes.data(), encoded.scale, values.data());
  return values;
}

// What all codes stand for.
std::vector<float> table(bool positive) {
  Encoded all;
  all.scale = 1;
  for (size_t i = 0; i < 256; ++i) all.codes[i] = uint8_t(i);
  Block values = decode(all, positive);
  values.resize(256);
  return values;
}

TEST(Codes, TablesAreThoseOfThePaper) {
  for (const bool positive : {false, true}) {
    const auto values = table(positive);
    const std::set<float> distinct(values.begin(), values.end());
    EXPECT_EQ(distinct.size(), 256U);
    EXPECT_TRUE(distinct.contains(0.0F) && distinct.contains(1.0F));
    // In the highest decade means of 64 or 128 even intervals of [0.1, 1], in the lowest of 1 or 2.
    const double intervals = positive ? 128 : 64;
    EXPECT_NEAR(*std::next(distinct.rbegin()), 1 - 0.45 / intervals, 1e-7);
    EXPECT_NEAR(*distinct.upper_bound(0.0F), positive ? 3.25e-7 : 5.5e-7, 1e-13);
    for (const float value : distinct) {
      const bool paired = positive || value == 1 || distinct.contains(-value);
      EXPECT_TRUE(paired && (value >= 0 || !positive)) << value;
    }
  }
}

TEST(Codes, EveryValueBecomesTheNearest) {
  for (const bool positive : {false, true}) {
    const auto values = table(positive);
    for (unsigned seed = 0; seed < 20; ++seed) {
      const Block block = draw_block(seed, positive);
      const Encoded encoded = encode(block, positive);
      const Block back = decode(encoded, positive);
      for (size_t i = 0; i < kCodeBlock; ++i) {
        const double x = double(block[i]) / encoded.scale;
        double least = 2;
        for (const float value : values) least = std::min(least, std::abs(value - x));
        const double error = std::abs(double(back[i]) / encoded.scale - x);
        if (positive && block[i] > 0 && least == x) {
          // Nearest to 0, which it must not become.
          EXPECT_EQ(encoded.codes[i], 1);
          continue;
        }
        // A quotient, a product and a border are rounded.
        ASSERT_LE(error, least + 4 * 0x1p-24 * std::abs(x)) << x;
      }
      // The largest is kept, and what was decoded is encoded to the same.
      const auto by_magnitude = [](float a, float b) { return std::abs(a) < std::abs(b); };
      const auto largest = std::max_element(block.begin(), block.end(), by_magnitude);
      EXPECT_EQ(back[size_t(largest - block.begin())], *largest);
      const Encoded again = encode(back, positive);
      EXPECT_EQ(again.codes, encoded.codes);
      EXPECT_EQ(again.scale, encoded.scale);
    }
  }
}

TEST(Codes, ZerosAndOppositesAreNoTrouble) {
  for (const bool positive : {false, true}) {
    EXPECT_EQ(decode(encode(Block(kCodeBlock, 0.0F), positive), positive), Block(kCodeBlock, 0.0F));
    const Block tiny(kCodeBlock, 1e-40F);
    EXPECT_EQ(decode(encode(tiny, positive), positive), tiny);
  }
  Block both(kCodeBlock, -2.0F);
  both[9] = 2.0F;
  const Block back = decode(encode(both, false), false);
  EXPECT_EQ(back[9], 2.0F);
  EXPECT_NEAR(back[0], -2.0F, 2 * 0.46 / 64);  // the negative side has no 1
}

TEST(RandomRounding, GoesToANeighbourAndKeepsTheMean) {
  constexpr int kBlocks = 200;
  const float value = 1.0F + 0.3F * 0x1p-7F;  // three tenths of the way from 1 to the next in bf16
  const Block values(kCodeBlock, value);
  std::vector<Bf16> rounded(kCodeBlock);
  int up = 0;
  std::vector<int> ups(kCodeBlock);
  for (uint64_t block = 0; block < kBlocks; ++block) {
    code_kernels().round_at_random(values.data(), 5, block, rounded.data());
    for (size_t i = 0; i < kCodeBlock; ++i) {
      const float result = kernels::to_float(rounded[i]);
      ASSERT_TRUE(result == 1.0F || result == 1.0F + 0x1p-7F);
      up += result > 1.0F;
      ups[i] += result > 1.0F;
    }
  }
  const double n = double(kBlocks) * kCodeBlock;
  EXPECT_NEAR(up / n, 0.3, 5 * std::sqrt(0.3 * 0.7 / n));
  // No place in a block has numbers of its own: 5.5 deviations are exceeded once in 12,000 tests.
  for (const int count : ups) {
    EXPECT_NEAR(count / double(kBlocks), 0.3, 5.5 * std::sqrt(0.3 * 0.7 / kBlocks));
  }
  const Block exact(kCodeBlock, -1.5F);
  code_kernels().round_at_random(exact.data(), 5, 0, rounded.data());
  for (const Bf16 x : rounded) ASSERT_EQ(kernels::to_float(x), -1.5F);
}

void update_one(const CompactPiece& piece, const UpdateRule& rule, double grad_scale, int64_t step,
                uint64_t layer) {
  update_alone(std::span(&piece, 1), rule, 0.01, grad_scale, step, layer);
}

struct State {
  std::vector<Bf16> weights;
  Encoded exp_avg, exp_avg_sq;
  Block grad;
  CompactPiece piece(int64_t first) {
    return {.first = first,
            .count = weights.size(),
            .rounded = weights.data(),
            .grad = grad.data(),
            .exp_avg = {nullptr, exp_avg.codes.data(), &exp_avg.scale},
            .exp_avg_sq = {nullptr, exp_avg_sq.codes.data(), &exp_avg_sq.scale}};
  }
};

State draw_state() {
  State state{{},
              encode(draw_block(1, false), false),
              encode(draw_block(2, true), true),
              draw_block(3, false)};
  for (const float w : draw_block(4, false)) state.weights.push_back(kernels::to_bf16(w));
  return state;
}

// In fp32 in between it is the update of ops/optimizer.h.
TEST(CompactUpdate, IsThePlainOneOnWhatTheCodesStandFor) {
  for (const Optimizer* optimizer : optimizers()) {
    if (optimizer->whole != Whole::kNone) continue;  // has no compact form
    SCOPED_TRACE(optimizer->name);
    const UpdateRule rule{.optimizer = optimizer, .seed = 11};
    State state = draw_state();
    Block w, m = decode(state.exp_avg, false), v = decode(state.exp_avg_sq, true);
    for (const Bf16 x : state.weights) w.push_back(kernels::to_float(x));
    const Block before = w;
    update_alone(std::vector<ParamState>{{w, state.grad, m, v}}, rule, 0.01, 0.7, 3);
    update_one(state.piece(4096), rule, 0.7, 3, /*layer=*/2);
    EXPECT_EQ(state.exp_avg.codes, encode(m, false).codes);
    EXPECT_EQ(state.exp_avg.scale, encode(m, false).scale);
    EXPECT_EQ(state.exp_avg_sq.codes, encode(v, true).codes);
    size_t changed = 0;
    for (size_t i = 0; i < kCodeBlock; ++i) {
      const float to = kernels::to_float(state.weights[i]);
      // Between the two: less than a unit in the last place of bf16 away.
      ASSERT_LT(std::abs(to - w[i]), 0x1p-7F * std::abs(w[i]) + 1e-38F) << i;
      changed += to != before[i];
    }
    EXPECT_GT(changed, kCodeBlock / 4);
  }
}

TEST(CompactUpdate, BitsDependOnPlaceStepLayerAndSeedAlone) {
  const auto weights_after = [](uint64_t seed, int64_t step, uint64_t layer, int64_t first) {
    State state = draw_state();
    update_one(state.piece(first), {.seed = seed}, 1, step, layer);
    std::vector<uint16_t> bits;
    for (const Bf16 x : state.weights) bits.push_back(x.bits);
    return bits;
  };
  const auto base = weights_after(1, 50, 0, 0);
  EXPECT_EQ(base, weights_after(1, 50, 0, 0));
  EXPECT_NE(base, weights_after(2, 50, 0, 0));
  EXPECT_NE(base, weights_after(1, 51, 0, 0));
  EXPECT_NE(base, weights_after(1, 50, 1, 0));
  EXPECT_NE(base, weights_after(1, 50, 0, 2048));
}

// Small parameters have moments in fp32 and may be cut anywhere.
TEST(CompactUpdate, PiecesMayBeCutAnywhere) {
  const UpdateRule rule{.seed = 4};
  const auto run = [&](const std::vector<size_t>& cuts) {
    State state = draw_state();
    Block m = draw_block(5, false), v = draw_block(6, true);
    std::vector<Bf16> narrow;
    for (const float g : state.grad) narrow.push_back(kernels::to_bf16(g));
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const size_t begin = cuts[i];
      const CompactPiece piece{.first = int64_t(2048 + begin),
                               .count = cuts[i + 1] - begin,
                               .rounded = &state.weights[begin],
                               .narrow_grad = &narrow[begin],
                               .exp_avg = {.values = &m[begin]},
                               .exp_avg_sq = {.values = &v[begin]}};
      update_one(piece, rule, 1, 9, 0);
    }
    for (const Bf16 x : state.weights) m.push_back(kernels::to_float(x));
    m.insert(m.end(), v.begin(), v.end());
    return m;
  };
  const Block whole = run({0, 2048});
  EXPECT_EQ(run({0, 16, 500, 1000, 2047, 2048}), whole);
  EXPECT_EQ(run({0, 1024, 2048}), whole);
}

}  // namespace
}  // namespace gigagpt::ops
