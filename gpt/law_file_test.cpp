#include "gpt/law_file.h"

#include <gtest/gtest.h>

#include "base/temporary_directory.h"
#include "base/testing.h"

namespace gigagpt {
namespace {

FittedLaw some_law() {
  FittedLaw law{
      {{"mine", 3e14, 0.21, 1.1}, {0.2, 0.22}, {1.0, 1.2}, 0.003}, {}, {"a text", "muP", 2048}};
  for (int i = 0; i < 4; ++i)
    law.runs.push_back({"run" + std::to_string(i), 1e12 * (i + 1), 1e5, 2e6, 4.0 - i / 10.0});
  law.tokens_per_byte = 0.5;
  law.curve = CollapseCurve{30,
                            std::vector<double>(kCollapseParts, 0.2),
                            std::vector<double>(kCollapseParts, 0.03),
                            {{8, std::vector<double>(kCollapseParts, 0.01), 5}}};
  return law;
}

TEST(LawFile, KeepsTheLaw) {
  const TemporaryDirectory folder;
  const Path file = folder.path() / "law.json";
  const FittedLaw law = some_law();
  write_law(file, law);
  const FittedLaw read = read_law(file);
  EXPECT_EQ(read.fit.law.name, "mine");
  EXPECT_EQ(read.fit.law.scale, law.fit.law.scale);
  EXPECT_EQ(read.fit.law.exponent, law.fit.law.exponent);
  EXPECT_EQ(read.fit.law.floor, law.fit.law.floor);
  EXPECT_EQ(read.fit.exponent.high, 0.22);
  EXPECT_EQ(read.fit.floor.low, 1.0);
  EXPECT_EQ(read.fit.scatter, 0.003);
  EXPECT_EQ(difference(read.kind, law.kind), "");
  EXPECT_EQ(read.kind.data, "a text");
  EXPECT_EQ(read.tokens_per_byte, 0.5);
  ASSERT_EQ(read.runs.size(), 4U);
  EXPECT_EQ(read.runs[3].name, "run3");
  EXPECT_EQ(read.runs[3].loss, law.runs[3].loss);
  EXPECT_EQ(read.ratio(), 20);
  ASSERT_TRUE(read.curve);
  EXPECT_EQ(read.curve->log_flops, 30);
  EXPECT_EQ(read.curve->level, law.curve->level);
  EXPECT_EQ(read.curve->slope, law.curve->slope);
  ASSERT_EQ(read.curve->bands.size(), 1U);
  EXPECT_EQ(read.curve->bands[0].parts, 8U);
  EXPECT_EQ(read.curve->bands[0].spread, law.curve->bands[0].spread);
  EXPECT_EQ(read.curve->bands[0].reach, 5);
}

TEST(LawFile, WhatIsNoLawIsRefused) {
  const TemporaryDirectory folder;
  EXPECT_ERROR(read_law(folder.path() / "none.json"), "none.json");
  EXPECT_ERROR(read_law(folder.write("no", "{}")), "it is not a law that `gigagpt law fit` wrote");
  EXPECT_ERROR(read_law(folder.write("text", "a law")), "text");
  const auto changed = [&](const std::function<void(FittedLaw&)>& change) {
    FittedLaw law = some_law();
    change(law);
    write_law(folder.path() / "law.json", law);
    return folder.path() / "law.json";
  };
  EXPECT_ERROR(read_law(changed([](FittedLaw& law) { law.fit.law.scale = 0; })),
               "a number of its law or its runs is not above zero");
  EXPECT_ERROR(read_law(changed([](FittedLaw& law) { law.runs[2].flops = 0; })),
               "a number of its law or its runs is not above zero");
  EXPECT_ERROR(read_law(changed([](FittedLaw& law) { law.curve->bands.clear(); })),
               "its curve is not one that `gigagpt law fit` wrote");
  EXPECT_ERROR(read_law(changed([](FittedLaw& law) { law.runs.pop_back(); })),
               "it names fewer than four runs");
  EXPECT_ERROR(read_law(changed([](FittedLaw& law) { law.curve->level.pop_back(); })),
               "its curve is not one that `gigagpt law fit` wrote");
  EXPECT_ERROR(read_law(changed([](FittedLaw& law) { law.curve->bands[0].spread[3] = 0; })),
               "its curve is not one that `gigagpt law fit` wrote");
}

TEST(LawFile, IsOfOneTextOneParametrisationAndOneLength) {
  const FittedLaw law = some_law();
  GPTConfig config;
  config.parametrisation.mup_base_width = 64;
  EXPECT_NO_THROW(check_law(law, "law.json", comparable(config, "a text")));
  EXPECT_ERROR(check_law(law, "law.json", comparable(config, "another")),
               "law: this run cannot be compared with those of law.json: its text is another and "
               "not a text");
  config.sequence_length = 128;
  EXPECT_ERROR(check_law(law, "law.json", comparable(config, "a text")),
               "its sequences have 128 tokens and not 2048");
  config.parametrisation.mup_base_width.reset();
  EXPECT_ERROR(check_law(law, "law.json", comparable(config, "a text")),
               "it is in the standard parametrisation and not in muP");
}

}  // namespace
}  // namespace gigagpt
