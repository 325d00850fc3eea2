#include "engine/run/resume.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "base/error.h"
#include "engine/plan/plan.h"
#include "engine/run/run_directory.h"
#include "formats/json.h"
#include "formats/run_files.h"
#include "formats/tokenizer.h"

namespace gigagpt::engine {

// Defines to_json() and from_json(), for the other systems.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ResumePoint, checkpoint, step, in_out_dir, in_store,
                                   moments_lost, weights_alone, other_files, keeps_files,
                                   other_gradient, other_step, run_id)

namespace {

namespace fs = std::filesystem;
using formats::find_text;
using Summary = StateFile::Summary;

// The files of a run on so many systems.
std::vector<Path> files_of(const CheckpointRules& rules, int systems) {
  std::vector<Path> files;
  for (int rank = 0; rank < systems; ++rank) {
    files.push_back(store_file(rules.store, rules.out_dir, {rank, systems}));
  }
  return files;
}

// What is common to the files of a run; nothing if there is no run in them. Throws Error if some
// are missing, or of another run.
std::optional<Summary> common_summary(const std::vector<std::optional<Summary>>& all,
                                      const Path& file) {
  std::optional<Summary> common;
  int64_t most = 0;
  bool whole = true;
  for (const auto& one : all) {
    if (!one) {
      whole = false;
      continue;
    }
    if (!common) common = one;
    whole = whole && one->run_id == common->run_id;
    most = std::max(most, one->step);
    common->step = std::min(common->step, one->step);
    // Where some have been made anew and others not, all are still to be.
    common->version = std::min(common->version, one->version);
  }
  if (!common) return std::nullopt;
  if (whole && most <= common->step + 1) return common;
  // Interrupted while being filled, or updated without gradients, they hold nothing.
  if (most == 0 || common->gradient == GradientForm::kNone) return std::nullopt;
  std::vector<std::string> there;
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i]) there.push_back(fmt::format("{} (step {})", i, all[i]->step));
  }
  fail(
      "store: the state of this run was in {} files like {}, and what is there does not belong "
      "together: those of systems {}. Bring the others back, or delete them all to go on from a "
      "checkpoint, whose optimizer then starts from zero",
      all.size(), file.string(), fmt::join(there, ", "));
}

// Every system looks at its own file.
std::optional<Summary> summary_of_all(const CheckpointRules& rules, Cluster& cluster) {
  const auto file_of = [&](int rank) {
    return store_file(rules.store, rules.out_dir, {rank, cluster.systems()});
  };
  const auto mine =
      cluster.together([&] { return StateFile::peek_or_older(file_of(cluster.rank())); });
  return common_summary(cluster.gather(mine), file_of(0));
}

// Of how many systems, and of which of them, files are there.
std::set<std::pair<int, int>> find_shards(const std::string& store, const Path& out_dir) {
  const Path plain = store_file(store, out_dir);
  std::set<std::pair<int, int>> shards;
  std::error_code missing;
  const Path older = StateFile::place_of_older(plain);
  if (fs::is_regular_file(plain, missing) || fs::is_regular_file(older, missing))
    shards.emplace(1, 0);
  const Path folder = plain.has_parent_path() ? plain.parent_path() : Path(".");
  const std::string stem = plain.stem().string() + ".";
  for (const auto& entry : fs::directory_iterator(folder, missing)) {
    int rank = 0, of = 0;
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(stem)) continue;
    if (std::sscanf(name.c_str() + stem.size(), "%d-of-%d", &rank, &of) != 2) continue;
    if (rank < 0 || rank >= of || of < 2) continue;
    const Path file = store_file(store, out_dir, {rank, of}).filename();
    if (file == name || StateFile::place_of_older(file) == name) shards.emplace(of, rank);
  }
  return shards;
}

// Files of another number of systems beside where this run's would be: how many, and what is in
// those of the latest step. With an id: in those of that run.
std::optional<std::pair<int, Summary>> find_other_files(const CheckpointRules& rules, int systems,
                                                        const std::string& id = "") {
  std::optional<std::pair<int, Summary>> best;
  std::set<int> numbers;
  for (const auto& [of, _] : find_shards(rules.store, rules.out_dir)) {
    if (of != systems) numbers.insert(of);
  }
  for (const int of : numbers) {
    const std::vector<Path> files = files_of(rules, of);
    std::vector<std::optional<Summary>> all;
    for (const Path& file : files) all.push_back(StateFile::peek_or_older(file));
    const auto summary = common_summary(all, files.front());
    if (!summary || (!id.empty() && summary->id() != id)) continue;
    if (!best || best->second.step < summary->step) best = {of, *summary};
  }
  return best;
}

void compare_runs(const formats::TrainerState& was, const CheckpointRules& rules,
                  ResumePoint& point) {
  const std::string before = find_text(was.config, "optimizer");
  const std::string now = find_text(rules.config, "optimizer");
  if (!before.empty() && !now.empty() && before != now) {
    fail(
        "optimizer: {} was trained with {}, whose moments mean nothing to {}; leave the key as it "
        "was, or begin with the weights alone: load_weights_only: true, and another out_dir",
        point.checkpoint.string(), before, now);
  }
  point.differences = formats::differences(was, rules.config, rules.data);
  point.precision = find_text(was.manifest, "precision");
}

// Going on from files; nothing if they hold no run, or newer checkpoints are of another one.
std::optional<ResumePoint> find_store(const CheckpointRules& rules, const Summary& found,
                                      int systems, bool other) {
  std::vector<Path> files = files_of(rules, systems);
  const std::string first = files.front().string();
  const std::string name = systems == 1 ? first : fmt::format("{} and {} more", first, systems - 1);
  if (!rules.from || *rules.from != "latest") {
    fail(
        "store: {} already holds a run at step {}; continue it with --checkpoint_path latest, or "
        "delete it",
        name, found.step);
  }
  const auto steps = checkpoint_steps(rules.out_dir);
  const Path newest = steps.empty() ? Path() : checkpoint_directory(rules.out_dir, steps.back());
  if (!steps.empty() && store_of(newest) != found.id()) return std::nullopt;
  const int64_t step_tokens = rules.size.step_tokens();
  if (found.step_tokens != step_tokens) {
    fail("batch_size: {} is of a run with {} tokens a step, not {}", name, found.step_tokens,
         step_tokens);
  }
  ResumePoint point{.checkpoint = first, .step = found.step, .in_store = !other};
  point.run_id = found.run_id;
  point.other_gradient = found.gradient;
  point.other_step = found.step;
  if (other) point.other_files = std::move(files);
  const bool same_names = other && systems == rules.size.systems;  // and so make way
  for (Path& file : point.other_files) {
    if (same_names || !fs::exists(file)) file = StateFile::place_of_older(file);
  }
  if (!newest.empty()) {
    if (!rules.dataset.empty()) formats::check_same_tokens(newest, rules.dataset);
    compare_runs(formats::read_trainer_state(newest), rules, point);
  }
  return point;
}

// Beginning anew would write over what tells of a run that is not there any more.
void check_nothing_was_here(const CheckpointRules& rules) {
  for (const Path& file : find_store_files(rules.store, rules.out_dir)) {
    if (!fs::exists(file) || !StateFile::is_damaged(file)) continue;
    fail(
        "store: {} is damaged at its beginning, and there is no checkpoint to go on from in {}; "
        "bring one back, or delete the store to begin anew",
        file.string(), rules.out_dir.string());
  }
  const int64_t last = formats::last_logged_step(rules.out_dir);
  const int64_t every = rules.size.checkpoint_steps;
  if (every == 0 || last < every) return;
  fail(
      "checkpoint_path: a run in {} came to step {}, as metrics.jsonl says, but its checkpoints "
      "are "
      "gone; bring them back, or choose another out_dir to begin anew",
      rules.out_dir.string(), last);
}

// Whether a new run begins. `dataset` may be a name below data/, or its path.
bool wants_weights_alone(const formats::TrainerState& was, const formats::TextPairs& config) {
  const std::string wanted = find_text(config, "load_weights_only");
  if (wanted == "true" || wanted == "false") return wanted == "true";
  const auto path_of = [](const formats::TextPairs& pairs) {
    const Path path = Path(find_text(pairs, "dataset")).lexically_normal();
    return path.has_parent_path() ? path : Path("data") / path;
  };
  return path_of(was.config) != path_of(config);
}

// For a checkpoint without moments: they may still be in the files of the run that it is of, at the
// same step.
void find_moments(const formats::TrainerState& state, ResumePoint& point) try {
  const std::string store = find_text(state.config, "store"), id = store_of(point.checkpoint);
  CheckpointRules theirs;
  theirs.out_dir = fs::canonical(point.checkpoint).parent_path();
  theirs.store = store.empty() ? "auto" : store;
  const auto found = find_other_files(theirs, /*systems=*/0, id);
  if (!found || found->second.step != state.step) {
    point.moments_lost = true;
    return;
  }
  point.other_files = files_of(theirs, found->first);
  point.other_gradient = found->second.gradient;
  point.other_step = found->second.step;
  point.keeps_files = true;
} catch (const Error& error) {  // of files that are incomplete, say
  point.moments_lost = true;
  point.note = error.what();
}

std::optional<ResumePoint> find_checkpoint_point(const CheckpointRules& rules) {
  const auto& [out_dir, store, wanted, size, config, dataset, data] = rules;
  const int64_t step_tokens = size.step_tokens();
  ResumePoint point;
  if (wanted && *wanted == "latest") point.note = set_damaged_aside(out_dir, /*sums=*/false);
  const auto steps = checkpoint_steps(out_dir);
  const auto refuse = [&steps, &directory = rules.out_dir] {
    fail(
        "out_dir: {} already holds a run up to step {}; continue it with --checkpoint_path latest, "
        "or choose another out_dir",
        directory.string(), steps.back());
  };
  if (!wanted && !steps.empty()) refuse();
  if (wanted && *wanted == "latest" && steps.empty()) check_nothing_was_here(rules);
  if (!wanted || (*wanted == "latest" && steps.empty())) return std::nullopt;
  point.checkpoint = find_checkpoint(*wanted == "latest" ? out_dir : Path(*wanted));
  if (!steps.empty()) {
    std::error_code missing;
    const Path newest = checkpoint_directory(out_dir, steps.back());
    point.in_out_dir = fs::equivalent(point.checkpoint, newest, missing);
    if (!point.in_out_dir) refuse();
  }
  if (!dataset.empty()) formats::check_same_tokens(point.checkpoint, dataset);
  if (!fs::exists(point.checkpoint / "trainer_state.json")) return point;
  const formats::TrainerState state = formats::read_trainer_state(point.checkpoint);
  point.weights_alone = !point.in_out_dir && wants_weights_alone(state, config);
  if (point.weights_alone) return point;
  compare_runs(state, rules, point);
  if (!has_moments(point.checkpoint)) find_moments(state, point);
  point.step = state.tokens / step_tokens;
  if (state.tokens % step_tokens != 0) {
    fail(
        "batch_size: {1} was trained on {0} tokens, which is not a multiple of this batch's {2} "
        "tokens",
        state.tokens, point.checkpoint.string(), step_tokens);
  }
  if (point.in_out_dir && point.step != state.step) {
    fail("batch_size: going on from step {} as step {} needs another out_dir than {}", state.step,
         point.step, out_dir.string());
  }
  return point;
}

// What the leader finds, with what all have of the state in files.
std::optional<ResumePoint> find_on_leader(const CheckpointRules& rules,
                                          const std::optional<Summary>& ours, int systems) {
  const auto others = find_other_files(rules, systems);
  const bool use_others =
      others &&
      (!ours || (others->second.run_id == ours->run_id && others->second.step > ours->step));
  std::optional<ResumePoint> point;
  if (use_others)
    point = find_store(rules, others->second, others->first, /*other=*/true);
  else if (ours)
    point = find_store(rules, *ours, systems, /*other=*/ours->is_old());
  return point ? point : find_checkpoint_point(rules);
}

// The folder itself, or the one in it whose newest checkpoint is the youngest.
Path find_latest_run(const Path& folder) {
  Path latest = folder;
  fs::file_time_type youngest = fs::file_time_type::min();
  std::error_code error;
  if (!checkpoint_steps(folder).empty()) return folder;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const auto steps = checkpoint_steps(entry.path());
    if (steps.empty()) continue;
    const auto time = fs::last_write_time(checkpoint_directory(entry.path(), steps.back()), error);
    if (!error && time > youngest) latest = entry.path(), youngest = time;
  }
  return latest;
}

}  // namespace

std::vector<Path> find_store_files(const std::string& store, const Path& out_dir) {
  std::vector<Path> files;
  for (const auto& [of, rank] : find_shards(store, out_dir)) {
    files.push_back(store_file(store, out_dir, {rank, of}));
  }
  return files;
}

std::string set_damaged_aside(const Path& out_dir, bool sums) {
  std::vector<Path> damaged;
  std::string damage;
  const auto steps = checkpoint_steps(out_dir);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const Path checkpoint = checkpoint_directory(out_dir, *step);
    try {
      sums ? formats::verify_files(checkpoint) : formats::verify_quickly(checkpoint);
      break;
    } catch (const Error& error) {
      if (damage.empty()) damage = error.what();
      damaged.push_back(checkpoint);
    }
  }
  if (damaged.empty()) return "";
  if (damaged.size() == steps.size()) fail("{}; no older checkpoint is whole", damage);
  for (const Path& checkpoint : damaged) {
    Path aside = checkpoint.string() + ".damaged";
    for (int i = 2; fs::exists(aside); ++i)
      aside = fmt::format("{}.damaged-{}", checkpoint.string(), i);
    std::error_code error;
    fs::rename(checkpoint, aside, error);
    if (error) fail("cannot rename {}: {}", checkpoint.string(), error.message());
  }
  return fmt::format("{}; it was set aside as {}.damaged", damage, damaged.front().string());
}

bool has_moments(const Path& checkpoint) {
  return store_of(checkpoint).empty() || fs::exists(checkpoint / formats::kOptimizerFile);
}

std::string store_of(const Path& checkpoint) {
  if (!fs::exists(checkpoint / "trainer_state.json")) return "";
  return find_text(formats::read_trainer_state(checkpoint).manifest, "store");
}

Path find_checkpoint(const Path& given, const Path& out_dir) {
  Path checkpoint = given;
  if (!out_dir.empty() && given == "latest") checkpoint = find_latest_run(out_dir);
  if (!fs::exists(checkpoint / "config.json")) {
    const auto steps = checkpoint_steps(checkpoint);
    if (steps.empty()) fail("checkpoint_path: there is no checkpoint in {}", checkpoint.string());
    checkpoint = checkpoint_directory(checkpoint, steps.back());
  }
  formats::verify_quickly(checkpoint);
  return checkpoint;
}

std::string origin_text(const ResumePoint& from, Precision precision) {
  if (from.weights_alone) {
    return fmt::format("a new run from the weights of {}, at step 0", from.checkpoint.string());
  }
  std::string text = from.note.empty() ? "" : from.note + "\n";
  text += fmt::format("continuing from {} at step {}", from.checkpoint.string(), from.step);
  if (from.keeps_files)
    text += fmt::format(", with the moments in {}", from.other_files.front().string());
  else if (!from.other_files.empty() &&
           from.other_files.front() == StateFile::place_of_older(from.checkpoint))
    text += ", in the format of an older version; it is written anew";
  else if (!from.other_files.empty())
    text += fmt::format(", which {} systems made", from.other_files.size());
  if (from.moments_lost) {
    text +=
        "; it has weights alone: the optimizer's moments, in a file that is not there or at "
        "another step by now, start from zero (checkpoint_moments: true keeps them)";
  }
  if (!from.differences.empty()) text += "\nnot as before: " + from.differences;
  if (!from.precision.empty() && from.precision != precision_name(precision)) {
    text += fmt::format(
        "\nnot as before: computes in {} (was {}), which precision: auto chooses by "
        "the CPU",
        precision_name(precision), from.precision);
  }
  return text;
}

std::optional<ResumePoint> find_resume_point(const CheckpointRules& rules, Cluster& cluster) {
  const auto ours = summary_of_all(rules, cluster);
  std::optional<ResumePoint> point;
  std::string failure;
  try {
    if (cluster.leads()) point = find_on_leader(rules, ours, cluster.systems());
  } catch (const Error& error) {
    failure = error.what();
  }
  failure = cluster.gather_texts(failure)[0];
  if (!failure.empty()) throw AgreedError(failure);
  const auto text = formats::to_text(point ? nlohmann::json(*point) : nlohmann::json());
  const std::string leaders = cluster.gather_texts(text)[0];
  if (cluster.leads()) return point;
  const auto json = formats::parse_json<nlohmann::json>(leaders, "the leader's message");
  return json.is_null() ? std::nullopt : std::optional(json.get<ResumePoint>());
}

}  // namespace gigagpt::engine
