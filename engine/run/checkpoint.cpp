#include "engine/run/checkpoint.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>
#include <torch/version.h>
#include <dnnl.hpp>

#include <future>
#include <map>
#include <thread>

#include "base/disk_rate.h"
#include "base/error.h"
#include "engine/run/take_over.h"
#include "engine/run/transpose.h"
#include "engine/run/value_counter.h"
#include "engine/run/watch.h"
#include "formats/dataset.h"

namespace gigagpt::engine {
namespace {

using formats::in_pieces;
using formats::SafetensorsReader;
using formats::SafetensorsWriter;
using formats::StoredTensor;
using formats::StoredWeights;
using formats::TensorInfo;

constexpr std::chrono::seconds kRoomAgain{2};  // before it is looked again

std::span<const std::byte> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const std::byte*>(contiguous.data_ptr()), contiguous.nbytes()};
}

// The file that the leader writes. The others ask their store for the same values, which sends
// them there.
class Output {
 public:
  Output(const Cluster& cluster, const Path& path, const std::vector<TensorInfo>& infos,
         const formats::Metadata& metadata)
      : path_(path) {
    if (cluster.leads()) writer_.emplace(path, infos, metadata);
  }
  void write(std::span<const std::byte> bytes) {
    if (writer_) writer_->write(bytes);
  }
  formats::FileSum finish() {
    if (!writer_) return {path_.filename()};
    writer_->finish();
    return {path_.filename(), writer_->file_bytes(), writer_->crc32c()};
  }

 private:
  Path path_;
  std::optional<SafetensorsWriter> writer_;
};

void write_values(Output& writer, Store& store, Array kept, const std::string& name, bool rounded,
                  ValueCounter& counter) {
  std::vector<float> values;
  in_pieces(store.form().kept_count(store.param(name), kept), [&](int64_t first, size_t count) {
    values.resize(count);
    store.read(kept, name, first, values);
    if (rounded)
      writer.write(bytes_of(wrap(values, {int64_t(count)}).to(at::kBFloat16)));
    else
      writer.write(std::as_bytes(std::span(values)));
    counter.add(int64_t(count));
  });
}

std::vector<StoredTensor> tensors_of(Store& store) {
  return stored_tensors(store.storage().layout().specs());
}

formats::FileSum write_weights(const Path& path, Store& store, ValueCounter& counter) {
  const auto tensors = tensors_of(store);
  std::vector<TensorInfo> infos;
  // A compact store has bf16 alone, so that is exact.
  const auto rounded = [&](const StoredTensor& t) {
    return store.form().compact && !t.parameter.empty() && store.param(t.parameter).is_matrix();
  };
  for (const StoredTensor& t : tensors) {
    if (!t.foreign) infos.push_back({t.name, rounded(t) ? "BF16" : "F32", t.shape});
  }
  Output writer(store.cluster(), path, infos, {{"format", "pt"}});
  for (const StoredTensor& t : tensors) {
    if (t.foreign) continue;
    if (t.parameter.empty()) {
      writer.write(bytes_of(at::zeros(t.shape, at::kFloat)));
      continue;
    }
    if (t.transposed) {
      const auto read = [&](int64_t first, std::span<float> values) {
        store.read(Array::kMaster, t.parameter, first, values);
      };
      transpose(t.shape[1], t.shape[0], read, [&](int64_t, const at::Tensor& part) {
        writer.write(bytes_of(part.to(rounded(t) ? at::kBFloat16 : at::kFloat)));
        counter.add(part.numel());
      });
    } else {
      write_values(writer, store, Array::kMaster, t.parameter, rounded(t), counter);
    }
  }
  return writer.finish();
}

// Calls visit(name) for every parameter, in the order in which a store has them side by side.
template <class Visit>
void for_each_parameter(Store& store, Visit visit) {
  for (size_t i = 0; i < store.layer_count(); ++i) {
    for (const bool matrices : {true, false}) {
      for (const ParamSpec& param : store.layer(i).params) {
        if (param.is_matrix() == matrices) visit(store.layer(i).prefix + param.name);
      }
    }
  }
}

// Calls visit(name in the file, parameter, what) for what the optimizer keeps of every parameter.
template <class Visit>
void for_each_moment(Store& store, Visit visit) {
  for (const Array kept : {Array::kExpAvg, Array::kExpAvgSq}) {
    if (!store.form().keeps(kept)) continue;
    const std::string prefix = kept == Array::kExpAvg ? "exp_avg/" : "exp_avg_sq/";
    for_each_parameter(store, [&](const std::string& name) {
      if (store.form().kept_count(store.param(name), kept) > 0) visit(prefix + name, name, kept);
    });
  }
}

formats::FileSum write_optimizer(const Path& path, Store& store, ValueCounter& counter) {
  std::vector<TensorInfo> infos;
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Array kept) {
    infos.push_back({stored, "F32", store.form().kept_shape(store.param(name), kept)});
  });
  Output writer(store.cluster(), path, infos, {});
  for_each_moment(store, [&](const std::string&, const std::string& name, Array kept) {
    write_values(writer, store, kept, name, /*rounded=*/false, counter);
  });
  return writer.finish();
}

void check_shape(const SafetensorsReader& reader, const std::string& name,
                 const std::vector<int64_t>& wanted) {
  const auto& shape = reader.info(name).shape;
  if (shape == wanted) return;
  fail("{}: tensor {} is [{}], but this configuration needs [{}]", reader.path().string(), name,
       fmt::join(shape, ", "), fmt::join(wanted, ", "));
}

// The leader reads; the others are sent what it reads.
template <class Read>
void read_values(Read read, Store& store, Array kept, const std::string& name,
                 ValueCounter& counter) {
  std::vector<float> values;
  in_pieces(store.form().kept_count(store.param(name), kept), [&](int64_t first, size_t count) {
    values.resize(count);
    read(first, std::span(values));
    store.cluster().broadcast(std::as_writable_bytes(std::span(values)));
    store.write(kept, name, first, values);
    counter.add(int64_t(count));
  });
}

void read_weights(const std::optional<StoredWeights>& weights, Store& store,
                  ValueCounter& counter) {
  const auto tensors = tensors_of(store);
  store.cluster().together([&] {
    if (weights) weights->check_values();
  });
  std::map<std::string, const StoredTensor*> stored;  // by parameter
  for (const StoredTensor& t : tensors) {
    if (!t.foreign) stored[t.parameter] = &t;
  }
  for_each_parameter(store, [&](const std::string& name) {
    const StoredTensor& t = *stored.at(name);
    if (!t.transposed) {
      const auto read = [&](int64_t first, std::span<float> values) {
        if (weights) weights->read_floats(t, first, values);
      };
      return read_values(read, store, Array::kMaster, name, counter);
    }
    const auto read = [&](int64_t first, std::span<float> values) {
      if (weights) weights->read_floats(t, first, values);
    };
    transpose(t.shape[0], t.shape[1], read, [&](int64_t first, const at::Tensor& part) {
      const std::span values(part.data_ptr<float>(), size_t(part.numel()));
      store.cluster().broadcast(std::as_writable_bytes(values));
      store.write(Array::kMaster, name, first, values);
      counter.add(part.numel());
    });
  });
}

void read_optimizer(const std::optional<SafetensorsReader>& reader, Store& store,
                    ValueCounter& counter) {
  for_each_moment(store, [&](const std::string& stored, const std::string& name, Array kept) {
    if (reader) check_shape(*reader, stored, store.form().kept_shape(store.param(name), kept));
    const auto read = [&](int64_t first, std::span<float> values) {
      if (reader) reader->read_floats(stored, first, values);
    };
    read_values(read, store, kept, name, counter);
  });
}

// Version of this program and of LibTorch and oneDNN, the CPU, the threads and the precision in
// use: enough to tell why two runs differ in their last bits. And what the data is known by.
formats::TextPairs manifest(const Store& store, const std::string& data) {
  const dnnl_version_t* dnnl = dnnl_version();
  formats::TextPairs pairs = {
      {"gigagpt", GIGAGPT_VERSION},
      {"libtorch", TORCH_VERSION},
      {"onednn", fmt::format("{}.{}.{}", dnnl->major, dnnl->minor, dnnl->patch)},
      {"cpu", cpu_name()},
      {"threads", std::to_string(at::get_num_threads())},
      {"precision", precision_name(store.precision())}};
  if (!data.empty()) pairs.emplace_back("data", data);
  return pairs;
}

}  // namespace

void load_checkpoint(const Path& checkpoint, Store& store, bool optimizer, int64_t step,
                     const Progress& progress) {
  Cluster& cluster = store.cluster();
  // What this or the other thread has read the other finds in the page cache.
  std::future<void> verified;
  if (cluster.leads())
    verified = std::async(std::launch::async, formats::verify_files, checkpoint, optimizer);
  const auto open = [&](const auto& work) {
    return cluster.together([&] {
      try {
        return work();
      } catch (const Error&) {  // which is said worse of what is damaged
        if (verified.valid()) verified.get();
        throw;
      }
    });
  };
  const auto weights = open([&] {
    return cluster.leads()
               ? std::optional<StoredWeights>(std::in_place, checkpoint, tensors_of(store))
               : std::nullopt;
  });
  const auto moments = open([&] {
    const bool there = cluster.leads() && optimizer &&
                       std::filesystem::exists(checkpoint / "trainer_state.json") &&
                       has_moments(checkpoint);
    return there ? std::optional<SafetensorsReader>(std::in_place,
                                                    checkpoint / formats::kOptimizerFile)
                 : std::nullopt;
  });
  const bool whole = cluster.any(moments.has_value());
  ValueCounter counter(store, whole, progress);
  store.storage().begin_writing(step);
  read_weights(weights, store, counter);
  if (whole) read_optimizer(moments, store, counter);
  cluster.together([&] {
    if (verified.valid()) verified.get();
  });
  store.storage().finish_writing();
}

Checkpoints::Checkpoints(CheckpointRules rules, Cluster& cluster, Note note)
    : rules_(std::move(rules)), cluster_(cluster), note_(std::move(note)) {
  cluster.together([&] {
    if (!cluster.leads()) return;
    lock_.emplace(rules_.out_dir, "out_dir", "training");
    remove_leftovers(rules_.out_dir);
  });
  const Path train = rules_.dataset / "train.bin";
  if (cluster.leads() && !rules_.dataset.empty() && std::filesystem::exists(train))
    rules_.data = formats::fingerprint(train);
  from_ = find_resume_point(rules_, cluster);
}

int64_t Checkpoints::start(Store& store, int64_t seed, const Progress& progress) try {
  const bool goes_on = from_ && !from_->weights_alone;
  const bool here = goes_on && (from_->in_out_dir || from_->in_store ||
                                (!from_->other_files.empty() && !from_->keeps_files));
  cluster_.together([&] {
    if (cluster_.leads() && !here)
      carry_left_out(goes_on ? from_->checkpoint : Path(), rules_.out_dir);
  });
  if (!from_) store.initialise(uint64_t(seed), progress);
  if (from_ && from_->keeps_files) {
    load_with_moments(store, progress);
  } else if (from_ && !from_->other_files.empty()) {
    load_files(*from_, store, progress);
  } else if (from_ && !from_->in_store) {
    load_checkpoint(from_->checkpoint, store, /*optimizer=*/!from_->weights_alone, from_->step,
                    progress);
  }
  if (from_ && from_->in_out_dir) saved_step_ = from_->step;
  since_saved_ = {};
  size_bytes_ = 4 * uint64_t(ValueCounter::count_values(store, saves_moments(store)));
  // A file may be a step ahead of what it said when a killed process was still writing.
  if (from_ && from_->in_store) return store.step();
  return from_ ? from_->step : 0;
} catch (const AgreedError&) {
  if (!sets_aside()) throw;
  note_(origin(store.precision()));
  return start(store, seed, progress);
}

// From the files of another run or, if they cannot be read as they are, from its checkpoint alone.
void Checkpoints::load_with_moments(Store& store, const Progress& progress) {
  try {
    load_files(*from_, store, progress);
  } catch (const AgreedError& error) {
    note_(fmt::format("{}; the optimizer's moments start from zero", error.what()));
    load_checkpoint(from_->checkpoint, store, /*optimizer=*/false, from_->step, progress);
  }
}

// Whether a checkpoint of "latest" was damaged and there is another to begin with.
bool Checkpoints::sets_aside() {
  if (!rules_.from || *rules_.from != "latest") return false;
  const auto aside = cluster_.together(
      [&] { return cluster_.leads() ? set_damaged_aside(rules_.out_dir, /*sums=*/true) : ""; });
  if (!cluster_.any(!aside.empty())) return false;
  from_ = find_resume_point(rules_, cluster_);
  if (from_) from_->note = aside;
  return true;
}

bool Checkpoints::due(int64_t step, bool wanted) {
  const RunSize& every = rules_.size;
  const bool by_step = every.checkpoint_steps > 0 && step % every.checkpoint_steps == 0;
  const bool by_time =
      every.checkpoint_minutes > 0 && since_saved_.seconds() > 60 * every.checkpoint_minutes;
  const bool due = wanted || by_step || cluster_.any(by_time && cluster_.leads());
  return due && has_room("the run goes on without, and the next one that is due is tried");
}

bool Checkpoints::saves_moments(const Store& store) const {
  return store.file_id().empty() || rules_.size.checkpoint_moments;
}

bool Checkpoints::has_room(const char* otherwise) {
  const uint64_t free = cluster_.gather(free_bytes(existing_folder(rules_.out_dir)))[0];
  const bool missed = std::exchange(room_missed_, free < size_bytes_);
  if (room_missed_ && !missed) {
    note_(fmt::format("{} has no room for a checkpoint of {:.2f} GB ({:.2f} GB are free): {}",
                      rules_.out_dir.string(), double(size_bytes_) / 1e9, double(free) / 1e9,
                      otherwise));
  }
  return !room_missed_;
}

int64_t Checkpoints::way_back(const Store& store) const {
  const int64_t every = std::max<int64_t>(rules_.size.checkpoint_steps, 1);
  int64_t last = -1;
  for (const int64_t step : checkpoint_steps(rules_.out_dir))
    last = step % every == 0 ? step : last;
  return store.file_id().empty() ? cluster_.gather(last)[0] : -1;
}

void Checkpoints::reload(int64_t step, Store& store, const Progress& progress) {
  store.settle();
  load_checkpoint(checkpoint_directory(rules_.out_dir, step), store, /*optimizer=*/true, step,
                  progress);
  for (const int64_t later : checkpoint_steps(rules_.out_dir)) {
    if (later > step && cluster_.leads())
      remove_directory(checkpoint_directory(rules_.out_dir, later));
  }
  saved_step_ = step;
}

Path Checkpoints::save(int64_t step, Store& store, bool best,
                       const std::function<void(const Path&)>& write_rest,
                       const Progress& progress) {
  const Path target = checkpoint_directory(rules_.out_dir, step);
  room_missed_ = false;
  while (!has_room("make some, it is waited for; Ctrl-C twice gives it up"))
    std::this_thread::sleep_for(kRoomAgain);
  std::optional<PendingDirectory> pending;
  if (cluster_.leads()) pending.emplace(target);
  const Path folder = pending ? pending->path() : target;
  const std::string file_id = store.file_id();
  ValueCounter counter(store, saves_moments(store), progress);
  formats::TrainerState state{
      step, step * rules_.size.step_tokens(), rules_.config, manifest(store, rules_.data), {}};
  state.files = {write_weights(folder / "model.safetensors", store, counter)};
  if (saves_moments(store))
    state.files.push_back(write_optimizer(folder / formats::kOptimizerFile, store, counter));
  if (!file_id.empty()) state.manifest.emplace_back("store", file_id);
  if (pending) {
    carry_left_out(rules_.out_dir, folder);
    write_rest(folder);
    formats::write_trainer_state(folder, state);
    pending->commit();
    if (best) link_best(target);
    remove_older_checkpoints(rules_.out_dir, size_t(rules_.size.keep_checkpoints));
  }
  saved_step_ = step;
  since_saved_ = {};
  note_("saved " + target.string());
  return target;
}

std::string Checkpoints::newest() const {
  return saved_step_ < 0 ? "none" : checkpoint_directory(rules_.out_dir, saved_step_).string();
}

}  // namespace gigagpt::engine
