// Options: parsing, rules, printing, and the nearest name.
#include "base/option.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "base/testing.h"

namespace gigagpt {
namespace {

// A field of every kind.
struct Fields {
  bool flag = false;
  int64_t count = 7;
  double rate = 0.5;
  std::string name = "x";
  std::optional<int64_t> maybe_count;
  std::optional<double> maybe_rate;
  std::optional<std::string> maybe_name;
  std::vector<Option> options() {
    return {{"flag", &flag, ""},
            {"count", &count, "", at_least(0)},
            {"rate", &rate, ""},
            {"name", &name, ""},
            {"maybe_count", &maybe_count, "", at_least(1)},
            {"maybe_rate", &maybe_rate, "", above(0)},
            {"maybe_name", &maybe_name, ""}};
  }
  void set(std::string_view key, std::string_view text) {
    const auto all = options();
    set_option(find_option(all, key), text);
  }
  std::string text(std::string_view key) {
    const auto all = options();
    return option_text(find_option(all, key));
  }
};

TEST(Option, ParsesEverySpellingOfTrueAndFalse) {
  Fields fields;
  for (const char* text : {"true", "True", "TRUE", "yes", "on", "1"}) {
    fields.flag = false;
    fields.set("flag", text);
    EXPECT_TRUE(fields.flag) << text;
  }
  for (const char* text : {"false", "False", "FALSE", "no", "Off", "0"}) {
    fields.flag = true;
    fields.set("flag", text);
    EXPECT_FALSE(fields.flag) << text;
  }
  for (const char* text : {"", "2", "truee", "null"}) {
    EXPECT_ERROR(fields.set("flag", text),
                 "flag: '" + std::string(text) + "' is not true or false");
  }
}

TEST(Option, ParsesNumbers) {
  Fields fields;
  fields.set("count", "+12");
  EXPECT_EQ(fields.count, 12);
  fields.set("count", "9223372036854775807");
  EXPECT_EQ(fields.count, INT64_MAX);
  fields.set("rate", "5.0e-6");
  EXPECT_EQ(fields.rate, 5e-6);
  fields.set("rate", "-3");
  EXPECT_EQ(fields.rate, -3.0);
}

TEST(Option, RefusesWhatIsNotANumberAndKeepsTheField) {
  Fields fields;
  for (const char* text : {"", " 1", "1 ", "1.0", "1e3", "0x10", "one", "+", "-", "+-1", "++1"}) {
    EXPECT_ERROR(fields.set("count", text), "count: '" + std::string(text) + "' is not a whole");
  }
  for (const char* text : {"", " 1", "1,5", "1.0f", "abc", "+", "+-1", "--1"}) {
    EXPECT_ERROR(fields.set("rate", text), "rate: '" + std::string(text) + "' is not a number");
  }
  for (const char* text : {"inf", "-inf", "nan"}) {
    EXPECT_ERROR(fields.set("rate", text), "is not a finite number");
  }
  EXPECT_ERROR(fields.set("count", "9223372036854775808"),
               "count: 9223372036854775808 is out of range");
  EXPECT_ERROR(fields.set("rate", "1e999"), "rate: 1e999 is out of range");
  EXPECT_EQ(fields.count, 7);
  EXPECT_EQ(fields.rate, 0.5);
}

TEST(Option, NumberTooCloseToZeroIsNotCalledTooLarge) {
  Fields fields;
  try {
    fields.set("rate", "1e-999");
    EXPECT_EQ(fields.rate, 0.0);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("too large"), std::string::npos) << error.what();
  }
}

TEST(Option, RulesHoldExactlyAtTheirBounds) {
  double value = 0;
  const Option at{"x", &value, "", at_least(2)};
  set_option(at, "2");
  EXPECT_ERROR(set_option(at, "1.999"), "x: 1.999 must be at least 2");
  const Option over{"x", &value, "", above(2)};
  set_option(over, "2.001");
  EXPECT_ERROR(set_option(over, "2"), "x: 2 must be above 2");
  const Option inside{"x", &value, "", between(0, 0.9)};
  set_option(inside, "0");
  set_option(inside, "0.9");
  EXPECT_ERROR(set_option(inside, "0.91"), "x: 0.91 must be at most 0.9");
  EXPECT_ERROR(set_option(inside, "-0.1"), "x: -0.1 must be at least 0");
  EXPECT_EQ(value, 0.9);
}

TEST(Option, RulesHoldForOptionalValuesToo) {
  Fields fields;
  EXPECT_ERROR(fields.set("maybe_count", "0"), "maybe_count: 0 must be at least 1");
  EXPECT_ERROR(fields.set("maybe_rate", "0"), "maybe_rate: 0 must be above 0");
  EXPECT_FALSE(fields.maybe_count.has_value());
}

TEST(Option, ChoicesAreListedInTheError) {
  std::string value = "cosine";
  const Option option{"decay", &value, "", one_of({"cosine", "linear"})};
  set_option(option, "linear");
  EXPECT_EQ(value, "linear");
  EXPECT_ERROR(set_option(option, "step"), "decay: 'step' is not one of cosine, linear");
  EXPECT_EQ(value, "linear");
}

TEST(Option, NullUnsetsAnOptionalField) {
  for (const char* null : {"null", "~", "None", ""}) {
    Fields fields;
    for (const char* key : {"maybe_count", "maybe_rate", "maybe_name"}) {
      fields.set(key, "3");
      ASSERT_EQ(fields.text(key), "3");
      fields.set(key, null);
      EXPECT_EQ(fields.text(key), "null") << key << " = " << null;
    }
  }
}

TEST(Option, TextReadsBackToTheSameValue) {
  const std::vector<std::pair<std::string, std::string>> values = {
      {"flag", "true"},        {"count", "9007199254740993"}, {"rate", "6e-05"},
      {"name", "a b: c"},      {"maybe_count", "4"},          {"maybe_rate", "1e-10"},
      {"maybe_name", "latest"}};
  Fields from;
  for (const auto& [key, value] : values) from.set(key, value);
  EXPECT_EQ(from.count, 9007199254740993);  // 2^53 + 1 would not survive a double
  Fields to;
  for (const Option& option : from.options()) to.set(option.name, option_text(option));
  EXPECT_EQ(to.flag, from.flag);
  EXPECT_EQ(to.count, from.count);
  EXPECT_EQ(to.rate, from.rate);
  EXPECT_EQ(to.name, from.name);
  EXPECT_EQ(to.maybe_count, from.maybe_count);
  EXPECT_EQ(to.maybe_rate, from.maybe_rate);
  EXPECT_EQ(to.maybe_name, from.maybe_name);
}

TEST(Option, EveryFiniteDoubleSurvivesItsText) {
  std::mt19937_64 random(1);
  Fields fields;
  for (int i = 0; i < 10000; ++i) {
    const auto value = std::bit_cast<double>(random());
    if (!std::isfinite(value)) continue;
    fields.rate = value;
    const std::string text = fields.text("rate");
    fields.rate = 0;
    fields.set("rate", text);
    ASSERT_EQ(std::bit_cast<uint64_t>(fields.rate), std::bit_cast<uint64_t>(value)) << text;
  }
}

TEST(Option, UnknownNameSuggestsTheNearest) {
  Fields fields;
  EXPECT_ERROR(fields.set("raet", "1"), "unknown key 'raet'; did you mean 'rate'?");
  EXPECT_ERROR(fields.set("qqqqqqqq", "1"), "unknown key 'qqqqqqqq'");
  try {
    fields.set("qqqqqqqq", "1");
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("did you mean"), std::string::npos);
  }
}

TEST(NearestName, CountsEditsAndGivesUpOnFarNames) {
  const auto near = [](const char* name, std::vector<std::string> candidates) {
    return nearest_name(name, candidates);
  };
  EXPECT_EQ(near("kitten", {"sitting", "mitten", "kit"}), "mitten");  // 1 edit; 3 to the others
  EXPECT_EQ(near("kitten", {"sitting"}), "sitting");                  // half of the name
  EXPECT_EQ(near("ab", {"cd"}), "cd");                                // two edits are always near
  EXPECT_EQ(near("ab", {"cde"}), "");
  EXPECT_EQ(near("abcd", {"abcd"}), "abcd");
  EXPECT_EQ(near("", {"x", "abc"}), "x");
  EXPECT_EQ(near("abc", {}), "");
}

}  // namespace
}  // namespace gigagpt
