// Named, typed, checked fields: one list of them drives a YAML file, command-line flags, the help
// text, the printed configuration and the copy kept in a checkpoint.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace gigagpt {

// What a value must satisfy; the default allows everything.
struct Rule {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  // the minimum itself is not allowed
  std::vector<std::string> choices = {};
};
Rule at_least(double min);
Rule above(double min);
Rule between(double min, double max);
Rule one_of(std::vector<std::string> choices);

// A field of some configuration object, which must outlive the option. An optional field is null
// until set.
struct Option {
  using Target = std::variant<bool*, int64_t*, double*, std::string*, std::optional<int64_t>*,
                              std::optional<double>*, std::optional<std::string>*>;
  std::string name;
  Target target;
  std::string help;
  Rule rule = {};
};

// Parses `text` into the field. Throws Error naming the field, the text and what is allowed.
void set_option(const Option& option, std::string_view text);

// The field's value as text that set_option reads back to the same value ("null" when unset).
std::string option_text(const Option& option);

// All names with their values as text.
std::vector<std::pair<std::string, std::string>> option_texts(std::span<const Option> options);

// The option of that name. Throws Error with the nearest name if there is none.
const Option& find_option(std::span<const Option> options, std::string_view name);

// The candidate with the smallest edit distance (Levenshtein 1966) to `name`; "" if none is near.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

}  // namespace gigagpt
