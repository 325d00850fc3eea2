// Power that goes at any call, a process that is killed there, a disk that is full or broken: a
// file goes on from its last step, to the same bits. Without LibTorch.
#include <gtest/gtest.h>

#include "base/fake_disk.h"
#include "base/random.h"
#include "base/testing.h"
#include "engine/state/segment_math.h"
#include "engine/storage/file_storage.h"

namespace gigagpt::engine {
namespace {

using Fault = FakeDisk::Fault;
namespace kernels = ops::kernels;

constexpr int64_t kSegment = 2048;

// Layers of several segments, one, one and two, of three sizes; the first matrix is large enough to
// have its moments in 8 bits.
std::vector<LayerSpec> specs() {
  const std::vector<std::vector<ParamSpec>> params = {{{"matrix", {50, 90}}, {"vector", {50}}},
                                                      {{"matrix", {30, 40}}},
                                                      {{"vector", {1500}}},
                                                      {{"a", {45, 30}}, {"b", {9, 80}}}};
  std::vector<LayerSpec> specs;
  for (size_t i = 0; i < params.size(); ++i) {
    const std::string name = "layer" + std::to_string(i);
    specs.push_back({name, name + ".", params[i]});
  }
  return specs;
}

float value_at(uint64_t key, int64_t element) {
  return float(mix(key, uint64_t(element)) >> 40) * 0x1p-23F - 1.0F;
}

// In place of ops::make_direction(), which needs LibTorch: depends on all of a parameter and on
// what is kept of it, in the shape that the optimizer wants.
void direct(const ops::WholeParam& param, const ops::UpdateRule&, double lr, int64_t step) {
  float sum = 0;
  for (float& g : param.grad) {
    g *= float(param.grad_scale);
    sum += g * g;
  }
  for (size_t i = 0; i < param.exp_avg.size(); ++i)
    param.grad[i] = param.exp_avg[i] = 0.9F * param.exp_avg[i] + param.grad[i];
  for (size_t i = 0; i < param.exp_avg_sq.size(); ++i)
    param.exp_avg_sq[i] += sum * float(step) + float(i);
  for (size_t i = 0; i < param.grad.size(); ++i) {
    const auto& sums = param.exp_avg_sq;
    param.grad[i] *= float(lr) / (sum + (sums.empty() ? 1 : sums[i % sums.size()]));
  }
}

// A layer's state as plain memory, one segment.
struct Arrays {
  std::vector<std::byte> master, exp_avg, exp_avg_sq, working, gradient;

  Arrays(const StateLayout& layout, const Segment& whole)
      : master(4 * size_t(whole.count)),
        exp_avg(layout.kept_bytes(whole, Array::kExpAvg)),
        exp_avg_sq(layout.kept_bytes(whole, Array::kExpAvgSq)),
        working(layout.working_bytes(whole.layer)),
        gradient(layout.gradient_bytes(whole.layer)) {}
  SegmentArrays pointers(const StateForm& form) {
    return {(form.has_masters() ? master : working).data(), gradient.data(), exp_avg.data(),
            exp_avg_sq.data(), working.data()};
  }
};

// What the state is after each step. A step that is run again in another life has other gradients
// and another learning rate, as if the configuration had changed: what is left of the first try
// must not mix with the second.
class Expected {
 public:
  explicit Expected(const StateLayout& layout) : layout_(layout) {}

  void begin(uint64_t life) {
    states_.assign(1, {});
    for (size_t i = 0; i < layout_.layer_count(); ++i) {
      states_.back().emplace_back(layout_, whole(i));
      for (size_t p = 0; p < layout_.spec(i).params.size(); ++p) {
        const int64_t first = layout_.layer(i).offsets[p];
        std::vector<float> values(size_t(layout_.spec(i).params[p].count()));
        for (size_t e = 0; e < values.size(); ++e) {
          values[e] = value_at(mix(life, i), first + int64_t(e));
        }
        write_values(layout_, whole(i), states_.back()[i].pointers(layout_.form()), Array::kMaster,
                     first, values);
      }
    }
  }
  void go_on_from(int64_t step) { states_.erase(states_.begin() + step + 1, states_.end()); }
  int64_t step() const { return int64_t(states_.size()) - 1; }
  std::vector<float> values(Array kept, size_t layer, int64_t first, int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    read_values(layout_, whole(layer), states_.back()[layer].pointers(layout_.form()), kept, first,
                values);
    return values;
  }
  const std::vector<std::byte>& working(size_t layer) const {
    return states_.back()[layer].working;
  }

  Update update(uint64_t life, int64_t step) const {
    return {.rule = {layout_.form().optimizer, {.beta2 = 0.99}},
            .lr = 0.01 * double(life),
            .step = step,
            .grad_scale = 0.5};
  }
  static void add_gradient(std::span<float> gradient, uint64_t life, int64_t step, size_t layer,
                           int window) {
    const uint64_t key = mix(mix(mix(life, uint64_t(step)), layer), uint64_t(window));
    for (size_t e = 0; e < gradient.size(); ++e) {
      // Numbers that bf16 has.
      const float value = kernels::to_float(kernels::to_bf16(value_at(key, int64_t(e))));
      gradient[e] = (window == 0 ? 0.0F : gradient[e]) + value;
    }
  }

  void run_step(uint64_t life, int windows) {
    const int64_t step = this->step() + 1;
    states_.push_back(states_.back());
    for (size_t i = 0; i < layout_.layer_count(); ++i) {
      Arrays& arrays = states_.back()[i];
      const std::span gradient(reinterpret_cast<float*>(arrays.gradient.data()),
                               size_t(whole(i).count));
      for (int window = 0; window < windows; ++window) {
        add_gradient(gradient, life, step, i, window);
      }
      clear_padding(layout_, i, gradient);
      const Update update = this->update(life, step);
      const SegmentArrays pointers = arrays.pointers(layout_.form());
      for (const ops::WholeParam& param : whole_params(layout_, whole(i), pointers, update))
        direct(param, update.rule, update.lr, step);
      update_segment_alone(layout_, whole(i), pointers, update);
    }
  }

  static void clear_padding(const StateLayout& layout, size_t layer, std::span<float> gradient) {
    for (const auto& [begin, end] : layout.layer(layer).padding) {
      std::fill(gradient.begin() + begin, gradient.begin() + end, 0.0F);
    }
  }

 private:
  Segment whole(size_t layer) const { return {layer, 0, layout_.layer(layer).size}; }
  const StateLayout& layout_;
  std::vector<std::vector<Arrays>> states_;  // by step and layer
};

// A way of streaming.
struct Way {
  StateForm form;
  size_t buffers = 1;
  uint64_t cached_segments = 0;
  int windows = 1;
};

Way way_of(uint64_t seed, const ops::Optimizer* optimizer) {
  const int windows = seed / 18 % 5 == 0 ? 2 : 1;
  const std::array<StateForm, 4> forms = {
      StateForm{Precision::kFp32, true}, StateForm{Precision::kBf16, true},
      StateForm{Precision::kBf16, true, /*compact=*/true},
      StateForm{Precision::kBf16, true, /*compact=*/true,
                windows == 1 ? GradientForm::kBf16 : GradientForm::kFp32}};
  StateForm form = forms[seed / 90 % 4];
  form.optimizer = optimizer;
  if (form.compact && form.optimizer->whole != ops::Whole::kNone)
    form = {form.precision, true, /*compact=*/false, GradientForm::kFp32, form.optimizer};
  return {form, 1 + seed / 2 % 3, std::array<uint64_t, 3>{0, 3, 7}[seed / 6 % 3], windows};
}

// A process that trains on the file.
class Life {
 public:
  Life(uint64_t number, const Way& way, const Path& path, Expected& expected,
       const EngineMaker& engine)
      : number_(number), way_(way), path_(path), expected_(expected) {
    options_ = {.segment_elements = kSegment, .buffers = way.buffers, .ahead = 1 + number % 4};
    const StateLayout layout(specs(), way.form, options_.segment_elements);
    options_.cache_bytes = way.cached_segments * layout.slot_bytes();
    options_.poison = true;
    options_.direction = &direct;
    options_.engine = engine;
  }

  void create() {
    expected_.begin(number_);
    storage_ = open_as(FileStorage::Mode::kCreate);
    storage_->begin_writing(0);
    for_each_param([&](size_t layer, int64_t begin, const ParamSpec& param) {
      storage_->write(Array::kMaster, layer, begin,
                      expected_.values(Array::kMaster, layer, begin, param.count()));
    });
    storage_->finish_writing();
    promised_ = 0;
  }

  void open() {
    storage_ = open_as(FileStorage::Mode::kOpen);
    expected_.go_on_from(storage_->step());
    promised_ = storage_->step();
  }

  void step() {
    const int64_t step = storage_->step() + 1;
    const bool keep = step % 2 == 0;
    std::vector<Request> requests;
    for (int window = 0; window < way_.windows; ++window) {
      for (size_t i = 0; i < layers(); ++i) requests.push_back({i, false, keep});
      for (size_t i = layers(); i-- > 0;) {
        requests.push_back({i, false});
        requests.push_back({i, true});
      }
    }
    storage_->expect(requests);
    std::array<int, 4> seen = {};  // gradients of each layer
    for (const Request& request : requests) {
      std::byte* memory = storage_->acquire(request);
      if (request.gradient) {
        const std::span all(reinterpret_cast<float*>(memory), size(request.layer));
        Expected::add_gradient(all, number_, step, request.layer, seen[request.layer]++);
        Expected::clear_padding(layout(), request.layer, all);
      } else {
        check_weights(request.layer, memory);
      }
      storage_->release(request);
    }
    expected_.run_step(number_, way_.windows);
    storage_->defer(expected_.update(number_, step));
  }

  void settle() {
    storage_->settle();
    promised_ = storage_->step();
  }

  void check_all() {
    for (const Array kept : {Array::kMaster, Array::kExpAvg, Array::kExpAvgSq}) {
      for_each_param([&](size_t layer, int64_t begin, const ParamSpec& param) {
        const int64_t count = way_.form.kept_count(param, kept);
        if (count == 0) return;
        std::vector<float> values(static_cast<size_t>(count));
        storage_->read(kept, layer, begin, values);
        const std::vector<float> wanted = expected_.values(kept, layer, begin, count);
        EXPECT_EQ(std::memcmp(values.data(), wanted.data(), 4 * values.size()), 0)
            << "layer " << layer << " kept " << int(kept) << " step " << storage_->step();
      });
    }
  }

  // The step that the file must have at least.
  int64_t promised() const { return promised_; }

 private:
  std::unique_ptr<FileStorage> open_as(FileStorage::Mode mode) const {
    return std::make_unique<FileStorage>(specs(), way_.form, path_, mode, options_);
  }
  const StateLayout& layout() const { return storage_->layout(); }
  size_t layers() const { return layout().layer_count(); }
  size_t size(size_t layer) const { return size_t(layout().layer(layer).size); }

  template <class Visit>
  void for_each_param(Visit visit) {
    for (size_t i = 0; i < layers(); ++i) {
      for (size_t p = 0; p < layout().spec(i).params.size(); ++p) {
        visit(i, layout().layer(i).offsets[p], layout().spec(i).params[p]);
      }
    }
  }

  void check_weights(size_t layer, const std::byte* working) {
    const LayerSpec& spec = layout().spec(layer);
    for (size_t p = 0; p < spec.params.size(); ++p) {
      const int64_t begin = layout().layer(layer).offsets[p], count = spec.params[p].count();
      const uint64_t at = layout().working_at(layer, begin);
      const uint64_t size = layout().working_at(layer, begin + count) - at;
      EXPECT_EQ(std::memcmp(working + at, expected_.working(layer).data() + at, size), 0)
          << "weights of layer " << layer << " after step " << storage_->step();
    }
  }

  const uint64_t number_;
  const Way way_;
  const Path path_;
  Expected& expected_;
  StreamOptions options_;
  int64_t promised_ = -1;
  std::unique_ptr<FileStorage> storage_;
};

// Lives that follow each other on one disk.
class Scenario {
 public:
  Scenario(const Path& directory, uint64_t seed, const ops::Optimizer* optimizer)
      : directory_(directory), way_(way_of(seed, optimizer)), disk_(seed), random_(mix(seed, 1)) {
    std::filesystem::remove(path_);
  }

  // Whether the first life got as far as that call.
  bool run(Fault fault, int64_t call) {
    const bool struck = live(fault, call, 5);
    constexpr std::array kFaults = {Fault::kPowerLoss, Fault::kShortWrite, Fault::kKill,
                                    Fault::kNoSpace, Fault::kIoError};
    if (!HasFailure()) live(kFaults[random_() % 5], int64_t(random_() % 100), 3);
    if (!HasFailure()) end();
    return struck;
  }

 private:
  static bool HasFailure() { return testing::Test::HasFailure(); }

  // A process on the fake disk, and what that holds afterwards.
  bool live(Fault fault, int64_t call, int64_t steps) {
    const auto found = StateFile::peek(path_);
    if (!found) disk_.erase();
    std::string error;
    int64_t least = -1;
    {
      Life life(++lives_, way_, path_, expected_, disk_.begin(fault, call));
      try {
        found ? life.open() : life.create();
        for (int64_t i = 0; i < steps; ++i) {
          life.step();
          if (i == 2) life.settle();
        }
        life.settle();
      } catch (const Error& thrown) {
        error = thrown.what();
      }
      least = life.promised();
    }
    check_error(fault, error);
    least = std::max(least, step_of(disk_.durable()));
    const bool lost = fault == Fault::kPowerLoss || fault == Fault::kShortWrite;
    if (lost || random_() % 2 == 0) disk_.lose_power();
    // The next life has the rest from the fake disk.
    File::create(path_).write(headers_of(disk_.current()));
    std::filesystem::resize_file(path_, disk_.current().size());
    const auto left = StateFile::peek(path_);
    // A step whose header was on the way may be there or not.
    EXPECT_GE(left ? left->step : -1, least);
    EXPECT_LE(left ? left->step : -1, expected_.step());
    return disk_.struck();
  }

  void check_error(Fault fault, const std::string& error) const {
    if (!disk_.struck()) {
      EXPECT_EQ(error, "") << "though nothing was wrong";
    }
    if (!disk_.struck() || (fault == Fault::kShortWrite && error.empty())) return;
    EXPECT_TRUE(error.starts_with("cannot write " + path_.string() + " at byte ") ||
                error.starts_with("cannot sync " + path_.string()))
        << error;
    EXPECT_TRUE(error.ends_with(fault == Fault::kNoSpace ? "No space left on device"
                                                         : "Input/output error"))
        << error;
  }

  // The last life, with the real engine.
  void end() {
    File::create(path_).write(disk_.current());
    Life life(++lives_, way_, path_, expected_, {});
    try {
      StateFile::peek(path_) ? life.open() : life.create();
      life.settle();
      life.check_all();
      for (int i = 0; i < 2; ++i) life.step();
      life.settle();
      life.check_all();
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }

  static std::span<const std::byte> headers_of(std::span<const std::byte> image) {
    return image.first(std::min(image.size(), 2 * kBlockBytes));
  }
  int64_t step_of(std::span<const std::byte> image) const {
    const Path headers = directory_ / "headers";
    File::create(headers).write(headers_of(image));
    const auto summary = StateFile::peek(headers);
    return summary ? summary->step : -1;
  }

  const Path directory_;
  const Path path_ = directory_ / "model.store";
  const Way way_;
  const StateLayout layout_{specs(), way_.form, kSegment};
  FakeDisk disk_;
  std::mt19937_64 random_;
  Expected expected_{layout_};
  uint64_t lives_ = 0;
};

// Every call of a run in turn, with every optimizer.
void sweep(Fault fault) {
  const TemporaryDirectory directory;
  for (const ops::Optimizer* optimizer : ops::optimizers()) {
    int64_t call = 0;
    for (bool struck = true; struck; ++call) {
      const uint64_t seed = mix(mix(uint64_t(fault), uint64_t(call)), hash_name(optimizer->name));
      SCOPED_TRACE(fmt::format("fault {} at call {} with {}, seed {}", int(fault), call,
                               optimizer->name, seed));
      struck = Scenario(directory.path(), seed, optimizer).run(fault, call);
      if (testing::Test::HasFailure()) return;
    }
    EXPECT_GT(call, 50) << "the run is that long";
  }
}

TEST(PowerLossTest, LosesNoStepThatWasCompleted) {
  sweep(Fault::kPowerLoss);
}
TEST(PowerLossTest, AfterAShortWriteToo) {
  sweep(Fault::kShortWrite);
}
TEST(PowerLossTest, AKilledProcessIsNotTheEndOfTheCache) {
  sweep(Fault::kKill);
}
TEST(PowerLossTest, AFullDiskIsOneError) {
  sweep(Fault::kNoSpace);
}
TEST(PowerLossTest, ABrokenDiskIsOneError) {
  sweep(Fault::kIoError);
}

}  // namespace
}  // namespace gigagpt::engine
