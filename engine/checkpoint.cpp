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

void write_weights(const Path& path, Store& store, const std::vector<StoredTensor>& tensors) {
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

void write_optimizer(const Path& path, Store& store) {
  std::vector<TensorInfo> infos;
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Kept) {
    infos.push_back({stored, "F32", store.param(name).shape});
  });
  SafetensorsWriter writer(path, infos, {});
  for_each_moment(store, [&](const std::string&, const std::string& name, Kept kept) {
    writer.write(std::as_bytes(store.values(kept, name)));
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

}  // namespace

Path save_checkpoint(const Path& out_dir, formats::TrainerState state, Store& store,
                     const std::vector<StoredTensor>& tensors,
                     const std::function<void(const Path&)>& write_rest, int64_t keep) {
  const int64_t step = state.step;
  const Path target = checkpoint_directory(out_dir, step);
  PendingDirectory pending(target);
  write_weights(pending.path() / "model.safetensors", store, tensors);
  write_optimizer(pending.path() / "optimizer.safetensors", store);
  state.manifest = manifest();
  formats::write_trainer_state(pending.path(), state);
  write_rest(pending.path());
  pending.commit();
  const auto steps = checkpoint_steps(out_dir);
  for (size_t i = 0; keep > 0 && i + size_t(keep) < steps.size(); ++i) {
    std::filesystem::remove_all(checkpoint_directory(out_dir, steps[i]));
  }
  return target;
}

std::optional<Path> resume_point(const Path& out_dir, const std::optional<std::string>& wanted) {
  const auto steps = checkpoint_steps(out_dir);
  if (steps.empty()) {
    return wanted && *wanted != "latest" ? std::optional<Path>(*wanted) : std::nullopt;
  }
  const Path newest = checkpoint_directory(out_dir, steps.back());
  std::error_code missing;
  const bool goes_on =
      wanted && (*wanted == "latest" || std::filesystem::equivalent(*wanted, newest, missing));
  if (!goes_on) {
    fail(
        "out_dir: {} already holds a run up to step {}; continue it with --checkpoint_path latest, "
        "or choose another out_dir",
        out_dir.string(), steps.back());
  }
  return newest;
}

int64_t resume(const Path& checkpoint, Store& store, const std::vector<StoredTensor>& tensors,
               int64_t step_tokens) {
  load_weights(checkpoint, store, tensors);
  if (!std::filesystem::exists(checkpoint / "trainer_state.json")) return 0;
  load_optimizer(checkpoint, store);
  const int64_t tokens = formats::read_trainer_state(checkpoint).tokens;
  if (tokens % step_tokens != 0) {
    fail("batch_size: the {} tokens that {} has seen are no whole number of steps of {} tokens",
         tokens, checkpoint.string(), step_tokens);
  }
  return tokens / step_tokens;
}

void load_weights(const Path& checkpoint, Store& store, const std::vector<StoredTensor>& tensors) {
  const SafetensorsReader reader(checkpoint / "model.safetensors");
  for (const StoredTensor& t : tensors) {
    check_shape(reader, t.name, t.shape);
    std::vector<float> zeros;
    if (t.parameter.empty()) {
      zeros.resize(size_t(reader.info(t.name).count()));
      reader.read_floats(t.name, zeros);
      const bool all_zero = std::all_of(zeros.begin(), zeros.end(), [](float v) { return v == 0; });
      if (!all_zero) fail("{}: {} is not zero, but bias is false", reader.path().string(), t.name);
      continue;
    }
    const auto values = store.values(Kept::kMaster, t.parameter);
    reader.read_floats(t.name, values);
    if (t.transposed) {
      const at::Tensor stored = wrap(values, t.shape).clone();
      wrap(values, store.param(t.parameter).shape).copy_(stored.t());
    }
  }
  for (size_t i = 0; i < store.layer_count(); ++i) store.refresh_compute_weights(i);
}

void load_optimizer(const Path& checkpoint, Store& store) {
  const SafetensorsReader reader(checkpoint / "optimizer.safetensors");
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Kept kept) {
    check_shape(reader, stored, store.param(name).shape);
    reader.read_floats(stored, store.values(kept, name));
  });
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
