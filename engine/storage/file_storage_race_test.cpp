// A FileStorage under ThreadSanitizer: two threads pass memory back and forth, three with other
// systems, and every value is what plain arithmetic says. Without LibTorch, whose OpenMP the
// sanitizer does not understand.
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <thread>

#include "base/testing.h"
#include "engine/storage/file_storage.h"
#include "engine/systems/systems_testing.h"
#include "ops/optimizers/sgd.h"

namespace gigagpt::engine {
namespace {

constexpr int64_t kRows = 70, kColumns = 100;  // a layer of four segments
constexpr size_t kLayers = 4;

std::vector<LayerSpec> specs() {
  std::vector<LayerSpec> specs;
  for (size_t i = 0; i < kLayers; ++i) {
    const std::string name = "layer" + std::to_string(i);
    specs.push_back({name, name + ".", {{"matrix", {kRows, kColumns}}, {"vector", {kRows}}}});
  }
  return specs;
}

float gradient_at(int64_t step, size_t layer, int64_t element) {
  return float(step) + 0.25F * float(layer) - 0.001F * float(element % 97);
}

// Momentum is 0, so w -= lr g is all that a step does.
const ops::UpdateRule kPlain{&ops::Sgd::kInfo, {.beta1 = 0, .weight_decay = 0}};
constexpr double kRate = 0.5;

class Model {
 public:
  explicit Model(const Path& path, StreamOptions options, Cluster& cluster = Cluster::alone())
      : storage_(specs(), {Precision::kFp32, true}, path, FileStorage::Mode::kCreate, options,
                 cluster) {
    const StateLayout& layout = storage_.layout();
    storage_.begin_writing(0);
    for (size_t i = 0; i < kLayers; ++i) {
      expected_.emplace_back(size_t(layout.layer(i).size), 0.0F);
      for (const int64_t offset : layout.layer(i).offsets) {
        std::vector<float> ones(size_t(offset == 0 ? kRows * kColumns : kRows), 1.0F);
        storage_.write(Array::kMaster, i, offset, ones);
        std::copy(ones.begin(), ones.end(), expected_[i].begin() + offset);
      }
    }
    storage_.finish_writing();
  }

  void step(int64_t step, bool keep, int windows) {
    std::vector<Request> requests;
    for (int window = 0; window < windows; ++window) {
      for (size_t i = 0; i < kLayers; ++i) requests.push_back({i, false, keep});
      for (size_t i = kLayers; i-- > 0;) {
        requests.push_back({i, false});
        requests.push_back({i, true});
      }
    }
    storage_.expect(requests);
    for (int window = 0; window < windows; ++window) {
      for (size_t i = 0; i < kLayers; ++i) visit_weights({i, false, keep});
      for (size_t i = kLayers; i-- > 0;) {
        visit_weights({i, false});
        visit_gradient(i, step, window, window + 1 == windows);
      }
    }
    for (size_t i = 0; !alone() && i < kLayers; ++i) storage_.reduced_square_sum(i);
    storage_.defer({.rule = kPlain, .lr = kRate, .step = step});
    for (size_t i = 0; i < kLayers; ++i) {
      for (const int64_t offset : storage_.layout().layer(i).offsets) {
        const int64_t count = offset == 0 ? kRows * kColumns : kRows;
        for (int64_t e = offset; e < offset + count; ++e) {
          expected_[i][size_t(e)] -= float(kRate) * float(windows) * gradient_at(step, i, e);
        }
      }
    }
  }
  FileStorage& storage() { return storage_; }

 private:
  void visit_weights(const Request& request) {
    const auto* weights = reinterpret_cast<const float*>(storage_.acquire(request));
    for (const int64_t offset : storage_.layout().layer(request.layer).offsets) {
      for (const int64_t e : {offset, offset + kRows - 1}) {
        EXPECT_NEAR(weights[e], expected_[request.layer][size_t(e)],
                    1e-5 * std::abs(expected_[request.layer][size_t(e)]));
      }
    }
    storage_.release(request);
  }
  bool alone() const { return storage_.cluster().is_alone(); }
  // Each of two systems has a half.
  void visit_gradient(size_t layer, int64_t step, int window, bool last) {
    const float part = 1.0F / float(storage_.cluster().systems());
    auto* gradient = reinterpret_cast<float*>(storage_.acquire({layer, true}));
    const int64_t size = storage_.layout().layer(layer).size;
    for (int64_t e = 0; e < size; ++e) {
      gradient[e] = (window == 0 ? 0.0F : gradient[e]) + part * gradient_at(step, layer, e);
    }
    alone() || !last ? storage_.release({layer, true}) : storage_.reduce(layer, /*hold=*/false);
  }

  FileStorage storage_;
  std::vector<std::vector<float>> expected_;  // per layer
};

TEST(FileStorageRaces, ThereAreNone) {
  const TemporaryDirectory directory;
  for (const uint64_t cache : {0, 200'000, 10'000'000}) {
    StreamOptions options{.segment_elements = 2048, .buffers = 3, .cache_bytes = cache};
    options.engine = [](int fd) { return make_threaded_engine(fd); };
    Model model(directory / "model.store", options);
    for (int64_t step = 1; step <= 6; ++step) {
      model.step(step, /*keep=*/step % 2 == 0, /*windows=*/step % 3 == 0 ? 2 : 1);
      if (step == 3) model.storage().settle();
      if (step == 4) {  // given up half-way
        const std::vector<Request> requests = {{0, false}, {1, false}, {2, false}, {3, true}};
        model.storage().expect(requests);
        model.storage().acquire(requests[0]);
        model.storage().abandon();
      }
      model.storage().counts();
    }
    model.storage().settle();
    std::vector<float> vector(kRows);
    model.storage().read(Array::kMaster, 2, model.storage().layout().layer(2).offsets[1], vector);
    EXPECT_LT(vector[0], 1.0F);
  }
}

TEST(FileStorageRaces, ThereAreNoneBetweenSystems) {
  const TemporaryDirectory directory;
  for (const uint64_t cache : {0, 200'000}) {
    Wires wires(2);
    const auto system = [&](int rank) {
      const auto end = [](const std::string& message) { throw std::runtime_error(message); };
      Cluster cluster(wires.maker(rank), /*timeout_s=*/100, end);
      StreamOptions options{.segment_elements = 2048, .buffers = 3, .cache_bytes = cache};
      options.engine = [](int fd) { return make_threaded_engine(fd); };
      Model model(directory / fmt::format("{}.store", rank), options, cluster);
      for (int64_t step = 1; step <= 6; ++step) {
        model.step(step, /*keep=*/step % 2 == 0, /*windows=*/step % 3 == 0 ? 2 : 1);
        if (step == 3) model.storage().settle();
        model.storage().counts();
        EXPECT_FALSE(cluster.any(false));
      }
      model.storage().settle();
    };
    std::thread other([&] { system(1); });
    system(0);
    other.join();
  }
}

}  // namespace
}  // namespace gigagpt::engine
