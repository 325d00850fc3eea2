// Attention against double precision.
#include <cmath>

#include "base/random.h"
#include "base/testing.h"
#include "ops/attention_mask.h"
#include "ops/memory.h"
#include "ops/ops.h"
#include "ops/reference.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

struct Shape {
  int64_t B, T, H, D;
};

// B T C -> B H T D, and back.
Tensor by_heads(const Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}
Tensor merged(const Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), -1});
}
Tensor swap_last_two(const Tensor& x) {
  return x.transpose(-1, -2);
}

Op attention_op(const AttentionRule& rule) {
  return {[rule](const Tensors& x, const Sums& /*none*/) { return attention(x[0], rule); },
          [rule](const Tensors& x) {
            const auto parts = x[0].chunk(3, -1);
            return reference::attention(parts[0], parts[1], parts[2], rule);
          }};
}

Tensor additive_mask(const AttentionRule& rule, int64_t B, int64_t T) {
  return rule.mask.defined() ? f64(rule.mask) : reference::dense_mask(rule, B, T, T);
}

// What dropout multiplies the probabilities with, B H T T.
Tensor dropout_factors(const AttentionRule& rule, int64_t B, int64_t T) {
  if (rule.dropout_p == 0) return at::ones({B, rule.heads, T, T}, at::kDouble);
  const int64_t row = (T + 3) / 4 * 4;
  const Tensor factors =
      reference::dropout_factors({B, rule.heads, T, row}, rule.dropout_p, rule.key);
  return f64(factors.narrow(3, 0, T));
}

// The errors of y = (P Z) v and its gradients, in the notation of
// ops/kernels/attention_backward-inl.h.
//
// Scores, and what they are multiplied with and subtracted from, are off by (D + 12) u A with
// A = max over the keys of |q||k| / sqrt(D); probabilities relatively by that and the exponential's
// error, again in what they are divided by, and the roundings of its sum over T keys, block by
// block. bf16 kernels round P, dS, y and all results to u' = 2^-8.
Bounds attention_bounds(const Tensor& qkv, const Tensor& dy_any, const AttentionRule& rule) {
  const auto parts = f64(qkv).chunk(3, -1);
  const int64_t B = qkv.size(0), T = qkv.size(1), H = rule.heads;
  const Tensor q = by_heads(parts[0], H), k = by_heads(parts[1], H), v = by_heads(parts[2], H);
  const Tensor dy = by_heads(f64(dy_any), H), mask = additive_mask(rule, B, T),
               hidden = mask.isinf();
  const double D = double(q.size(3)), root = 1 / (rule.over_size ? D : std::sqrt(D)), u = kUnit32,
               length = double(T);
  const double rounding = qkv.scalar_type() == at::kBFloat16 ? kUnitBf16 : 0;
  const Tensor p = at::softmax(at::matmul(q, swap_last_two(k)) * root + mask, -1);
  const Tensor z = dropout_factors(rule, B, T), pz = p * z, y = at::matmul(pz, v);
  const Tensor magnitudes = at::matmul(q.abs(), swap_last_two(k.abs())) * root + mask.abs();
  const Tensor a = std::get<0>(magnitudes.masked_fill(hidden, 0).max(-1, true));  // B H T 1
  const Tensor p_error = (a * ((D + 12) * u) + kExp + length / 64 * kExp) * 2 +
                         (2 * length + 8 + 4 * std::log(length)) * u;
  const Tensor y_error = at::matmul(pz * (p_error + rounding), v.abs());
  const Tensor dp_size = at::matmul(dy.abs(), swap_last_two(v.abs()));
  const Tensor delta_error =
      (dy.abs() * (y_error + y.abs() * (rounding + (D + 1) * u))).sum(-1, true) +
      (pz * dp_size).sum(-1, true) * (length * u);
  const Tensor ds =
      p * (z * at::matmul(dy, swap_last_two(v)) - (dy * y).sum(-1, true)) * root;  // B H T T
  const Tensor ds_error = ds.abs() * (p_error + 4 * u + rounding + length * u) +
                          p * (z * dp_size * ((D + 1) * u) + delta_error) * root;
  const Tensor dq = at::matmul(ds_error, k.abs());
  const Tensor dk = at::matmul(swap_last_two(ds_error), q.abs());
  const Tensor dv = at::matmul(swap_last_two(pz * (p_error + rounding + length * u)), dy.abs());
  return {merged(y_error), {at::cat({merged(dq), merged(dk), merged(dv)}, -1)}};
}

void check_attention(const Shape& s, at::ScalarType type, const AttentionRule& rule,
                     double scale = 0.8) {
  SCOPED_TRACE(testing::Message() << "B " << s.B << " T " << s.T << " H " << s.H << " D " << s.D
                                  << " p " << rule.dropout_p << " " << type);
  const Tensor qkv = (at::randn({s.B, s.T, 3 * s.H * s.D}) * scale).to(type);
  const Tensor dy = at::randn({s.B, s.T, s.H * s.D}).to(type);
  check(attention_op(rule), {qkv}, dy, 1, attention_bounds(qkv, dy, rule));
}

const std::vector<Shape> kShapes = {{1, 1, 1, 16},    {2, 1, 3, 5},    {2, 7, 3, 5},
                                    {1, 63, 4, 20},   {3, 64, 2, 16},  {1, 65, 2, 64},
                                    {1, 127, 1, 80},  {2, 129, 1, 48}, {1, 200, 1, 128},
                                    {1, 130, 1, 256}, {1, 193, 3, 1}};

TEST(Attention, ForwardAndGradientsMatchDouble) {
  at::manual_seed(1);
  for (const Shape& s : kShapes) {
    check_attention(s, at::kFloat, {s.H});
    check_attention(s, at::kBFloat16, {s.H});
  }
}

// muP's scores, and in generation, one query at a time.
TEST(Attention, ScoresOverTheSizeOfAHeadMatchDouble) {
  at::manual_seed(12);
  for (const Shape& s : kShapes) {
    AttentionRule rule{s.H};
    rule.over_size = true;
    check_attention(s, at::kFloat, rule, 3);
    check_attention(s, at::kBFloat16, rule, 3);
    const Tensor qkv = at::randn({s.B, s.T, 3 * s.H * s.D}) * 3;
    const Tensor all = attention(qkv, rule);
    Memory memory(s.T);
    for (int64_t t = 0; t < s.T; ++t) {
      const Tensor one = attention(qkv.narrow(1, t, 1), rule, &memory);
      ASSERT_TRUE(at::allclose(one, all.narrow(1, t, 1), 1e-5, 1e-5)) << t;
    }
  }
}

TEST(Attention, RandomShapesMatchDouble) {
  Random random(2);
  for (int trial = 0; trial < 10; ++trial) {
    const Shape s{random.upto(3), random.upto(150), random.upto(4), random.upto(40)};
    const double p = trial % 2 == 0 ? 0.0 : 0.2;
    check_attention(s, random.coin() ? at::kFloat : at::kBFloat16, {s.H, {}, {}, p, 77});
  }
}

// Dropout on the probabilities: the truth uses the very same factors. Keys use all 64 bits.
TEST(Attention, DropoutForwardAndGradientsMatchDouble) {
  at::manual_seed(3);
  for (const Shape& s : kShapes) {
    const uint64_t key = mix(uint64_t(s.T), 0xFFFFFFFF00000000U);
    check_attention(s, at::kFloat, {s.H, {}, {}, 0.4, key});
    check_attention(s, at::kBFloat16, {s.H, {}, {}, 0.1, key});
  }
  check_attention({1, 66, 2, 16}, at::kFloat, {2, {}, {}, 0.999, 1});
}

TEST(Attention, IsRightForAnyThreadCount) {
  at::manual_seed(4);
  for (const int threads : {1, 3}) {
    const ThreadCount count(threads);
    check_attention({2, 70, 2, 24}, at::kFloat, {2, {}, {}, 0.1, 5});
    check_attention({2, 70, 2, 24}, at::kBFloat16, {2});
  }
}

// Queries, keys and values apart, of which G heads of the latter serve H of the queries: as if
// those were there H / G times.
void check_grouped(const Shape& s, int64_t G, at::ScalarType type, const AttentionRule& rule) {
  SCOPED_TRACE(testing::Message() << "T " << s.T << " H " << s.H << " G " << G << " D " << s.D
                                  << " " << type << " mask " << rule.mask.defined());
  const Tensor q = at::randn({s.B, s.T, s.H, s.D}).to(type);
  const Tensor k = at::randn({s.B, s.T, G, s.D}).to(type),
               v = at::randn({s.B, s.T, G, s.D}).to(type);
  const Tensor dy = at::randn({s.B, s.T, s.H * s.D}).to(type);
  const auto repeated = [&](const Tensor& x) { return x.repeat_interleave(s.H / G, 2).flatten(2); };
  const Op op{
      [&](const Tensors& x, const Sums& /*none*/) { return attention(x[0], x[1], x[2], rule); },
      [&](const Tensors& x) {
        return reference::attention(x[0].flatten(2), repeated(x[1]), repeated(x[2]), rule);
      }};
  const Bounds each =
      attention_bounds(at::cat({q.flatten(2), repeated(k), repeated(v)}, -1), dy, rule);
  const auto parts = each.grads[0].chunk(3, -1);
  // Each head's part is rounded to the type before they are added.
  const auto summed = [&](const Tensor& error, const Tensor& sizes) {
    const Tensor heads = (error + sizes * unit(type)).view({s.B, s.T, G, s.H / G, s.D});
    return heads.sum(3) + heads.abs().sum(3) * (double(s.H / G) * kUnit32);
  };
  const Outcome apart = run_plain64(
      {{}, [&](const Tensors& x) { return reference::attention(x[0], x[1], x[2], rule); }},
      {q.flatten(2), repeated(k), repeated(v)}, dy);
  check(op, {q, k, v}, dy, 3,
        {each.y,
         {parts[0].view_as(q), summed(parts[1], apart.grads[1].abs()),
          summed(parts[2], apart.grads[2].abs())}});
}

TEST(Attention, HeadsMayShareKeysAndValues) {
  at::manual_seed(13);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    check_grouped({2, 70, 4, 16}, 2, type, {4});
    check_grouped({1, 130, 3, 5}, 1, type, {3, {}, {}, 0.2, 9});
    check_grouped({2, 33, 2, 20}, 2, type, {2});
    check_grouped({1, 12, 4, 6}, 2, type, {4, at::randn({1, 1, 12, 12})});
  }
}

// Scores up to several hundred: the largest takes all, nothing overflows.
TEST(Attention, LargeScoresMatchDouble) {
  at::manual_seed(5);
  check_attention({1, 150, 2, 32}, at::kFloat, {2}, 8.0);
  check_attention({1, 150, 2, 32}, at::kBFloat16, {2}, 8.0);
}

TEST(Attention, AnyMaskMatchesDouble) {
  at::manual_seed(6);
  const Tensor sparse = at::where(at::rand({70, 70}) < 0.3, at::full({}, -INFINITY), at::zeros({}));
  sparse.fill_diagonal_(0);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    check_attention({2, 9, 3, 5}, type, {3, at::randn({2, 1, 9, 9})});
    check_attention({1, 33, 2, 16}, type, {2, at::randn({2, 33, 33}), {}, 0.3, 8});
    check_attention({2, 70, 2, 20}, type, {2, sparse});
  }
}

// Where documents begin, at random, for each token.
Tensor random_documents(Random& random, int64_t B, int64_t T) {
  const Tensor documents = at::zeros({B, T}, at::kLong);
  for (int64_t row = 0; row < B; ++row) {
    for (int64_t t = 1, begin = 0; t < T; ++t) {
      if (random.upto(30) == 1) begin = t;
      documents[row][t] = begin;
    }
  }
  return documents;
}

AttentionRule random_rule(Random& random, const Shape& s, int kind) {
  AttentionRule rule{s.H};
  if (kind % 2 == 1) rule.documents = random_documents(random, s.B, s.T);
  if (kind / 2 % 2 == 1) rule.window = random.upto(s.T);
  if (kind / 4 % 2 == 1) rule.prefix = random.upto(s.T);
  if (kind / 8 % 2 == 1) {
    rule.sees = [key = uint64_t(kind)](int64_t row, int64_t position, int64_t k) {
      return position == k ||
             mix(mix(mix(key, uint64_t(row)), uint64_t(position)), uint64_t(k)) % 3 > 0;
    };
  }
  if (random.upto(3) == 1) rule.dropout_p = 0.3, rule.key = 11;
  return rule;
}

TEST(Attention, RulesMatchDouble) {
  Random random(21);
  at::manual_seed(21);
  for (int kind = 1; kind < 16; ++kind) {
    for (const int64_t T : {1, 40, 64, 129, 260}) {
      const Shape s{random.upto(2), T, random.upto(3), random.upto(40)};
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        SCOPED_TRACE(testing::Message() << "kind " << kind);
        check_attention(s, type, random_rule(random, s, kind));
      }
    }
    const Shape s{2, 100, 4, 12};
    check_grouped(s, 2, at::kFloat, random_rule(random, s, kind));
  }
}

TEST(Attention, RulesAreBlocks) {
  Random random(22);
  for (int kind = 1; kind < 16; ++kind) {
    const Shape s{2, 150, 2, 8};
    const AttentionRule rule = random_rule(random, s, kind);
    const MaskBlocks blocks(rule, s.B, s.T, s.T);
    const Tensor seen = reference::dense_mask(rule, s.B, s.T, s.T) == 0;
    EXPECT_EQ(blocks.pairs(), double(seen.expand({s.B, 1, s.T, s.T}).sum().item<int64_t>()));
  }
  // A window of 100 of 10,000 positions: of each 157 blocks of keys at most three are looked at.
  AttentionRule rule{1};
  rule.window = 100;
  const MaskBlocks blocks(rule, 1, 10'000, 10'000);
  const auto& view = blocks.view();
  const auto looked_at =
      std::count_if(view.kinds, view.kinds + view.query_blocks * view.key_blocks,
                    [](uint32_t kind) { return kind != kernels::BlockMask::kNone; });
  EXPECT_LE(looked_at, 3 * 157);
}

TEST(Attention, AQueryThatSeesNothingIsAnError) {
  AttentionRule rule{1};
  rule.sees = [](int64_t row, int64_t position, int64_t) { return row != 1 || position != 70; };
  EXPECT_ERROR(attention(at::randn({2, 90, 12}), rule),
               "the rule lets query 70 of row 1 see no key");
}

TEST(Attention, TheCausalMaskGivenIsTheDefault) {
  at::manual_seed(7);
  const int64_t T = 77;
  const Tensor mask = at::full({T, T}, -INFINITY).triu(1), dy = at::randn({2, T, 32});
  const Tensor qkv = at::randn({2, T, 96});
  for (const double p : {0.0, 0.3}) {
    const AttentionRule usual{2, {}, {}, p, 6}, given{2, mask, {}, p, 6};
    const Bounds bounds = attention_bounds(qkv, dy, usual);
    const Outcome a = run(attention_op(usual), {qkv}, dy), b = run(attention_op(given), {qkv}, dy);
    expect_rounded(a.y, b.y, bounds.y * 2);
    expect_rounded(a.grads[0], b.grads[0], bounds.grads[0] * 2);
  }
}

// What comes later is neither seen by earlier outputs nor reached by their gradients.
TEST(Attention, DoesNotLookAhead) {
  at::manual_seed(8);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t T : {6, 64, 130}) {
      for (const int64_t t : {int64_t{1}, T / 2, T - 1}) {
        const Tensor qkv = at::randn({2, T, 48}).to(type), dy = at::randn({2, T, 16}).to(type);
        Tensor changed = qkv.clone();
        changed.narrow(1, t, T - t).add_(3);
        dy.narrow(1, t, T - t).zero_();
        const Op op = attention_op({2});
        const Outcome a = run(op, {qkv}, dy), b = run(op, {changed}, dy);
        expect_same_bits(a.y.narrow(1, 0, t), b.y.narrow(1, 0, t));
        EXPECT_FALSE(at::equal(a.y, b.y));
        EXPECT_TRUE((a.grads[0].narrow(1, t, T - t) == 0).all().item<bool>());
      }
    }
  }
}

// Wherever one comes in, all outputs that depend on it are NaN, and none of the other heads or
// sequences.
TEST(Attention, ANanIsNotSwallowed) {
  at::manual_seed(9);
  const int64_t T = 150, H = 3, D = 20, at_token = 70;
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t part : {0, 1, 2}) {  // q, k, v
      const Tensor qkv = at::randn({2, T, 3 * H * D}).to(type);
      qkv[1][at_token].narrow(0, (part * H + 1) * D, D).fill_(NAN);
      const Tensor y = by_heads(attention(qkv, {H}), H);  // B H T D
      const int64_t reached = part == 0 ? 1 : T - at_token;
      EXPECT_TRUE(at::isnan(y[1][1].narrow(0, at_token, reached)).all().item<bool>()) << part;
      EXPECT_FALSE(has_nan(y[0]) || has_nan(y[1][0]) || has_nan(y[1][2])) << part;
      Memory memory(T);
      attention(qkv.narrow(1, 0, T - 1), {H}, &memory);
      const Tensor one = attention(qkv.narrow(1, T - 1, 1), {H}, &memory)[1];
      EXPECT_EQ(at::isnan(one.narrow(1, D, D)).all().item<bool>(), part != 0) << part;
    }
    const Tensor qkv = at::randn({1, T, 3 * D}).to(type), dy = at::randn({1, T, D}).to(type);
    dy[0][at_token][2] = NAN;
    const Tensor grad = run(attention_op({1}), {qkv}, dy).grads[0][0];
    EXPECT_TRUE(at::isnan(grad[at_token].narrow(0, 0, D)).all().item<bool>()) << "dq";
    EXPECT_TRUE(at::isnan(grad.narrow(0, 0, at_token).narrow(1, D, D)).all().item<bool>()) << "dk";
  }
}

// A NaN may carry any payload: memory that was never written often is all ones.
TEST(Attention, ANanOfAnyPayloadIsNotSwallowed) {
  at::manual_seed(10);
  for (const int32_t bits : {0x7fc00000, -1, 0x7fc00001, 0x7fffffff}) {
    const Tensor qkv = at::randn({1, 70, 48});
    qkv.view(at::kInt)[0][3].narrow(0, 16, 16).fill_(bits);  // k
    EXPECT_TRUE(at::isnan(attention(qkv, {1})[0].narrow(0, 3, 67)).all().item<bool>()) << bits;
  }
}

// Positions in parts of these lengths, one after another, are the same as all at once.
void check_memory(const Shape& s, at::ScalarType type, const std::vector<int64_t>& counts,
                  AttentionRule rule = {}) {
  rule.heads = s.H;
  SCOPED_TRACE(testing::Message() << "T " << s.T << " D " << s.D << " " << type);
  const Tensor qkv = at::randn({s.B, s.T, 3 * s.H * s.D}).to(type);
  const Tensor dy = at::zeros({s.B, s.T, s.H * s.D}, type);
  const Tensor whole = run_plain64(attention_op(rule), {qkv}, dy).y;
  const Tensor error = attention_bounds(qkv, dy, rule).y;
  const auto rule_of = [&](int64_t from, int64_t count) {
    AttentionRule part = rule;
    if (part.documents.defined())
      part.documents = part.documents.narrow(1, from, count).contiguous();
    return part;
  };
  Memory memory(s.T + 3);
  int64_t from = 0;
  for (const int64_t count : counts) {
    const Tensor part = attention(qkv.narrow(1, from, count), rule_of(from, count), &memory);
    EXPECT_EQ(part.scalar_type(), type);
    expect_rounded(part, whole.narrow(1, from, count), error.narrow(1, from, count));
    from += count;
  }
  ASSERT_EQ(from, s.T);
  memory.clear();
  expect_rounded(attention(qkv, rule, &memory), whole, error);
}

TEST(Memory, ContinuingEqualsComputingAtOnce) {
  at::manual_seed(11);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    check_memory({1, 9, 2, 4}, type, {5, 1, 3});
    check_memory({2, 70, 3, 20}, type, {1, 1, 1, 64, 1, 2});
    check_memory({2, 200, 1, 64}, type, {130, 1, 1, 65, 3});
    check_memory({1, 140, 4, 5}, type, {127, 1, 1, 11});
    check_memory({1, 66, 1, 256}, type, {63, 1, 1, 1});
    check_memory({1, 200, 2, 16}, type, {64, 70, 58, 8});
    check_memory({2, 200, 1, 5}, type, {128, 72});
  }
}

TEST(Memory, ContinuingLooksAtWhatTheRuleSays) {
  at::manual_seed(12);
  Random random(12);
  for (int kind = 1; kind < 16; ++kind) {
    if (kind / 4 % 2 == 1) continue;  // a prefix is complete only once all of it is there
    const Shape s{2, 200, 2, 20};
    AttentionRule rule = random_rule(random, s, kind);
    rule.dropout_p = 0;
    for (const auto type : {at::kFloat, at::kBFloat16})
      check_memory(s, type, {70, 1, 1, 127, 1}, rule);
  }
}

TEST(Memory, KeepsHeadsThatAreShared) {
  at::manual_seed(14);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensor q = at::randn({2, 90, 4, 8}).to(type);
    const Tensor k = at::randn({2, 90, 2, 8}).to(type), v = at::randn({2, 90, 2, 8}).to(type);
    const Tensor whole = attention(q, k, v, {4});
    Memory memory(90);
    int64_t from = 0;
    for (const int64_t count : {64, 1, 20, 1, 4}) {
      const auto part = [&](const Tensor& x) { return x.narrow(1, from, count); };
      const Tensor y = attention(part(q), part(k), part(v), {4}, &memory);
      // Both are within the bounds of the truth; of numbers below 4.
      expect_close(y, part(whole), type == at::kFloat ? 64 * kUnit32 : 4 * kUnitBf16);
      from += count;
    }
  }
}

TEST(Memory, KeepsAStateUntilItIsCleared) {
  Memory memory(4);
  EXPECT_FALSE(memory.state("h").defined());
  memory.state("h") = at::ones({2});
  memory.append("k", at::zeros({1, 3, 2}));
  expect_same_bits(memory.state("h"), at::ones({2}));
  memory.clear();
  EXPECT_FALSE(memory.state("h").defined());
  EXPECT_EQ(memory.append("k", at::zeros({1, 1, 2})).size(1), 1);
}

TEST(Memory, TakesAMask) {
  at::manual_seed(12);
  const Tensor qkv = at::randn({2, 12, 30});
  Memory memory(12);
  attention(qkv.narrow(1, 0, 8), {2}, &memory);
  const Tensor causal = at::full({4, 12}, -INFINITY).triu(9);
  const Tensor y = attention(qkv.narrow(1, 8, 4), {2, causal}, &memory);
  const Tensor dy = at::zeros({2, 12, 10});
  const Tensor whole = run_plain64(attention_op({2}), {qkv}, dy).y;
  expect_rounded(y, whole.narrow(1, 8, 4), attention_bounds(qkv, dy, {2}).y.narrow(1, 8, 4));
}

}  // namespace
}  // namespace gigagpt::ops
