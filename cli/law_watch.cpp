#include "cli/law_watch.h"

#include <fmt/format.h>

#include "base/error.h"
#include "formats/dataset.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {

LawWatch::LawWatch(const GPTConfig& config) : out_dir_(config.out_dir), file_(*config.watch.law) {
  const FittedLaw law = read_law(file_);
  const Path data = formats::find_dataset(config.dataset);
  check_law(law, file_, comparable(config, formats::fingerprint(data / "train.bin")));
  const double ratio = tokens_per_parameter(config);
  if (ratio > 1.5 * law.ratio() || ratio < law.ratio() / 1.5) {
    fail("law: {} is of runs that see {:.3g} tokens a parameter, and this one sees {:.3g}", file_,
         law.ratio(), ratio);
  }
  final_loss_ = law.fit.law.loss(published_flops(config));
  fresh_ = watch_by(law, config);
  if (!fresh_) {
    fail(
        "law: {} has no curve of normal runs; fit it again, to five or more runs of at least 40 "
        "steps each",
        file_);
  }
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
