#include "engine/run/watch.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/json.h"
#include "formats/run_files.h"

namespace gigagpt::engine {
namespace {

constexpr size_t kKnown = 64;      // steps to compare with
constexpr size_t kLeast = 32;      // before that nothing is judged
constexpr int64_t kBefore = 4;     // steps before a spike that are left out with it
constexpr int kMostAttempts = 10;  // to get past a step
// What counts hardly at all, as a share of the loss; and how many times as large a gradient must
// be, since norms move to another level within a few steps of a warm-up, while the loss goes on
// falling.
constexpr double kLeastLoss = 5e-3;
constexpr double kLeastNormRatio = 5;
constexpr double kNormal = 1.4826;  // of a normal distribution: deviation over MAD
constexpr const char* kLeftOut = "left_out.json";

double median(std::vector<double> values) {
  const auto middle = values.begin() + int64_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// What comes next by a line through the medians of both halves, as losses fall, and the standard
// deviation around it.
struct Typical {
  double value = 0, deviation = 0;
  double score(double x) const { return (x - value) / deviation; }
};

// `least` keeps the deviation of values that hardly vary from being nothing.
Typical typical(const std::deque<double>& known, double least) {
  const auto half = int64_t(known.size() / 2);
  const double early = median({known.begin(), known.begin() + half});
  const double late = median({known.end() - half, known.end()});
  const double slope = std::min(0.0, (late - early) / double(known.size() - size_t(half)));
  const double last = late + slope * double(half - 1) / 2;  // the line at the last of them
  std::vector<double> distances;
  for (size_t i = 0; i < known.size(); ++i) {
    distances.push_back(std::fabs(known[i] - (last - slope * double(known.size() - 1 - i))));
  }
  return {last + slope, std::max(kNormal * median(distances), least)};
}

Path left_out_file(const Path& folder) {
  return folder / kLeftOut;
}

std::vector<int64_t> parse_left_out(const std::string& text, const std::string& where) {
  if (text.empty()) return {};
  try {
    auto batches =
        formats::parse_json<nlohmann::json>(text, where).at("batches").get<std::vector<int64_t>>();
    std::sort(batches.begin(), batches.end());
    return batches;
  } catch (const nlohmann::json::exception& error) {
    fail("{}: {}", where, error.what());
  }
}

}  // namespace

std::string SpikeDetector::judge(double loss, double norm) const {
  if (losses_.size() < kLeast) return "";
  const Typical losses =
      typical(losses_, kLeastLoss * std::fabs(median({losses_.begin(), losses_.end()})));
  const double z = losses.score(loss);
  if (z > threshold_) {
    return fmt::format(
        "the loss, {:.4f}, is {:.0f} standard deviations above {:.4f}, to which the last {} steps "
        "lead",
        loss, z, losses.value, losses_.size());
  }
  const Typical norms = typical(norms_, 1e-2);
  const double norm_z = norms.score(std::log(norm));
  if (norm > kLeastNormRatio * std::exp(norms.value) && norm_z > threshold_) {
    return fmt::format(
        "the gradient's norm, {:.3g}, is {:.0f} standard deviations above {:.3g}, to which the "
        "last {} steps lead",
        norm, norm_z, std::exp(norms.value), norms_.size());
  }
  return "";
}

void SpikeDetector::add(double loss, double norm) {
  losses_.push_back(loss);
  norms_.push_back(std::log(std::max(norm, 1e-30)));
  if (losses_.size() <= kKnown) return;
  losses_.pop_front();
  norms_.pop_front();
}

Watch::Watch(const WatchRules& rules, Path out_dir, const Store& store, Note note)
    : rules_(rules),
      out_dir_(std::move(out_dir)),
      cluster_(store.cluster()),
      note_(std::move(note)),
      spikes_(rules.spike_threshold) {
  if (rules_.on_spike != "warn" && store.updates_in_visits()) {
    throw AgreedError(
        "on_spike: with clip: layer each layer is updated before the step is complete, so its "
        "batch cannot be left out; use on_spike: warn, or clip: global");
  }
  if (rewinds() && !store.file_id().empty()) {
    throw AgreedError(
        "on_spike: the state of this run is in a file, which has no way back; use on_spike: skip, "
        "which leaves out the batch of a spike before it is learned from");
  }
}

void Watch::load(int64_t step) {
  spikes_ = SpikeDetector(rules_.spike_threshold);
  best_loss_.reset();
  since_best_ = 0;
  const Path file = left_out_file(out_dir_);
  std::string text;
  cluster_.together([&] {
    if (!cluster_.leads()) return;
    formats::for_each_logged(out_dir_, step, [&](const formats::StepMetrics& row) {
      spikes_.add(row.loss, row.grad_norm);
      if (!row.val_loss) return;
      ++since_best_;
      if (best_loss_ && *best_loss_ <= *row.val_loss) return;
      best_loss_ = row.val_loss, best_step_ = row.step;
      since_best_ = 0;
    });
    if (std::filesystem::exists(file)) text = read_text(file);
    parse_left_out(text, file.string());
  });
  left_out_ = parse_left_out(cluster_.gather_texts(text)[0], file.string());
}

int64_t Watch::batch_of(int64_t step) const {
  int64_t batch = step;
  for (const int64_t left_out : left_out_) batch += left_out <= batch ? 1 : 0;
  return batch;
}

bool Watch::accepts(int64_t step, double loss, double norm) {
  const std::string spike = cluster_.leads() ? spikes_.judge(loss, norm) : "";
  if (!spike.empty()) note_(fmt::format("step {}: {}", step + 1, spike));
  if (rules_.on_spike != "warn" && cluster_.any(!spike.empty())) return false;
  spikes_.add(loss, norm);
  if (step > furthest_) attempts_ = 0;
  return true;
}

bool Watch::leaves_out(int64_t step, const std::string& why) const {
  if (rules_.on_spike == "warn") return false;
  note_(fmt::format("step {}: {}", step + 1, why));
  return true;
}

void Watch::leave_out(int64_t step, int64_t first_step) {
  furthest_ = std::max(furthest_, step);
  if (++attempts_ > kMostAttempts) {
    throw AgreedError(fmt::format(
        "step {}: leaving out batches has not helped {} times: the model does not learn "
        "here; try a lower learning_rate, or on_spike: warn",
        step + 1, kMostAttempts));
  }
  std::vector<int64_t> batches;
  for (int64_t s = std::max(first_step, step - kBefore); s <= step; ++s)
    batches.push_back(batch_of(s));
  left_out_.insert(left_out_.end(), batches.begin(), batches.end());
  std::sort(left_out_.begin(), left_out_.end());
  cluster_.together([&] {
    if (!cluster_.leads()) return;
    write_text_atomically(left_out_file(out_dir_),
                          formats::to_text(nlohmann::json{{"batches", left_out_}}) + "\n");
  });
  note_(batches.size() == 1 ? fmt::format("batch {} is left out", batches[0])
                            : fmt::format("going back to step {}; batches {} to {} are left out",
                                          first_step, batches.front(), batches.back()));
}

bool Watch::is_best(formats::StepMetrics& report, double val_loss) {
  const bool better = cluster_.any(cluster_.leads() && (!best_loss_ || val_loss < *best_loss_));
  ++since_best_;
  if (better) {
    best_loss_ = val_loss, best_step_ = report.step;
    since_best_ = 0;
  }
  report.val_loss = val_loss;
  report.best_val_loss = best_loss_.value_or(val_loss);
  report.best_step = best_step_;
  return better;
}

bool Watch::stalls() {
  if (rules_.early_stopping == 0) return false;
  if (!cluster_.any(cluster_.leads() && since_best_ >= rules_.early_stopping)) return false;
  note_(fmt::format("early_stopping: the best val_loss, {:.4f} at step {}, is {} evaluations old",
                    best_loss_.value_or(0), best_step_, since_best_));
  return true;
}

void carry_left_out(const Path& from, const Path& to) {
  const Path target = left_out_file(to);
  std::error_code missing;
  if (!from.empty() && std::filesystem::exists(left_out_file(from)))
    write_text_atomically(target, read_text(left_out_file(from)));
  else
    std::filesystem::remove(target, missing);
}

}  // namespace gigagpt::engine
