// For tests only: a small model that trains on a file or in RAM, in every form of state.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/testing.h"
#include "engine/model/autoencoder.h"
#include "engine/model/oracle.h"
#include "engine/run/step_testing.h"
#include "engine/storage/file_storage.h"
#include "engine/storage/memory_storage.h"
#include "ops/testing.h"

namespace gigagpt::engine {

constexpr int64_t kIn = 96, kHidden = 80;  // layers of two to five segments of 2048
constexpr uint64_t kSeed = 7;

inline Model make_model() {
  return make_autoencoder(kIn, kHidden, 3);
}

inline std::vector<MicroBatch> make_batches(int64_t step) {
  at::manual_seed(uint64_t(step));
  std::vector<MicroBatch> batches;
  for (const int64_t rows : {4, 4, 3}) {
    const at::Tensor x = at::randn({rows, kIn});
    batches.push_back({x, x + 1});
  }
  return batches;
}

inline Update update_to(int64_t step, const ops::Optimizer* optimizer = &ops::AdamW::kInfo) {
  return {.rule = {optimizer, {}, /*seed=*/3}, .lr = 0.01, .max_norm = 0.5, .step = step};
}

struct Way {
  bool file = true;
  StateForm form = {Precision::kFp32, /*training=*/true};
  Execution executor = {};
  StreamOptions stream = {};
};

inline std::string text_of(const Way& s) {
  return fmt::format(
      "window {} recompute {} segment {} buffers {} ahead {} memory {} cache {} {}{}{} {}",
      s.executor.window, s.executor.recompute, s.stream.segment_elements, s.stream.buffers,
      s.stream.ahead, s.stream.memory_bytes, s.stream.cache_bytes, precision_name(s.form.precision),
      s.form.compact ? " compact" : "", int(s.form.gradient), s.form.optimizer->name);
}

// A model that trains on a file in a folder of its own, or in RAM.
class Trainer {
 public:
  Trainer(const Way& way, const Path& path, FileStorage::Mode mode)
      : model_(make_model()),
        store_(storage(way, path, mode)),
        executor_(model_, store_, way.executor) {
    if (mode == FileStorage::Mode::kCreate) store_.initialise(kSeed, {});
  }

  double step() {
    const int64_t step = store_.step();
    return train_step(executor_, store_, make_batches(step), mix(9, uint64_t(step)),
                      update_to(step + 1, store_.form().optimizer), {})
        ->loss;
  }
  Store& store() { return store_; }
  Executor& executor() { return executor_; }
  const Model& model() const { return model_; }
  FileStorage& file() { return static_cast<FileStorage&>(store_.storage()); }

 private:
  std::unique_ptr<Storage> storage(const Way& way, const Path& path, FileStorage::Mode mode) {
    const auto specs = specs_of(model_);
    if (!way.file) return std::make_unique<MemoryStorage>(specs, way.form);
    StreamOptions options = way.stream;
    options.poison = true;
    options.direction = &ops::make_direction;
    return std::make_unique<FileStorage>(specs, way.form, path, mode, options);
  }

  Model model_;
  Store store_;
  Executor executor_;
};

constexpr StateForm kFull{Precision::kFp32, /*training=*/true};

// Those that go with a window: two are for whole steps.
inline std::vector<StateForm> forms(int64_t window) {
  std::vector<StateForm> forms;
  for (const auto gradient : {GradientForm::kFp32, GradientForm::kBf16, GradientForm::kNone}) {
    if (gradient != GradientForm::kFp32 && window != 0) continue;
    if (gradient != GradientForm::kBf16) {
      forms.push_back({Precision::kFp32, true, false, gradient});
      forms.push_back({Precision::kBf16, true, false, gradient});
    }
    forms.push_back({Precision::kBf16, true, true, gradient});
  }
  return forms;
}

using Values = std::map<std::string, at::Tensor>;

inline Values all_state(Store& store) {
  Values all;
  for (const auto& [name, _] : copy_values(store)) {
    for (const Array kept : {Array::kMaster, Array::kExpAvg, Array::kExpAvgSq}) {
      if (store.form().kept_count(store.param(name), kept) == 0) continue;
      all[name + std::to_string(int(kept))] = tensor_of(store, kept, name);
    }
  }
  return all;
}

inline void expect_same(const Values& actual, const Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, value] : expected) {
    SCOPED_TRACE(name);
    ops::expect_same_bits(actual.at(name), value);
  }
}

// The state in RAM after some steps, in the plainest way of running them.
inline const Values& resident_after(int64_t steps, StateForm form) {
  // How a file keeps gradients is nothing to a state in RAM, but for clipping layer by layer.
  if (form.gradient == GradientForm::kBf16) form.gradient = GradientForm::kFp32;
  static std::map<std::tuple<int64_t, Precision, bool, GradientForm, std::string>, Values> known;
  auto& values = known[{steps, form.precision, form.compact, form.gradient, form.optimizer->name}];
  if (!values.empty()) return values;
  const int64_t window = form.gradient == GradientForm::kNone ? 0 : 1;
  Trainer trainer({.file = false, .form = form, .executor = {window}}, "",
                  FileStorage::Mode::kCreate);
  for (int64_t i = 0; i < steps; ++i) trainer.step();
  return values = all_state(trainer.store());
}

class FileStorageTest : public testing::Test {
 protected:
  TemporaryDirectory directory_;
  Path path_ = directory_.path() / "model.store";
};

}  // namespace gigagpt::engine
