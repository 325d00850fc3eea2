#include "formats/json_text.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace gigagpt::formats {
namespace {

// Hears the parts of a JSON text in order.
class FieldListener : public nlohmann::json_sax<nlohmann::json> {
 public:
  FieldListener(const std::string& field, const std::string& where)
      : field_(field), where_(where) {}

  std::string text;
  bool found = false;

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a truth value"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("binary"); }
  bool string(string_t& value) override {
    if (depth_ == 0 || wanted_) {
      if (depth_ == 0) return other("a string");
      text = std::move(value);
      found = true;
      wanted_ = false;
    }
    return true;
  }
  bool start_object(size_t) override {
    if (depth_ > 0) other("an object");
    ++depth_;
    return true;
  }
  bool start_array(size_t) override {
    other("an array");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool end_array() override { return end_object(); }
  bool key(string_t& name) override {
    wanted_ = depth_ == 1 && name == field_;
    if (wanted_ && found) fail("{}: '{}' appears twice", where_, field_);
    return true;
  }
  bool parse_error(size_t byte, const std::string&,
                   const nlohmann::json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 9: what is wrong"
    const std::string_view message = error.what();
    const size_t begin = message.find(": ");
    fail("{}: not JSON at byte {}: {}", where_, byte,
         begin == std::string_view::npos ? message : message.substr(begin + 2));
  }

 private:
  // What is not the text: wrong as the whole line, and as the field.
  bool other(const char* kind) {
    if (depth_ == 0) fail("{}: is {}, not a JSON object", where_, kind);
    if (wanted_) fail("{}: '{}' is {}, not a string", where_, field_, kind);
    return true;
  }

  const std::string& field_;
  const std::string& where_;
  uint64_t depth_ = 0;
  bool wanted_ = false;  // the value that comes is the field's
};

}  // namespace

std::string json_text(std::string_view json, const std::string& field, const std::string& where) {
  FieldListener listener(field, where);
  nlohmann::json::sax_parse(json.begin(), json.end(), &listener);
  if (!listener.found) {
    fail("{}: has no field '{}'; --text_field names the one with the text", where, field);
  }
  return std::move(listener.text);
}

}  // namespace gigagpt::formats
