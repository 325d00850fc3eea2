// Every optimizer beside PyTorch's own (tools/optimizer_reference.py): ten steps of a few
// parameters, whose gradients depend on where the steps before have led.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/storage/memory_storage.h"
#include "formats/safetensors.h"
#include "ops/optimizers/list.h"
#include "ops/testing.h"

namespace gigagpt::engine {
namespace {

constexpr int kSteps = 10;
constexpr double kRate = 0.05;

std::vector<float> numbers(uint32_t key, size_t count) {
  std::vector<float> all;
  for (size_t i = 0; i < count; ++i) {
    uint32_t x = uint32_t(i) * 0x9E3779B1U + key * 0x85EBCA6BU;
    x = (x ^ x >> 15) * 0x2C1B3C6DU;
    x = (x ^ x >> 12) * 0x297A2D39U;
    all.push_back(float((x ^ x >> 15) >> 8) * 0x1p-23F - 1);
  }
  return all;
}

std::vector<LayerSpec> specs() {
  return {{"layer",
           "",
           {{"wide", {24, 40}},
            {"tall", {40, 24}},
            {"square", {32, 32}},
            {"table", {20, 24}, {.looked_up = true}},
            {"vector", {16}}}}};
}

class Training {
 public:
  Training(Precision precision, const ops::UpdateRule& rule, double lr)
      : storage_(specs(), {precision, true, false, GradientForm::kFp32, rule.optimizer}),
        rule_(rule),
        lr_(lr) {
    storage_.begin_writing(0);
    for_each([&](uint32_t i, const ParamSpec& param, int64_t offset) {
      std::vector<float> values = numbers(i, size_t(param.count()));
      for (float& value : values) value *= 0.125F;
      storage_.write(Array::kMaster, 0, offset, values);
    });
    storage_.finish_writing();
    for (int64_t step = 1; step <= kSteps; ++step) this->step(step);
  }

  // The largest difference of a weight over how far it has moved, in the parameter's norm.
  double difference(const std::string& reference) {
    const formats::SafetensorsReader reader(Path(GIGAGPT_SOURCE_DIR) /
                                            "engine/run/testdata/optimizers.safetensors");
    double most = 0;
    for_each([&](uint32_t i, const ParamSpec& param, int64_t offset) {
      const auto first = numbers(i, size_t(param.count())), ours = values(param, offset);
      std::vector<float> theirs(ours.size());
      reader.read_floats(reference + "/" + param.name, 0, theirs);
      double moved = 0, apart = 0;
      for (size_t e = 0; e < ours.size(); ++e) {
        moved += std::pow(double(theirs[e]) - 0.125 * double(first[e]), 2);
        apart += std::pow(double(theirs[e]) - double(ours[e]), 2);
      }
      most = std::max(most, std::sqrt(apart / moved));
    });
    return most;
  }

 private:
  template <class Visit>
  void for_each(const Visit& visit) {
    const auto& params = storage_.layout().spec(0).params;
    for (size_t p = 0; p < params.size(); ++p)
      visit(uint32_t(p), params[p], storage_.layout().offset({0, p}));
  }
  std::vector<float> values(const ParamSpec& param, int64_t offset) {
    std::vector<float> values(size_t(param.count()));
    storage_.read(Array::kMaster, 0, offset, values);
    return values;
  }
  void step(int64_t step) {
    auto* gradient = reinterpret_cast<float*>(storage_.acquire({0, true}));
    std::memset(gradient, 0, storage_.layout().gradient_bytes(0));
    for_each([&](uint32_t i, const ParamSpec& param, int64_t offset) {
      const auto weights = values(param, offset), target = numbers(100 + i, weights.size());
      const auto noise = numbers(uint32_t(1000 + 10 * step) + i, weights.size());
      for (size_t e = 0; e < weights.size(); ++e)
        gradient[offset + int64_t(e)] = (weights[e] - target[e]) * 0.5F + noise[e] * 0.25F;
    });
    storage_.release({0, true});
    storage_.defer({.rule = rule_, .lr = lr_, .step = step});
    storage_.settle();
  }

  MemoryStorage storage_;
  const ops::UpdateRule rule_;
  const double lr_;
};

// What a step adds is rounded to weights of about its size some ten times, and moves the gradients
// of the steps after it by half as much at most. Adafactor's sums are double where PyTorch's are
// fp32, over up to 1024 numbers.
constexpr double kRoundings = 10 * kSteps * ops::kUnit32;

TEST(OptimizerReference, AdamWIsPyTorchs) {
  EXPECT_LT(Training(Precision::kFp32, {&ops::AdamW::kInfo}, kRate).difference("adamw"),
            kRoundings);
}

// Its weight decay is PyTorch's only without any.
TEST(OptimizerReference, SgdIsPyTorchs) {
  Training run(Precision::kFp32, {&ops::Sgd::kInfo, {.weight_decay = 0}}, kRate);
  EXPECT_LT(run.difference("sgd"), kRoundings);
}

TEST(OptimizerReference, AdafactorIsPyTorchs) {
  const ops::UpdateRule rule{&ops::Adafactor::kInfo};
  EXPECT_LT(Training(Precision::kFp32, rule, kRate).difference("adafactor"), 4 * kRoundings);
  EXPECT_LT(Training(Precision::kFp32, rule, 0.5).difference("adafactor_fast"), 4 * kRoundings);
}

// Each of five iterations rounds the matrix, of rows of up to 40, and those after it at most double
// that in relation to singular values (their polynomial's slope near 1). Roundings to bf16 are as
// often up as down.
TEST(OptimizerReference, MuonIsPyTorchs) {
  const ops::UpdateRule rule{&ops::Muon::kInfo};
  EXPECT_LT(Training(Precision::kFp32, rule, kRate).difference("muon_double"),
            5 * 2 * 40 * ops::kUnit32);
  EXPECT_LT(Training(Precision::kBf16, rule, kRate).difference("muon"), 5 * 2 * 0x1p-9);
}

}  // namespace
}  // namespace gigagpt::engine
