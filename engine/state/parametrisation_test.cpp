#include "engine/state/parametrisation.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/state/layer_spec.h"
#include "ops/optimizers/list.h"

namespace gigagpt::engine {
namespace {

// A model of one block, each parameter of a kind of its own.
struct Ends : Declaration {
  explicit Ends(const Parametrisation& p) : Declaration({"ends"}, p) {
    add("tokens", {50, 8}, {.looked_up = true});
    add("positions", {9, 8}, {.per_token = 0});
    norm("ln", 8, /*bias=*/true);
    add("logits", {50, 8}, {.output = true});
    share("tokens", {.output = true});
    share("tokens");
  }
};
struct Block : Declaration {
  explicit Block(const Parametrisation& p) : Declaration({"block", "block."}, p) {
    linear("in", 8, 32, {}, /*bias=*/true);
    linear("out", 32, 8, {.ends_branch = true}, /*bias=*/true);
    norm("ln", 8);
    add("own", {8, 8}, {.init = normal(0.7), .factors = {.rate = 2}});
  }
};

struct Expected {
  std::string name;
  double std, rate, decay, epsilon, multiplier;
};

void expect(const Declaration& layer, const std::vector<Expected>& all) {
  ASSERT_EQ(layer.spec().params.size(), all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const ParamSpec& param = layer.spec().params[i];
    SCOPED_TRACE(param.name);
    EXPECT_EQ(param.name, all[i].name);
    EXPECT_DOUBLE_EQ(param.init().deviation, all[i].std);
    EXPECT_DOUBLE_EQ(param.factors().rate, all[i].rate);
    EXPECT_DOUBLE_EQ(param.factors().decay, all[i].decay);
    EXPECT_DOUBLE_EQ(param.factors().epsilon, all[i].epsilon);
    EXPECT_DOUBLE_EQ(param.rule.multiplier, all[i].multiplier);
  }
}

ParametrisationRules rules() {
  ParametrisationRules rules;
  rules.init_std = 0.08;
  return rules;
}

TEST(Parametrisation, TheStandardOneIsGpt2s) {
  const Parametrisation p = rules().at(1024, 8, ops::AdamW::kInfo);
  expect(Ends(p), {{"tokens", 0.08, 1, 1, 1, 1},
                   {"positions", 0.08, 1, 1, 1, 1},
                   {"ln.weight", 0, 1, 0, 1, 1},
                   {"ln.bias", 0, 1, 0, 1, 1},
                   {"logits", 0.08, 1, 1, 1, 1}});
  expect(Block(p), {{"in.weight", 0.08, 1, 1, 1, 1},
                    {"in.bias", 0, 1, 0, 1, 1},
                    {"out.weight", 0.02, 1, 1, 1, 1},  // 0.08 / sqrt(16)
                    {"out.bias", 0, 1, 0, 1, 1},
                    {"ln.weight", 0, 1, 0, 1, 1},
                    {"own", 0.7, 2, 1, 1, 1}});
  EXPECT_FALSE(Block(p).spec().over_size);
  EXPECT_EQ(Ends(p).spec().params[2].init().mean, 1);
  ParametrisationRules residual = rules();
  residual.residual_init_std = 0.0025;
  EXPECT_EQ(Block(residual.at(1024, 8, ops::AdamW::kInfo)).spec().params[2].init().deviation,
            0.0025);
}

// The table in the header at m = 4, and Cerebras-GPT's 256M, whose configuration says 0.0388,
// 0.007333 and logits times 0.235294.
TEST(Parametrisation, MupAsCerebrasGptHasIt) {
  ParametrisationRules mup = rules();
  mup.mup_base_width = 256;
  mup.embedding_multiplier = 10;
  mup.output_multiplier = 3;
  const Parametrisation p = mup.at(1024, 8, ops::AdamW::kInfo);
  expect(Ends(p), {{"tokens", 0.08, 1, 1, 1, 10},
                   {"positions", 0.08, 1, 1, 1, 10},
                   {"ln.weight", 0, 1, 0, 1, 1},
                   {"ln.bias", 0, 1, 0, 1, 1},
                   {"logits", 0.08, 1, 1, 1, 0.75}});
  expect(Block(p), {{"in.weight", 0.04, 0.25, 1, 1, 1},
                    {"in.bias", 0, 1, 0, 1, 1},
                    {"out.weight", 0.01, 0.25, 1, 1, 1},
                    {"out.bias", 0, 1, 0, 1, 1},
                    {"ln.weight", 0, 1, 0, 1, 1},
                    {"own", 0.7, 0.5, 1, 1, 1}});
  EXPECT_TRUE(Block(p).spec().over_size);
  EXPECT_EQ(Ends(p).spec().shared, (std::vector<SharedParam>{{"tokens", 0.75}, {"tokens", 1}}));

  mup.output_multiplier = 1;
  const Parametrisation published = mup.at(1088, 14, ops::AdamW::kInfo);
  EXPECT_NEAR(published.hidden_std, 0.0388, 5e-5);
  EXPECT_NEAR(published.branch_std, 0.007333, 1e-6);
  EXPECT_NEAR(published.output, 0.235294, 5e-7);
  EXPECT_NEAR(6e-3 * published.rate, 1.4118e-3, 5e-8);
}

TEST(Parametrisation, CompletePGoesByTheDepthToo) {
  ParametrisationRules complete = rules();
  complete.mup_base_width = 256;
  complete.mup_base_depth = 2;
  const Parametrisation p = complete.at(1024, 8, ops::AdamW::kInfo);  // m = 4, n = 4
  expect(Ends(p), {{"tokens", 0.08, 1, 1, 0.25, 1},
                   {"positions", 0.08, 1, 1, 0.25, 1},
                   {"ln.weight", 0, 1, 0, 0.25, 1},
                   {"ln.bias", 0, 1, 0, 0.25, 1},
                   {"logits", 0.08, 1, 1, 0.25, 0.25}});
  expect(Block(p), {{"in.weight", 0.04, 0.25, 4, 0.0625, 1},
                    {"in.bias", 0, 1, 0, 0.0625, 1},
                    {"out.weight", 0.04, 0.25, 4, 0.0625, 0.25},
                    {"out.bias", 0, 1, 0, 0.0625, 0.25},
                    {"ln.weight", 0, 1, 0, 0.0625, 1},
                    {"own", 0.7, 0.5, 4, 0.0625, 1}});
}

TEST(Parametrisation, OtherOptimizersHaveARuleOrAreRefused) {
  ParametrisationRules mup = rules();
  mup.mup_base_width = 64;
  const auto rate = [&](const ops::Optimizer& optimizer) {
    mup.check(optimizer);
    return mup.at(1024, 8, optimizer).rate;
  };
  EXPECT_DOUBLE_EQ(rate(ops::Lion::kInfo), 1 / 16.0);
  EXPECT_DOUBLE_EQ(rate(ops::Muon::kInfo), 1 / 4.0);
  EXPECT_DOUBLE_EQ(rate(ops::Adafactor::kInfo), 1 / 4.0);
  mup.mup_base_depth = 2;
  for (const auto* optimizer : {&ops::AdamW::kInfo, &ops::Muon::kInfo, &ops::Adafactor::kInfo}) {
    const Parametrisation p = mup.at(1024, 8, *optimizer);
    EXPECT_DOUBLE_EQ(p.rate * p.decay, 1) << "a step takes as much of a weight at any width";
  }
  mup.mup_base_depth.reset();
  try {
    mup.check(ops::Sgd::kInfo);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "mup_base_width: there is no rule for optimizer: sgd; it is known for adafactor, "
                 "adamw, lion and muon");
  }
  rules().check(ops::Sgd::kInfo);
}

TEST(Parametrisation, KeysThatDoNotGoTogetherAreNamed) {
  const auto message = [](const ParametrisationRules& rules) -> std::string {
    try {
      rules.check(ops::AdamW::kInfo);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  ParametrisationRules depth = rules(), residual = rules();
  depth.mup_base_depth = 2;
  EXPECT_TRUE(message(depth).starts_with("mup_base_depth: it needs mup_base_width"));
  residual.mup_base_width = residual.mup_base_depth = 2;
  EXPECT_EQ(message(residual), "");
  residual.residual_init_std = 0.01;
  EXPECT_TRUE(message(residual).starts_with("residual_init_std: "));
}

TEST(Parametrisation, TruncatedNormalsAreCutAtTwoDeviations) {
  ParametrisationRules truncated = rules();
  EXPECT_EQ(Block(truncated.at(8, 1, ops::AdamW::kInfo)).spec().params[0].init().cut, 0);
  truncated.init = "truncated_normal";
  EXPECT_EQ(Block(truncated.at(8, 1, ops::AdamW::kInfo)).spec().params[0].init().cut, 2);
}

}  // namespace
}  // namespace gigagpt::engine
