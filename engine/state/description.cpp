#include "engine/state/description.h"

#include <algorithm>
#include <array>
#include <set>

#include "engine/state/store_header.h"
#include "formats/json.h"

namespace gigagpt::engine {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// Far above what this program makes, far below what would fill a memory.
constexpr int64_t kMostSegmentElements = 1 << 24;
constexpr int64_t kMostSegments = 1 << 22;
constexpr int64_t kMostSystems = 1 << 16;

constexpr std::array kGradientForms = {"fp32", "bf16", "none"};  // by GradientForm

const json& list(const json& object, const char* key, const std::string& where) {
  const json& value = object.at(key);
  if (!value.is_array()) fail("{}: {} is not a list", where, key);
  return value;
}

// Adds the parameter's elements to `elements`, which stay at most `most`.
ParamSpec read_parameter(const json& from, int64_t most, int64_t& elements,
                         const std::string& where) {
  ParamSpec param{from.at("name").get<std::string>(), {}};
  int64_t count = 1;
  for (const json& extent : list(from, "shape", where)) {
    const bool fits = extent.is_number_unsigned() && extent.get<uint64_t>() >= 1 &&
                      extent.get<uint64_t>() <= uint64_t(most / count);
    if (!fits) fail("{}: the shape of {} does not fit the file's size", where, param.name);
    param.shape.push_back(extent.get<int64_t>());
    count *= param.shape.back();
  }
  if (count > most - elements) fail("{}: its layers are larger than the file", where);
  elements += count;
  param.rule.fp32 = from.value("fp32", false);
  if (from.contains("decays")) param.rule.decay = from["decays"].get<bool>();  // version 2
  if (from.contains("decay")) {
    param.rule.decay = true;
    param.rule.factors = {from.at("rate").get<double>(), from.at("decay").get<double>(),
                          from.at("epsilon").get<double>()};
    // Which parameters are hidden matrices is said of those that are needed whole alone.
    param.rule.output = !from.value("whole", false);
  }
  return param;
}

std::vector<LayerSpec> read_layers(const json& root, int64_t most, int64_t segment_elements,
                                   const std::string& where) {
  std::vector<LayerSpec> layers;
  std::set<std::string> names;  // of parameters, in full
  int64_t segments = 0;
  for (const json& from : list(root, "layers", where)) {
    LayerSpec layer{from.at("name").get<std::string>(), from.at("prefix").get<std::string>(), {}};
    int64_t elements = 0;
    for (const json& name : list(from, "shared", where)) {
      layer.shared.push_back({name.get<std::string>()});
      if (!names.contains(layer.shared.back().name)) {
        fail("{}: {} shares a parameter that no layer before it has", where, layer.name);
      }
    }
    for (const json& param : list(from, "parameters", where)) {
      layer.params.push_back(read_parameter(param, most, elements, where));
      if (!names.insert(layer.prefix + layer.params.back().name).second) {
        fail("{}: parameter {} appears twice", where, layer.prefix + layer.params.back().name);
      }
    }
    most -= elements;
    segments += elements / segment_elements + 1;
    layers.push_back(std::move(layer));
  }
  if (names.empty()) fail("{}: it has no parameters", where);
  if (segments > kMostSegments) fail("{}: {} segments are too many", where, segments);
  return layers;
}

// How its updates differ from others', and what is kept of it for them.
void add_rule(const ParamSpec& param, const StateForm& form, ordered_json& to) {
  const ops::ParamFactors factors = param.factors();
  to["rate"] = factors.rate;
  to["decay"] = factors.decay;
  to["epsilon"] = factors.epsilon;
  if (form.needs_whole(param)) to["whole"] = true;
  to["kept"] = ordered_json::object();
  for (const auto& [name, kept] :
       {std::pair{"exp_avg", Array::kExpAvg}, std::pair{"exp_avg_sq", Array::kExpAvgSq}}) {
    if (form.keeps(kept) && form.kept_count(param, kept) > 0)
      to["kept"][name] = form.kept_shape(param, kept);
  }
}

}  // namespace

std::string describe(const StateLayout& layout, uint32_t version) {
  const bool old = version == StoreHeader::kOldVersion, training = layout.training();
  ordered_json layers = ordered_json::array();
  for (size_t i = 0; i < layout.layer_count(); ++i) {
    const LayerSpec& spec = layout.spec(i);
    ordered_json params = ordered_json::array();
    for (const ParamSpec& p : spec.params) {
      ordered_json param = {{"name", p.name}, {"shape", p.shape}};
      if (p.rule.fp32) param["fp32"] = true;
      // What other multipliers make of the same weights is another model.
      if (p.rule.multiplier != 1) param["multiplier"] = p.rule.multiplier;
      if (old && p.rule.decay) param["decays"] = *p.rule.decay;
      if (!old && training) add_rule(p, layout.form(), param);
      params.push_back(std::move(param));
    }
    std::vector<std::string> shared;
    std::vector<double> multipliers;
    for (const auto& [name, multiplier] : spec.shared) {
      shared.push_back(name);
      if (multiplier != 1) multipliers.push_back(multiplier);
    }
    layers.push_back(
        {{"name", spec.name}, {"prefix", spec.prefix}, {"parameters", params}, {"shared", shared}});
    if (!multipliers.empty()) layers.back()["shared_multipliers"] = multipliers;
    if (spec.over_size) layers.back()["over_size"] = true;
  }
  ordered_json description = {{"precision", precision_name(layout.precision())},
                              {"training", training},
                              {"compact", layout.form().compact},
                              {"gradient", kGradientForms[size_t(layout.form().gradient)]}};
  if (!old && training) description["optimizer"] = layout.form().optimizer->name;
  description["segment_elements"] = layout.segment_elements();
  if (layout.shard().systems > 1) {
    description["system"] = layout.shard().rank;
    description["systems"] = layout.shard().systems;
  }
  description["layers"] = layers;
  return formats::to_text(description);
}

StateLayout read_description(std::string_view text, uint32_t version, uint64_t file_bytes,
                             const std::string& where) {
  try {
    const json root = formats::parse_json<json>(text, where);
    const auto precision = root.at("precision").get<std::string>();
    if (precision != "bf16" && precision != "fp32") fail("{}: unknown precision", where);
    const int64_t segment_elements =
        formats::whole_number(root, "segment_elements", 2048, kMostSegmentElements, where);
    if (segment_elements % 2048 != 0) {
      fail("{}: segment_elements {} is not a multiple of 2048", where, segment_elements);
    }
    const auto most = int64_t(file_bytes / 2);  // two bytes for each element, at the least
    auto layers = read_layers(root, most, segment_elements, where);
    StateForm form{precision == "bf16" ? Precision::kBf16 : Precision::kFp32,
                   root.at("training").get<bool>(), root.at("compact").get<bool>()};
    const auto gradient = root.at("gradient").get<std::string>();
    const auto found = std::find(kGradientForms.begin(), kGradientForms.end(), gradient);
    if (found == kGradientForms.end()) fail("{}: unknown form of gradients", where);
    form.gradient = GradientForm(found - kGradientForms.begin());
    if (form.compact && precision != "bf16") fail("{}: compact, but not in bf16", where);
    if (form.training && version != StoreHeader::kOldVersion) {
      const auto name = root.at("optimizer").get<std::string>();
      form.optimizer = ops::find_optimizer(name);
      if (form.optimizer == nullptr) {
        fail("{}: this program does not know its optimizer {}", where, name);
      }
      if (form.compact && form.optimizer->whole != ops::Whole::kNone) {
        fail("{}: compact, but of optimizer {}", where, name);
      }
    }
    Shard shard;
    if (root.contains("systems")) {
      shard.systems = int(formats::whole_number(root, "systems", 2, kMostSystems, where));
      shard.rank = int(formats::whole_number(root, "system", 0, shard.systems - 1, where));
    }
    return StateLayout(std::move(layers), form, segment_elements, shard);
  } catch (const json::exception& error) {
    fail("{}: {}", where, error.what());
  }
}

}  // namespace gigagpt::engine
