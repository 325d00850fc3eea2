#include "formats/tensorboard.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <filesystem>

#include "base/crc32c.h"
#include "base/error.h"
#include "formats/json.h"
#include "formats/tensorboard.pb.h"

namespace gigagpt::formats {
namespace {
namespace fs = std::filesystem;
namespace proto = tensorboard;

constexpr std::string_view kPrefix = "events.out.tfevents.";

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string record_of(proto::Event& event, int64_t step) {
  event.set_wall_time(seconds_since_1970());
  event.set_step(step);
  return event_record(event.SerializeAsString());
}

std::string version_record() {
  proto::Event event;
  event.set_file_version("brain.Event:2");
  return record_of(event, 0);
}

std::string scalars_record(int64_t step, const std::vector<Scalar>& scalars) {
  proto::Event event;
  for (const Scalar& scalar : scalars) {
    auto& value = *event.mutable_summary()->add_value();
    value.set_tag(std::string(scalar.tag));
    value.set_simple_value(static_cast<float>(scalar.value));
  }
  return record_of(event, step);
}

void make_directory(const Path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail("cannot create {}: {}", directory.string(), error.message());
}

std::vector<Path> event_files(const Path& directory) {
  std::vector<Path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().filename().native().starts_with(kPrefix)) files.push_back(entry.path());
  }
  if (error) fail("cannot read {}: {}", directory.string(), error.message());
  return files;
}

// TensorBoard reads a folder's files in the order of their names, which begin with the time. A new
// one comes after the others, whatever the clock and process numbers do.
Path next_file(const Path& directory, const std::vector<Path>& older) {
  auto seconds = static_cast<int64_t>(seconds_since_1970());
  for (const Path& path : older) {
    const std::string number = path.filename().string().substr(kPrefix.size(), 10);
    int64_t theirs = 0;
    std::from_chars(number.data(), number.data() + number.size(), theirs);
    seconds = std::max(seconds, theirs + 1);
  }
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || host[0] == '\0') host = {"localhost"};
  std::replace(host.begin(), host.end(), '/', '_');
  return directory / fmt::format("{}{:010}.{}.{}.0", kPrefix, seconds, host.data(),
                                 static_cast<int>(::getpid()));
}

File open_file(const Path& directory, int64_t completed_steps) {
  make_directory(directory);
  std::vector<Path> older = event_files(directory);
  if (completed_steps == 0) {
    for (const Path& path : older) {
      std::error_code error;
      fs::remove(path, error);
      if (error) fail("cannot remove {}: {}", path.string(), error.message());
    }
    older.clear();
  }
  return File::create(next_file(directory, older));
}

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(bytes)));
  return (crc >> 15 | crc << 17) + 0xA282EAD8U;
}

void append(std::string& to, const auto& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));  // little-endian
}

// So that it is shown as it is, in one line; bytes that are not UTF-8 would stop the reader.
std::string escaped(const std::string& text) {
  std::string result;
  const std::string valid = parse_json<nlohmann::json>(to_text(nlohmann::json(text)), "");
  for (const char c : valid) {
    constexpr std::string_view kMarks = R"(\`*_[]|)";
    if (c == '<' || c == '&') {
      result += c == '<' ? "&lt;" : "&amp;";
    } else if (static_cast<unsigned char>(c) < ' ') {
      result += ' ';
    } else {
      if (kMarks.find(c) != std::string_view::npos) result += '\\';
      result += c;
    }
  }
  return result;
}

}  // namespace

EventWriter::EventWriter(const Path& directory, int64_t completed_steps)
    : file_(open_file(directory, completed_steps)) {
  proto::Event start;
  start.mutable_session_log()->set_status(proto::SessionLog::START);
  file_.write(version_record() + record_of(start, completed_steps + 1));
}

void EventWriter::write(int64_t step, const std::vector<Scalar>& scalars) {
  file_.write(scalars_record(step, scalars));
}

void EventWriter::write_text(int64_t step, std::string_view tag, std::string_view markdown) {
  proto::Event event;
  auto& value = *event.mutable_summary()->add_value();
  value.set_tag(std::string(tag));
  value.mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
  value.mutable_metadata()->set_data_class(proto::Metadata::TENSOR);
  value.mutable_tensor()->set_dtype(proto::Tensor::STRING);
  value.mutable_tensor()->mutable_tensor_shape();  // a single text
  value.mutable_tensor()->add_string_val(std::string(markdown));
  file_.write(record_of(event, step));
}

void write_eval_event(const Path& directory, int64_t step, double loss, double perplexity) {
  make_directory(directory);
  // Named by step, as a later file's steps must not come before those of the files before it.
  write_text_atomically(directory / fmt::format("{}{:010}.eval", kPrefix, step),
                        version_record() + scalars_record(step, {{"val/loss", loss},
                                                                 {"val/perplexity", perplexity}}));
}

std::string markdown_table(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::string table = "| key | value |\n| --- | --- |\n";
  for (const auto& [key, value] : rows) {
    table += fmt::format("| {} | {} |\n", escaped(key), escaped(value));
  }
  return table;
}

std::string event_record(std::string_view message) {
  std::string record;
  append(record, uint64_t{message.size()});
  append(record, masked_crc32c(record));
  record += message;
  append(record, masked_crc32c(message));
  return record;
}

}  // namespace gigagpt::formats
