#include "engine/checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "engine/manifest.h"

namespace gigagpt::engine {
namespace {

using formats::SafetensorsReader;
using formats::SafetensorsWriter;
using formats::TensorInfo;

constexpr std::string_view kPrefix = "checkpoint_";

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

void write_weights(const Path& path, Store& store, const std::vector<StoredTensor>& tensors,
                   ValueCounter& counter) {
  std::vector<TensorInfo> infos;
  for (const StoredTensor& t : tensors) infos.push_back({t.name, "F32", t.shape});
  SafetensorsWriter writer(path, infos, {{"format", "pt"}});
  for (const StoredTensor& t : tensors) {
    if (t.parameter.empty()) {
      writer.write(bytes_of(at::zeros(t.shape, at::kFloat)));
      continue;
    }
    at::Tensor value =
        wrap(store.values(Kept::kMaster, t.parameter), store.param(t.parameter).shape);
    if (t.transposed) value = value.t().contiguous();
    writer.write(bytes_of(value));
    counter.add(value.numel());
  }
  writer.finish();
}

// Calls visit(name in the file, parameter, what) for both moments of every parameter.
template <class Visit>
void for_each_moment(Store& store, Visit visit) {
  for (size_t i = 0; i < store.layer_count(); ++i) {
    for (const ParamSpec& param : store.layer(i).params) {
      const std::string name = store.layer(i).prefix + param.name;
      visit("exp_avg/" + name, name, Kept::kExpAvg);
      visit("exp_avg_sq/" + name, name, Kept::kExpAvgSq);
    }
  }
}

void write_optimizer(const Path& path, Store& store, ValueCounter& counter) {
  std::vector<TensorInfo> infos;
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Kept) {
    infos.push_back({stored, "F32", store.param(name).shape});
  });
  SafetensorsWriter writer(path, infos, {});
  for_each_moment(store, [&](const std::string&, const std::string& name, Kept kept) {
    writer.write(std::as_bytes(store.values(kept, name)));
    counter.add(store.param(name).count());
  });
  writer.finish();
}

void check_shape(const SafetensorsReader& reader, const std::string& name,
                 const std::vector<int64_t>& wanted) {
  const auto& shape = reader.info(name).shape;
  if (shape == wanted) return;
  fail("{}: tensor {} is [{}], but this configuration needs [{}]", reader.path().string(), name,
       fmt::join(shape, ", "), fmt::join(wanted, ", "));
}

void read_weights(const Path& path, Store& store, const std::vector<StoredTensor>& tensors,
                  ValueCounter& counter) {
  const SafetensorsReader reader(path);
  for (const StoredTensor& t : tensors) {
    check_shape(reader, t.name, t.shape);
    if (t.parameter.empty()) {
      std::vector<float> zeros(size_t(reader.info(t.name).count()));
      reader.read_floats(t.name, zeros);
      const bool all_zero = std::all_of(zeros.begin(), zeros.end(), [](float v) { return v == 0; });
      if (!all_zero) fail("{}: {} is not zero, but bias is false", path.string(), t.name);
      continue;
    }
    const auto values = store.values(Kept::kMaster, t.parameter);
    reader.read_floats(t.name, values);
    if (t.transposed) {
      const at::Tensor stored = wrap(values, t.shape).clone();
      wrap(values, store.param(t.parameter).shape).copy_(stored.t());
    }
    counter.add(int64_t(values.size()));
  }
  for (size_t i = 0; i < store.layer_count(); ++i) store.refresh_compute_weights(i);
}

void read_optimizer(const Path& path, Store& store, ValueCounter& counter) {
  const SafetensorsReader reader(path);
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Kept kept) {
    check_shape(reader, stored, store.param(name).shape);
    reader.read_floats(stored, store.values(kept, name));
    counter.add(store.param(name).count());
  });
}

}  // namespace

Path save_checkpoint(const Path& out_dir, formats::TrainerState state, Store& store,
                     const std::vector<StoredTensor>& tensors,
                     const std::function<void(const Path&)>& write_rest, int64_t keep,
                     const Progress& progress) {
  remove_partial_directories(out_dir);
  const Path target = checkpoint_directory(out_dir, state.step);
  PendingDirectory pending(target);
  ValueCounter counter(store, 3, progress);
  write_weights(pending.path() / "model.safetensors", store, tensors, counter);
  write_optimizer(pending.path() / "optimizer.safetensors", store, counter);
  state.manifest = manifest();
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

std::optional<ResumePoint> find_resume_point(const Path& out_dir,
                                             const std::optional<std::string>& wanted,
                                             int64_t step_tokens) {
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
                     bool optimizer, const Progress& progress) {
  const bool whole = optimizer && std::filesystem::exists(checkpoint / "trainer_state.json");
  ValueCounter counter(store, whole ? 3 : 1, progress);
  read_weights(checkpoint / "model.safetensors", store, tensors, counter);
  if (whole) read_optimizer(checkpoint / "optimizer.safetensors", store, counter);
}

std::vector<int64_t> checkpoint_steps(const Path& out_dir) {
  std::vector<int64_t> steps;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(out_dir, missing)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, step);
    if (error == std::errc{} && stop == end) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

Path checkpoint_directory(const Path& out_dir, int64_t step) {
  return out_dir / fmt::format("{}{}", kPrefix, step);
}

}  // namespace gigagpt::engine
