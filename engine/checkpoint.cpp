#include "engine/checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "engine/manifest.h"
#include "engine/state_file.h"

namespace gigagpt::engine {
namespace {

using formats::SafetensorsReader;
using formats::SafetensorsWriter;
using formats::TensorInfo;

at::Tensor wrap(std::span<float> values, const std::vector<int64_t>& shape) {
  return at::from_blob(values.data(), shape, at::kFloat);
}

std::span<const std::byte> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const std::byte*>(contiguous.data_ptr()), contiguous.nbytes()};
}

// Tells the share of all values that have been read or written.
class ValueCounter {
 public:
  ValueCounter(Store& store, int copies, const Progress& progress) : progress_(progress) {
    for (size_t i = 0; i < store.layer_count(); ++i) {
      for (const ParamSpec& param : store.layer(i).params) all_ += double(param.count()) * copies;
    }
    add(0);
  }
  void add(int64_t values) {
    done_ += double(values);
    if (progress_) progress_(done_ / all_);
  }

 private:
  const Progress& progress_;
  double all_ = 0, done_ = 0;
};

// Calls visit(first element, how many) for pieces of a parameter that need little memory.
template <class Visit>
void in_pieces(int64_t count, Visit visit) {
  constexpr int64_t kPiece = 1 << 20;
  for (int64_t first = 0; first < count; first += kPiece) {
    visit(first, size_t(std::min(kPiece, count - first)));
  }
}

void write_values(SafetensorsWriter& writer, Store& store, Kept kept, const std::string& name,
                  bool rounded, ValueCounter& counter) {
  std::vector<float> values;
  in_pieces(store.param(name).count(), [&](int64_t first, size_t count) {
    values.resize(count);
    store.read(kept, name, first, values);
    if (rounded)
      writer.write(bytes_of(wrap(values, {int64_t(count)}).to(at::kBFloat16)));
    else
      writer.write(std::as_bytes(std::span(values)));
    counter.add(int64_t(count));
  });
}

formats::FileSum finish(SafetensorsWriter& writer, const Path& path) {
  writer.finish();
  return {path.filename(), writer.file_bytes(), writer.crc32c()};
}

formats::FileSum write_weights(const Path& path, Store& store,
                               const std::vector<StoredTensor>& tensors, ValueCounter& counter) {
  std::vector<TensorInfo> infos;
  // A compact store has bf16 alone, so that is exact.
  const auto rounded = [&](const StoredTensor& t) {
    return store.form().compact && t.shape.size() >= 2 && !t.parameter.empty();
  };
  for (const StoredTensor& t : tensors) {
    infos.push_back({t.name, rounded(t) ? "BF16" : "F32", t.shape});
  }
  SafetensorsWriter writer(path, infos, {{"format", "pt"}});
  for (const StoredTensor& t : tensors) {
    if (t.parameter.empty()) {
      writer.write(bytes_of(at::zeros(t.shape, at::kFloat)));
      continue;
    }
    if (t.transposed) {
      std::vector<float> values = store.read(Kept::kMaster, t.parameter);
      const at::Tensor turned = wrap(values, store.param(t.parameter).shape).t();
      writer.write(bytes_of(turned.to(rounded(t) ? at::kBFloat16 : at::kFloat).contiguous()));
      counter.add(int64_t(values.size()));
    } else {
      write_values(writer, store, Kept::kMaster, t.parameter, rounded(t), counter);
    }
  }
  return finish(writer, path);
}

// Calls visit(name) for every parameter, in the order in which a store has them side by side.
template <class Visit>
void for_each_parameter(Store& store, Visit visit) {
  for (size_t i = 0; i < store.layer_count(); ++i) {
    for (const bool matrices : {true, false}) {
      for (const ParamSpec& param : store.layer(i).params) {
        if ((param.shape.size() >= 2) == matrices) visit(store.layer(i).prefix + param.name);
      }
    }
  }
}

// Calls visit(name in the file, parameter, what) for both moments of every parameter.
template <class Visit>
void for_each_moment(Store& store, Visit visit) {
  for (const Kept kept : {Kept::kExpAvg, Kept::kExpAvgSq}) {
    const std::string prefix = kept == Kept::kExpAvg ? "exp_avg/" : "exp_avg_sq/";
    for_each_parameter(store, [&](const std::string& name) { visit(prefix + name, name, kept); });
  }
}

formats::FileSum write_optimizer(const Path& path, Store& store, ValueCounter& counter) {
  std::vector<TensorInfo> infos;
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Kept) {
    infos.push_back({stored, "F32", store.param(name).shape});
  });
  SafetensorsWriter writer(path, infos, {});
  for_each_moment(store, [&](const std::string&, const std::string& name, Kept kept) {
    write_values(writer, store, kept, name, /*rounded=*/false, counter);
  });
  return finish(writer, path);
}

void check_shape(const SafetensorsReader& reader, const std::string& name,
                 const std::vector<int64_t>& wanted) {
  const auto& shape = reader.info(name).shape;
  if (shape == wanted) return;
  fail("{}: tensor {} is [{}], but this configuration needs [{}]", reader.path().string(), name,
       fmt::join(shape, ", "), fmt::join(wanted, ", "));
}

void read_values(const SafetensorsReader& reader, const std::string& stored, Store& store,
                 Kept kept, const std::string& name, ValueCounter& counter) {
  std::vector<float> values;
  in_pieces(store.param(name).count(), [&](int64_t first, size_t count) {
    values.resize(count);
    reader.read_floats(stored, first, values);
    store.write(kept, name, first, values);
    counter.add(int64_t(count));
  });
}

void read_weights(const SafetensorsReader& reader, Store& store,
                  const std::vector<StoredTensor>& tensors, ValueCounter& counter) {
  std::map<std::string, const StoredTensor*> stored;  // by parameter
  for (const StoredTensor& t : tensors) {
    check_shape(reader, t.name, t.shape);
    stored[t.parameter] = &t;
    if (!t.parameter.empty()) continue;
    std::vector<float> zeros(size_t(reader.info(t.name).count()));
    reader.read_floats(t.name, zeros);
    const bool all_zero = std::all_of(zeros.begin(), zeros.end(), [](float v) { return v == 0; });
    if (!all_zero) fail("{}: {} is not zero, but bias is false", reader.path().string(), t.name);
  }
  for_each_parameter(store, [&](const std::string& name) {
    const StoredTensor& t = *stored.at(name);
    if (!t.transposed) return read_values(reader, t.name, store, Kept::kMaster, name, counter);
    std::vector<float> values(size_t(store.param(name).count()));
    reader.read_floats(t.name, values);
    const at::Tensor turned = wrap(values, t.shape).t().contiguous();
    store.write(Kept::kMaster, name, 0, {turned.data_ptr<float>(), values.size()});
    counter.add(int64_t(values.size()));
  });
}

void read_optimizer(const SafetensorsReader& reader, Store& store, ValueCounter& counter) {
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Kept kept) {
    check_shape(reader, stored, store.param(name).shape);
    read_values(reader, stored, store, kept, name, counter);
  });
}

}  // namespace

Path save_checkpoint(const Path& out_dir, formats::TrainerState state, Store& store,
                     const std::vector<StoredTensor>& tensors,
                     const std::function<void(const Path&)>& write_rest, int64_t keep,
                     const Progress& progress) {
  const Path target = checkpoint_directory(out_dir, state.step);
  PendingDirectory pending(target);
  const std::string file_id = store.storage().file_id();
  ValueCounter counter(store, file_id.empty() ? 3 : 1, progress);
  state.files = {write_weights(pending.path() / "model.safetensors", store, tensors, counter)};
  if (file_id.empty()) {
    state.files.push_back(
        write_optimizer(pending.path() / "optimizer.safetensors", store, counter));
  }
  state.manifest = manifest();
  if (!file_id.empty()) state.manifest.emplace_back("store", file_id);
  state.manifest.emplace_back("precision", precision_name(store.precision()));
  formats::write_trainer_state(pending.path(), state);
  write_rest(pending.path());
  pending.commit();
  const auto steps = checkpoint_steps(out_dir);
  for (size_t i = 0; keep > 0 && i + size_t(keep) < steps.size(); ++i) {
    remove_directory(checkpoint_directory(out_dir, steps[i]));
  }
  return target;
}

namespace {

// The file that a checkpoint's moments are in; "" if they are beside it, or there are none.
std::string store_of(const Path& checkpoint) {
  if (!std::filesystem::exists(checkpoint / "trainer_state.json")) return "";
  for (const auto& [key, value] : formats::read_trainer_state(checkpoint).manifest) {
    if (key == "store") return value;
  }
  return "";
}

// Going on from `store_file`; nothing if that holds no run, or newer checkpoints are of another
// one.
std::optional<ResumePoint> find_store(const Path& out_dir, const Path& store_file,
                                      const std::optional<std::string>& wanted,
                                      int64_t step_tokens) {
  const auto found = StateFile::peek(store_file);
  if (!found) return std::nullopt;
  if (!wanted || *wanted != "latest") {
    fail(
        "store: {} already holds a run at step {}; continue it with --checkpoint_path latest, or "
        "delete it",
        store_file.string(), found->step);
  }
  const auto steps = checkpoint_steps(out_dir);
  const std::string of_newest =
      steps.empty() ? "" : store_of(checkpoint_directory(out_dir, steps.back()));
  if (!steps.empty() && of_newest != found->id) return std::nullopt;
  if (found->step_tokens != step_tokens) {
    fail("batch_size: {} is of a run with {} tokens a step, not {}", store_file.string(),
         found->step_tokens, step_tokens);
  }
  return ResumePoint{store_file, found->step, false, /*in_store=*/true};
}

}  // namespace

std::optional<ResumePoint> find_resume_point(const Path& out_dir, const Path& store_file,
                                             const std::optional<std::string>& wanted,
                                             int64_t step_tokens) {
  if (const auto point = find_store(out_dir, store_file, wanted, step_tokens)) return point;
  const auto steps = checkpoint_steps(out_dir);
  const auto refuse = [&] {
    fail(
        "out_dir: {} already holds a run up to step {}; continue it with --checkpoint_path latest, "
        "or choose another out_dir",
        out_dir.string(), steps.back());
  };
  if (!wanted && !steps.empty()) refuse();
  if (!wanted || (*wanted == "latest" && steps.empty())) return std::nullopt;
  ResumePoint point;
  point.checkpoint = find_checkpoint(*wanted == "latest" ? out_dir : Path(*wanted));
  if (!steps.empty()) {
    std::error_code missing;
    const Path newest = checkpoint_directory(out_dir, steps.back());
    point.in_out_dir = std::filesystem::equivalent(point.checkpoint, newest, missing);
    if (!point.in_out_dir) refuse();
  }
  if (!std::filesystem::exists(point.checkpoint / "trainer_state.json")) return point;
  const formats::TrainerState state = formats::read_trainer_state(point.checkpoint);
  point.moments_lost = !store_of(point.checkpoint).empty();
  point.step = state.tokens / step_tokens;
  if (state.tokens % step_tokens != 0) {
    fail("batch_size: the {} tokens that {} has seen are no whole number of steps of {} tokens",
         state.tokens, point.checkpoint.string(), step_tokens);
  }
  if (point.in_out_dir && point.step != state.step) {
    fail("batch_size: going on from step {} as step {} needs another out_dir than {}", state.step,
         point.step, out_dir.string());
  }
  return point;
}

Path find_checkpoint(const Path& given) {
  if (std::filesystem::exists(given / "config.json")) return given;
  const auto steps = checkpoint_steps(given);
  if (steps.empty()) fail("checkpoint_path: there is no checkpoint in {}", given.string());
  return checkpoint_directory(given, steps.back());
}

void load_checkpoint(const Path& checkpoint, Store& store, const std::vector<StoredTensor>& tensors,
                     bool optimizer, int64_t step, const Progress& progress) {
  const bool whole = optimizer && std::filesystem::exists(checkpoint / "trainer_state.json") &&
                     store_of(checkpoint).empty();
  const SafetensorsReader weights(checkpoint / "model.safetensors");
  ValueCounter counter(store, whole ? 3 : 1, progress);
  store.storage().begin_writing(step);
  read_weights(weights, store, tensors, counter);
  if (whole) {
    read_optimizer(SafetensorsReader(checkpoint / "optimizer.safetensors"), store, counter);
  }
  store.storage().finish_writing();
}

}  // namespace gigagpt::engine
