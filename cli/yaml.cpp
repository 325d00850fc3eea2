#include "cli/yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"

namespace gigagpt::cli {
namespace {

// Keys of gigaGPT's configs that steer Cerebras' cluster and mean nothing here.
bool is_cerebras_only(const std::string& key) {
  static const std::set<std::string> keys = {
      "backend",         "mount_dirs",      "python_paths",          "cls",
      "mgmt_address",    "mgmt_namespace",  "credentials_path",      "job_labels",
      "job_time_sec",    "compile_dir",     "disable_version_check", "num_workers_per_csx",
      "max_wgt_servers", "max_act_per_csx", "num_act_servers",       "validate_only",
      "compile_only"};
  return keys.contains(key) || key.ends_with("_crd_memory_gi");
}

// The nested layout: which path of it is which key of ours.
const std::map<std::string, std::string> kNestedKeys = {
    {"trainer.init.seed", "seed"},
    {"trainer.init.model_dir", "out_dir"},
    {"trainer.init.loop.num_steps", "num_steps"},
    {"trainer.init.checkpoint.steps", "checkpoint_steps"},
    {"trainer.init.precision.max_gradient_norm", "max_gradient_norm"},
    {"trainer.init.optimizer.AdamW.learning_rate", "learning_rate"},
    {"trainer.init.optimizer.AdamW.weight_decay", "weight_decay"},
    {"trainer.init.optimizer.AdamW.eps", "adam_epsilon"},
    {"trainer.init.schedulers.SequentialLR.schedulers.0.LinearLR.total_iters", "warmup_steps"},
    {"trainer.init.schedulers.SequentialLR.schedulers.1.CosineDecayLR.total_iters", "decay_steps"},
    {"trainer.fit.train_dataloader.data_dir", "dataset"},
    {"trainer.fit.train_dataloader.sequence_length", "sequence_length"},
    {"trainer.fit.train_dataloader.batch_size", "batch_size"},
};
// Parts of it that mean nothing here, or repeat what another part says.
const std::vector<std::string> kNestedIgnored = {"trainer.init.backend",
                                                 "trainer.init.loggers",
                                                 "trainer.init.callbacks",
                                                 "trainer.init.device",
                                                 "trainer.init.precision.",
                                                 "trainer.init.schedulers",
                                                 "trainer.fit.train_dataloader.seed",
                                                 "trainer.validate"};

struct Leaves {
  std::vector<Setting> list;  // with whole paths as keys
  int nodes = 0;              // looked at for them
};

// Calls visit(key, value, file:line) for each key of a map. Throws Error for a key that is no name
// or appears twice; `path` is put before it in the message.
template <class Visit>
void for_each_key(const YAML::Node& map, const std::string& path, const std::string& file,
                  Visit visit) {
  std::set<std::string> seen;
  for (const auto& item : map) {
    const std::string origin = fmt::format("{}:{}", file, item.first.Mark().line + 1);
    if (!item.first.IsScalar()) fail("{}: a key must be a name", origin);
    const std::string key = item.first.Scalar();
    if (!seen.insert(key).second) fail("{}: key '{}{}' appears twice", origin, path, key);
    visit(key, item.second, origin);
  }
}

// The layout has 8 and some hundred. With aliases a few lines can have no end, or billions.
constexpr int kMaxDepth = 16, kMaxNodes = 2000;

void flatten(const YAML::Node& node, const std::string& path, const std::string& file, int depth,
             Leaves& leaves) {
  const std::string origin = fmt::format("{}:{}", file, node.Mark().line + 1);
  const std::string prefix = path.empty() ? "" : path + ".";
  if (depth > kMaxDepth) fail("{}: {} is nested too deeply", origin, path);
  if (++leaves.nodes > kMaxNodes) fail("{}: more than {} values", origin, kMaxNodes);
  if (node.IsMap()) {
    for_each_key(node, prefix, file, [&](const auto& key, const YAML::Node& value, const auto&) {
      flatten(value, prefix + key, file, depth + 1, leaves);
    });
  } else if (node.IsSequence()) {
    for (size_t i = 0; i < node.size(); ++i) {
      flatten(node[i], prefix + std::to_string(i), file, depth + 1, leaves);
    }
  } else {
    leaves.list.push_back({path, node.IsNull() ? "null" : node.Scalar(), origin});
  }
}

std::vector<Setting> read_nested(const YAML::Node& root, const std::string& file,
                                 std::set<std::string>& ignored) {
  Leaves leaves;
  flatten(root, "", file, 0, leaves);
  std::vector<Setting> settings;
  for (Setting& leaf : leaves.list) {
    constexpr std::string_view kModel = "trainer.init.model.";
    if (leaf.key.starts_with(kModel)) {
      settings.push_back({leaf.key.substr(kModel.size()), leaf.value, leaf.origin});
    } else if (const auto known = kNestedKeys.find(leaf.key); known != kNestedKeys.end()) {
      // "num_steps - total_iters" is what leaving decay_steps out means.
      if (leaf.value.starts_with("num_steps")) continue;
      if (known->second == "dataset" && leaf.value.ends_with(".bin")) {
        leaf.value = Path(leaf.value).parent_path().string();
      }
      settings.push_back({known->second, leaf.value, leaf.origin});
    } else if (std::any_of(kNestedIgnored.begin(), kNestedIgnored.end(),
                           [&](const auto& prefix) { return leaf.key.starts_with(prefix); })) {
      ignored.insert(leaf.key.substr(leaf.key.rfind('.') + 1));
    } else {
      fail("{}: unknown key '{}'", leaf.origin, leaf.key);
    }
  }
  return settings;
}

// The value of a flat key as text; a list of hosts is joined.
std::string flat_value(const std::string& key, const YAML::Node& value, const std::string& origin) {
  if (value.IsNull()) return "null";
  if (value.IsScalar()) return value.Scalar();
  const bool list = key == "hosts" && value.IsSequence();
  if (!list) fail("{}: {} must be a single value", origin, key);
  std::vector<std::string> parts;
  for (const YAML::Node& part : value) {
    if (!part.IsScalar()) fail("{}: {} must be a list of names like a or b:2", origin, key);
    parts.push_back(part.Scalar());
  }
  return fmt::format("{}", fmt::join(parts, ","));
}

std::vector<Setting> read_flat(const YAML::Node& root, const std::string& file,
                               std::set<std::string>& ignored) {
  std::vector<Setting> settings;
  GPTConfig config;
  if (root["model"] && root["model"].IsScalar()) config.model = root["model"].Scalar();
  const auto options = config.options();
  for_each_key(root, "", file,
               [&](const std::string& key, const YAML::Node& value, const std::string& origin) {
                 if (is_cerebras_only(key)) {
                   ignored.insert(key);
                   return;
                 }
                 if (!value.IsScalar() && !value.IsNull()) {
                   try {
                     find_option(options, key);
                   } catch (const Error& error) {
                     fail("{}: {}", origin, error.what());
                   }
                 }
                 settings.push_back({key, flat_value(key, value, origin), origin});
               });
  return settings;
}

}  // namespace

std::vector<Setting> read_yaml(const Path& path, std::vector<std::string>& notes) {
  constexpr uint64_t kMaxBytes = 1 << 20;  // parsed, a text takes a hundred times its size
  const uint64_t size = File::open_read(path).size_bytes();
  if (size > kMaxBytes) fail("{}: {} bytes are too many for a config", path.string(), size);
  YAML::Node root;
  try {
    root = YAML::Load(read_text(path));
  } catch (const YAML::Exception& error) {
    fail("{}:{}: {}", path.string(), error.mark.line + 1, error.msg);
  }
  if (root.IsNull()) return {};
  if (!root.IsMap()) fail("{}: a config is a list of `key: value` lines", path.string());
  std::set<std::string> ignored;
  const auto settings = root["trainer"] ? read_nested(root, path.string(), ignored)
                                        : read_flat(root, path.string(), ignored);
  if (!ignored.empty()) {
    notes.push_back(fmt::format("{}: ignoring keys that mean nothing here: {}", path.string(),
                                fmt::join(ignored, ", ")));
  }
  return settings;
}

}  // namespace gigagpt::cli
