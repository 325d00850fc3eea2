// A run's files: trainer_state.json, a zero byte, metrics.jsonl that a run goes on with at step 5.
#include "formats/run_files.h"

#include <sstream>

#include "formats/json.h"
#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

void read_state(std::string_view input) {
  fuzz::write("trainer_state.json", input);
  const auto state = formats::read_trainer_state(fuzz::scratch());
  formats::write_trainer_state(fuzz::scratch(), state);
  const auto again = formats::read_trainer_state(fuzz::scratch());
  GIGAGPT_ASSERT(again.step == state.step && again.tokens == state.tokens);
  GIGAGPT_ASSERT(again.config == state.config && again.manifest == state.manifest);
  GIGAGPT_ASSERT(again.files == state.files);
  formats::markdown_table(state.config);
}

void continue_metrics(std::string_view input) {
  const Path path = fuzz::write("metrics.jsonl", input);
  std::filesystem::remove_all(fuzz::scratch() / "tensorboard");
  formats::MetricsLog log(fuzz::scratch(), 5, {});
  log.write({.step = 6});
  std::istringstream lines(read_text(path));
  int64_t last = 0;
  for (std::string line; std::getline(lines, line);) {
    last = formats::parse_json<nlohmann::json>(line, "metrics.jsonl").at("step").get<int64_t>();
    GIGAGPT_ASSERT(last <= 6);
  }
  GIGAGPT_ASSERT(last == 6);
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace gigagpt;
  return fuzz::run(data, size, [](std::string_view input) {
    const fuzz::Parts parts = fuzz::split(input);
    if (!parts.second.empty()) continue_metrics(parts.second);
    read_state(parts.first);
  });
}
