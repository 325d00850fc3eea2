// The checks find nothing in good models, and each mistake that is planted in one.
#include "engine/check/check.h"

#include <gtest/gtest.h>

#include "base/testing.h"
#include "engine/model/autoencoder.h"
#include "ops/autograd.h"
#include "ops/ops.h"

namespace gigagpt::engine {
namespace {

using at::Tensor;

constexpr int64_t V = 13, C = 16, H = 2, T = 9;

// One mistake each.
enum class Fault {
  kNone,
  kWrongGradient,
  kHalfAGradient,
  kDetached,
  kDeadParameter,
  kRandomNumbers,
  kCounts,
  kChangesInput,
  kChangesWeights,
  kDropoutInEvaluation,
  kMixesRows,
  kAddsASum,
  kSumsTheLoss,
  kCountsIgnoredLabels,
  kLooksAhead,
  kPositionOffByOne,
  kForgetsEarlierTokens,
  kSeesOtherDocuments,
  kIgnoresTokens,
  kAllPositionsInTheHead,
  kUndeclaredFlops,
  kUndeclaredMemory,
  kMultipliedButLookedUp,
  kLossWithoutGradient,
  kNotFinite,
};

// x, with a gradient that is a tenth too large, or that only the first half of it gets.
Tensor with_other_gradient(const Tensor& x, Fault fault) {
  ops::Recording recording({x});
  const Tensor y = x.clone();
  recording.record({y}, [fault](const std::vector<Tensor>& dy) {
    Tensor dx = dy[0].clone();
    if (fault == Fault::kWrongGradient) dx *= 1.1;
    if (fault == Fault::kHalfAGradient) dx.narrow(-1, dx.size(-1) / 2, dx.size(-1) / 2).zero_();
    return std::vector<Tensor>{dx};
  });
  return y;
}

class Embedding : public LayerOf<Declaration> {
 public:
  explicit Embedding(Fault fault)
      : LayerOf({"embedding", "", {}}),
        fault_(fault),
        wte_(add("wte", {V, C}, {.init = normal(0.02), .looked_up = true})),
        wpe_(add("wpe", {T, C}, {.init = normal(0.02), .per_token = 0})) {}
  Tensor forward(const Weights& w, const Tensor& tokens, const Pass& pass) const override {
    Tensor positions = pass.batch.positions;
    if (positions.defined() && fault_ == Fault::kPositionOffByOne)
      positions = (positions - 1).clamp_min(0);
    const Tensor seen = fault_ == Fault::kIgnoresTokens ? at::zeros_like(tokens) : tokens;
    const Tensor x = ops::embedding(seen, w[wte_], w[wpe_], positions);  // B T C
    const bool drops = pass.training || fault_ == Fault::kDropoutInEvaluation;
    return ops::dropout(x, drops ? 0.1 : 0, pass.key);
  }

 private:
  const Fault fault_;
  Param wte_, wpe_;
};

class Block : public LayerOf<Declaration> {
 public:
  explicit Block(Fault fault)
      : LayerOf({"block", "block.", {}}),
        fault_(fault),
        norm_(norm("norm", C, /*bias=*/true)),
        qkv_(linear("qkv", C, 3 * C, {.init = normal(0.02)})),
        out_(linear("out", C, C, {.init = normal(0.02)}, /*bias=*/true)),
        gain_(add("gain", {C}, {.init = constant(1)})) {
    spec_.pair_flops = fault == Fault::kUndeclaredFlops ? 0 : 4 * double(C);
  }

  Tensor forward(const Weights& w, const Tensor& x, const Pass& pass) const override {
    if (fault_ == Fault::kChangesInput) x.mul_(1.5);
    if (fault_ == Fault::kChangesWeights) w[gain_].value.detach().mul_(1.5);
    const Tensor h = ops::layer_norm(x, w[norm_], w.dtype());  // B T C
    ops::AttentionRule rule = pass.attention_rule(spec(), H);
    if (fault_ == Fault::kSeesOtherDocuments) rule.documents = Tensor();
    if (fault_ == Fault::kLooksAhead) rule.mask = at::zeros({x.size(1), x.size(1)});
    ops::Memory* memory = fault_ == Fault::kForgetsEarlierTokens ? nullptr : pass.memory;
    const Tensor y = ops::attention(ops::linear(h, w[qkv_]), rule, memory);  // B T C
    Tensor z = ops::linear(y, w[out_], at::kFloat);
    if (fault_ != Fault::kDeadParameter) z = z * w[gain_].value;
    return x + spoiled(z, pass);
  }

 private:
  Tensor spoiled(const Tensor& z, const Pass& pass) const {
    switch (fault_) {
      case Fault::kWrongGradient:
      case Fault::kHalfAGradient:
        return with_other_gradient(z, fault_);
      case Fault::kDetached:
        return z.detach();
      case Fault::kRandomNumbers:
        return z + 0.01 * at::rand_like(z);
      case Fault::kCounts:
        return z * double(++calls_);
      case Fault::kMixesRows:
        return z - z.mean(0, /*keepdim=*/true);
      case Fault::kNotFinite:
        return z / 0;
      case Fault::kUndeclaredMemory:
        return (z * 2).sin().exp().tanh().exp().tanh().mul(z);
      case Fault::kAddsASum:
        pass.add_loss("size", z.square().sum(), 1e-3);
        return z;
      default:
        return z;
    }
  }

  const Fault fault_;
  AffineParam norm_, qkv_, out_;
  Param gain_;
  mutable int calls_ = 0;
};

class Head : public LayerOf<Declaration> {
 public:
  explicit Head(Fault fault)
      : LayerOf({"head", "", {}}),
        fault_(fault),
        norm_(norm("ln_f", C, /*bias=*/true)),
        lm_head_(add("lm_head", {V, C},
                     {.init = normal(0.02), .looked_up = fault == Fault::kMultipliedButLookedUp})) {
  }
  Tensor forward(const Weights& w, const Tensor& x, const Pass& pass) const override {
    const bool one = pass.last_only && fault_ != Fault::kAllPositionsInTheHead;
    const Tensor last = one ? x.narrow(1, x.size(1) - 1, 1) : x;
    const Tensor h = ops::layer_norm(last, w[norm_], w.dtype());  // B T C
    Tensor labels = pass.batch.target;                            // B T
    if (!labels.defined()) return ops::linear(h, {w[lm_head_], {}}, at::kFloat);
    if (fault_ == Fault::kCountsIgnoredLabels) labels = labels.clamp_min(0);
    Tensor loss = ops::cross_entropy(h, w[lm_head_], labels);
    if (fault_ == Fault::kSumsTheLoss) loss = loss * double(x.size(0));
    if (fault_ == Fault::kLossWithoutGradient)
      loss = loss + 0.1 * w[lm_head_].value.detach().to(at::kFloat).square().mean();
    return loss;
  }

 private:
  const Fault fault_;
  AffineParam norm_;
  Param lm_head_;
};

// By claim, the problems that are found.
std::vector<Finding> problems_of(Subject subject) {
  const TemporaryDirectory folder;
  subject.scratch = folder.path();
  std::vector<Finding> problems;
  int claims = 0;
  const int failures = check_model(subject, [&](const Finding& finding) {
    ++claims;
    if (!finding.problem.empty()) problems.push_back(finding);
  });
  EXPECT_EQ(failures, int(problems.size()));
  EXPECT_GT(claims, 0);
  return problems;
}

std::vector<Finding> problems_with(Fault fault) {
  at::manual_seed(1);
  Subject subject;
  subject.make = [fault] {
    Model model;
    model.push_back(std::make_unique<Embedding>(fault));
    model.push_back(std::make_unique<Block>(fault));
    model.push_back(std::make_unique<Head>(fault));
    return model;
  };
  for (const int64_t rows : {3, 1, 2})
    subject.batches.push_back(
        {at::randint(0, V, {rows, T}, at::kLong), at::randint(0, V, {rows, T}, at::kLong)});
  subject.sequence_length = T;
  subject.language = true;
  return problems_of(std::move(subject));
}

std::string texts_of(const std::vector<Finding>& problems) {
  std::string text;
  for (const Finding& finding : problems) text += finding.claim + ": " + finding.problem + "\n";
  return text;
}

TEST(Check, FindsNothingInAModelOfLanguage) {
  EXPECT_EQ(texts_of(problems_with(Fault::kNone)), "");
}

TEST(Check, FindsNothingInAnAutoencoder) {
  at::manual_seed(1);
  Subject subject;
  subject.make = [] { return make_autoencoder(6, 5, 3); };
  for (const int64_t rows : {3, 2, 1}) {
    const Tensor x = at::randn({rows, 6});
    subject.batches.push_back({x, x + 1});
  }
  subject.counts_flops = false;  // its products are sums of elementwise ones
  EXPECT_EQ(texts_of(problems_of(std::move(subject))), "");
}

struct Planted {
  Fault fault;
  const char* name;
  const char* claim;    // that does not hold, the first of them
  const char* problem;  // a part of what is said
};

class PlantedFault : public testing::TestWithParam<Planted> {};

TEST_P(PlantedFault, IsFoundAndNamed) {
  const Planted& planted = GetParam();
  const auto problems = problems_with(planted.fault);
  ASSERT_FALSE(problems.empty());
  EXPECT_NE(problems[0].claim.find(planted.claim), std::string::npos) << texts_of(problems);
  EXPECT_NE(problems[0].problem.find(planted.problem), std::string::npos) << texts_of(problems);
}

INSTANTIATE_TEST_SUITE_P(
    All, PlantedFault,
    testing::Values(
        Planted{Fault::kWrongGradient, "WrongGradient", "slopes", "block."},
        Planted{Fault::kHalfAGradient, "HalfAGradient", "slopes", "block."},
        Planted{Fault::kDetached, "Detached", "has a gradient",
                "block.gain, block.norm.bias, block.norm.weight, block.out.bias"},
        Planted{Fault::kDeadParameter, "DeadParameter", "has a gradient", "block.gain does not"},
        Planted{Fault::kRandomNumbers, "RandomNumbers", "arguments alone",
                "block: it returns other"},
        Planted{Fault::kCounts, "Counts", "arguments alone", "block: it returns other"},
        Planted{Fault::kChangesInput, "ChangesInput", "arguments alone",
                "block: it changes its input"},
        Planted{Fault::kChangesWeights, "ChangesWeights", "arguments alone",
                "block: it changes block.gain"},
        Planted{Fault::kNotFinite, "NotFinite", "arguments alone", "block: it returns a number"},
        Planted{Fault::kDropoutInEvaluation, "DropoutInEvaluation", "random numbers", "pass.key"},
        Planted{Fault::kMixesRows, "MixesRows", "mean over rows", "one by one"},
        Planted{Fault::kAddsASum, "AddsASum", "mean over rows", "one by one"},
        Planted{Fault::kSumsTheLoss, "SumsTheLoss", "mean over rows", "one by one"},
        Planted{Fault::kCountsIgnoredLabels, "CountsIgnoredLabels", "-100", "halves"},
        Planted{Fault::kLooksAhead, "LooksAhead", "later one", "position 0 change"},
        Planted{Fault::kIgnoresTokens, "IgnoresTokens", "later one", "do not change"},
        Planted{Fault::kSeesOtherDocuments, "SeesOtherDocuments", "do not see each other",
                "pass.batch.documents"},
        Planted{Fault::kPositionOffByOne, "PositionOffByOne", "one pass", "pass.batch.positions"},
        Planted{Fault::kForgetsEarlierTokens, "ForgetsEarlierTokens", "one pass", "pass.memory"},
        Planted{Fault::kAllPositionsInTheHead, "AllPositionsInTheHead", "one pass", "last_only"},
        Planted{Fault::kUndeclaredFlops, "UndeclaredFlops", "FLOPs", "pair_flops"},
        Planted{Fault::kUndeclaredMemory, "UndeclaredMemory", "memory", "spec_.kept_floats"},
        Planted{Fault::kMultipliedButLookedUp, "MultipliedButLookedUp", "FLOPs", "looked_up"},
        Planted{Fault::kLossWithoutGradient, "LossWithoutGradient", "slopes", "lm_head"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace gigagpt::engine
