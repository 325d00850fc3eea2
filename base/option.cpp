#include "base/option.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace gigagpt {
namespace {

template <class Number>
Number parse_number(const Option& option, std::string_view text, const char* kind) {
  Number value{};
  const char* begin = text.data() + (text.starts_with('+') && !text.starts_with("+-") ? 1 : 0);
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error == std::errc::result_out_of_range) fail("{}: {} is out of range", option.name, text);
  if (error != std::errc{} || stop != end) fail("{}: '{}' is not {}", option.name, text, kind);
  return value;
}

bool parse_bool(const Option& option, std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (lower == "true" || lower == "yes" || lower == "on" || lower == "1") return true;
  if (lower == "false" || lower == "no" || lower == "off" || lower == "0") return false;
  fail("{}: '{}' is not true or false", option.name, text);
}

void check_range(const Option& option, double value) {
  const Rule& rule = option.rule;
  if (!std::isfinite(value)) fail("{}: {} is not a finite number", option.name, value);
  if (rule.above_min && value <= rule.min) {
    fail("{}: {} must be above {}", option.name, value, rule.min);
  }
  if (value < rule.min) fail("{}: {} must be at least {}", option.name, value, rule.min);
  if (value > rule.max) fail("{}: {} must be at most {}", option.name, value, rule.max);
}

bool is_null(std::string_view text) {
  return text.empty() || text == "null" || text == "~" || text == "None";
}

void parse(const Option& option, std::string_view text, bool* field) {
  *field = parse_bool(option, text);
}

void parse(const Option& option, std::string_view text, int64_t* field) {
  const auto value = parse_number<int64_t>(option, text, "a whole number");
  check_range(option, static_cast<double>(value));
  *field = value;
}

void parse(const Option& option, std::string_view text, double* field) {
  const auto value = parse_number<double>(option, text, "a number");
  check_range(option, value);
  *field = value;
}

void parse(const Option& option, std::string_view text, std::string* field) {
  const auto& choices = option.rule.choices;
  if (!choices.empty() && std::ranges::find(choices, text) == choices.end()) {
    fail("{}: '{}' is not one of {}", option.name, text, fmt::join(choices, ", "));
  }
  if (is_null(text)) fail("{}: a value is needed", option.name);
  *field = text;
}

template <class T>
void parse(const Option& option, std::string_view text, std::optional<T>* field) {
  if (is_null(text)) {
    field->reset();
    return;
  }
  T value{};
  parse(option, text, &value);
  *field = value;
}

template <class T>
std::string to_text(const T& value) {
  return fmt::format("{}", value);
}

template <class T>
std::string to_text(const std::optional<T>& value) {
  return value ? to_text(*value) : "null";
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row.back();
}

}  // namespace

Rule at_least(double min) {
  return {.min = min};
}
Rule above(double min) {
  return {.min = min, .above_min = true};
}
Rule between(double min, double max) {
  return {.min = min, .max = max};
}
Rule one_of(std::vector<std::string> choices) {
  return {.choices = std::move(choices)};
}

void set_option(const Option& option, std::string_view text) {
  std::visit([&](auto* field) { parse(option, text, field); }, option.target);
}

std::string option_text(const Option& option) {
  return std::visit([](const auto* field) { return to_text(*field); }, option.target);
}

std::vector<std::pair<std::string, std::string>> option_texts(std::span<const Option> options) {
  std::vector<std::pair<std::string, std::string>> texts;
  for (const Option& option : options) texts.emplace_back(option.name, option_text(option));
  return texts;
}

const Option& find_option(std::span<const Option> options, std::string_view name) {
  const auto found = std::ranges::find(options, name, &Option::name);
  if (found != options.end()) return *found;
  std::vector<std::string> names;
  std::ranges::transform(options, std::back_inserter(names), &Option::name);
  const std::string near = nearest_name(name, names);
  fail("unknown key '{}'{}", name, near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
}

std::string nearest_name(std::string_view name, std::span<const std::string> candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 2) + 1;  // farther is no help
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace gigagpt
