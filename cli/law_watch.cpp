#include "cli/law_watch.h"

#include <fmt/format.h>

#include "base/error.h"
#include "formats/dataset.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {

LawWatch::LawWatch(const GPTConfig& config) : out_dir_(config.out_dir), file_(*config.watch.law) {
  const FittedLaw law = read_law(file_);
  const Path data = formats::find_dataset(config.dataset);
  check_law(law, file_, config, formats::fingerprint(data / "train.bin"));
  final_loss_ = law.fit.law.loss(published_flops(config));
  fresh_ = watch_by(law, config);
  if (!fresh_) fail("law: {} has no curve; `law fit` runs that log each step", file_);
}

std::optional<std::string> LawWatch::measured(formats::StepMetrics& metrics) {
  if (metrics.step != step_ + 1) {
    watch_ = fresh_;
    formats::for_each_logged(out_dir_, metrics.step - 1, [&](const formats::StepMetrics& row) {
      watch_->add(double(row.tokens), row.loss);
    });
  }
  step_ = metrics.step;
  metrics.expected_loss = watch_->expected(double(metrics.tokens));
  const auto said = watch_->add(double(metrics.tokens), metrics.loss);
  if (!said) return std::nullopt;
  return fmt::format("step {}: {} ({})", metrics.step, *said, file_);
}

}  // namespace gigagpt::cli
