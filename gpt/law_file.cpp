#include "gpt/law_file.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/json.h"

namespace gigagpt {
namespace {

using nlohmann::ordered_json;

ordered_json json_of(const LawPoint& run) {
  return {{"name", run.name},
          {"flops", run.flops},
          {"parameters", run.parameters},
          {"tokens", run.tokens},
          {"loss", run.loss}};
}

LawPoint point_in(const ordered_json& run) {
  return {run.at("name").get<std::string>(), run.at("flops").get<double>(),
          run.at("parameters").get<double>(), run.at("tokens").get<double>(),
          run.at("loss").get<double>()};
}

Interval interval_in(const ordered_json& pair) {
  return {pair.at(0).get<double>(), pair.at(1).get<double>()};
}

CollapseCurve curve_in(const ordered_json& json, const std::string& file) {
  CollapseCurve curve{json.at("log_flops").get<double>(),
                      json.at("level").get<std::vector<double>>(),
                      json.at("slope").get<std::vector<double>>(),
                      {}};
  bool whole = curve.level.size() == kCollapseParts && curve.slope.size() == kCollapseParts;
  for (const ordered_json& band : json.at("bands")) {
    curve.bands.push_back({band.at("parts").get<size_t>(),
                           band.at("spread").get<std::vector<double>>(),
                           band.at("reach").get<double>()});
    const auto& [parts, spread, reach] = curve.bands.back();
    whole = whole && parts >= 1 && parts <= kCollapseParts && spread.size() == kCollapseParts &&
            reach > 0;
    for (const double deviation : spread) whole = whole && deviation > 0;
  }
  whole = whole && !curve.bands.empty();
  if (!whole) fail("{}: its curve is not one that `gigagpt law fit` wrote", file);
  return curve;
}

FittedLaw law_in(const ordered_json& root, const std::string& file) {
  const ordered_json& law = root.at("law");
  FittedLaw read{{{law.at("name").get<std::string>(), law.at("scale").get<double>(),
                   law.at("exponent").get<double>(), law.at("floor").get<double>()},
                  interval_in(root.at("exponent_95")),
                  interval_in(root.at("floor_95")),
                  root.at("scatter").get<double>()},
                 {},
                 {root.at("data").get<std::string>(), root.at("parametrisation").get<std::string>(),
                  root.at("sequence_length").get<int64_t>()}};
  for (const ordered_json& run : root.at("runs")) read.runs.push_back(point_in(run));
  if (root.contains("tokens_per_byte"))
    read.tokens_per_byte = root.at("tokens_per_byte").get<double>();
  if (root.contains("curve")) read.curve = curve_in(root.at("curve"), file);
  return read;
}

// Files are changed by hand, too.
void check_numbers(const FittedLaw& law, const std::string& file) {
  const auto& [name, scale, exponent, floor] = law.fit.law;
  bool positive = scale > 0 && exponent > 0 && law.tokens_per_byte.value_or(1) > 0;
  for (const LawPoint& run : law.runs)
    positive = positive && run.flops > 0 && run.parameters > 0 && run.tokens > 0 && run.loss > 0;
  if (!positive || !(floor >= 0) || !(law.fit.scatter >= 0))
    fail("{}: a number of its law or its runs is not above zero", file);
  if (law.runs.size() < 4) fail("{}: it names fewer than four runs", file);
}

}  // namespace

double FittedLaw::ratio() const {
  double sum = 0;
  for (const LawPoint& run : runs) sum += run.tokens / run.parameters;
  return sum / double(runs.size());
}

void write_law(const Path& file, const FittedLaw& law) {
  ordered_json runs = ordered_json::array();
  for (const LawPoint& run : law.runs) runs.push_back(json_of(run));
  const LawFit& fit = law.fit;
  ordered_json root = {{"law",
                        {{"name", fit.law.name},
                         {"scale", fit.law.scale},
                         {"exponent", fit.law.exponent},
                         {"floor", fit.law.floor}}},
                       {"exponent_95", {fit.exponent.low, fit.exponent.high}},
                       {"floor_95", {fit.floor.low, fit.floor.high}},
                       {"scatter", fit.scatter},
                       {"data", law.kind.data},
                       {"parametrisation", law.kind.parametrisation},
                       {"sequence_length", law.kind.sequence_length},
                       {"runs", runs}};
  if (law.tokens_per_byte) root["tokens_per_byte"] = *law.tokens_per_byte;
  if (law.curve) {
    ordered_json bands = ordered_json::array();
    for (const auto& [parts, spread, reach] : law.curve->bands)
      bands.push_back({{"parts", parts}, {"spread", spread}, {"reach", reach}});
    root["curve"] = {{"log_flops", law.curve->log_flops},
                     {"level", law.curve->level},
                     {"slope", law.curve->slope},
                     {"bands", bands}};
  }
  write_text_atomically(file, formats::to_text(root, 2) + "\n");
}

FittedLaw read_law(const Path& file) {
  try {
    FittedLaw law =
        law_in(formats::parse_json<ordered_json>(read_text(file), file.string()), file.string());
    check_numbers(law, file.string());
    return law;
  } catch (const nlohmann::json::exception& error) {
    fail("{}: it is not a law that `gigagpt law fit` wrote: {}", file.string(), error.what());
  }
}

Comparable comparable(const GPTConfig& config, const std::string& data) {
  const bool mup = config.parametrisation.mup_base_width.has_value();
  return {data, mup ? "muP" : "the standard parametrisation", config.sequence_length};
}

std::string difference(const Comparable& ours, const Comparable& others) {
  if (ours.data != others.data)
    return fmt::format("its text is {} and not {}", ours.data, others.data);
  if (ours.parametrisation != others.parametrisation)
    return fmt::format("it is in {} and not in {}", ours.parametrisation, others.parametrisation);
  if (ours.sequence_length != others.sequence_length) {
    return fmt::format("its sequences have {} tokens and not {}", ours.sequence_length,
                       others.sequence_length);
  }
  return "";
}

double run_tokens(const GPTConfig& config) {
  return double(config.num_steps) * double(config.run_size(true).step_tokens());
}

double tokens_per_parameter(const GPTConfig& config) {
  return run_tokens(config) / double(engine::parameter_count(config.layers()));
}

double published_flops(const GPTConfig& config) {
  return run_tokens(config) * published_flops_per_token(config.layers(), config.sequence_length);
}

void check_law(const FittedLaw& law, const std::string& file, const Comparable& run) {
  const std::string text = difference(run, law.kind);
  if (!text.empty()) fail("law: this run cannot be compared with those of {}: {}", file, text);
}

std::optional<CollapseWatch> watch_by(const FittedLaw& law, const GPTConfig& config) {
  if (!law.curve) return std::nullopt;
  const double flops = published_flops(config), expected = law.fit.law.loss(flops);
  const Interval interval = predicted_loss(law.runs, flops);
  // What the law itself is unsure of; the scatter of single runs is in the curve's spread.
  const double deviation = std::log(interval.high / interval.low) / (2 * 1.96);
  const double unsure =
      std::sqrt(std::max(0.0, deviation * deviation - std::pow(law.fit.scatter, 2)));
  return CollapseWatch(*law.curve, flops, run_tokens(config), expected, unsure);
}

}  // namespace gigagpt
