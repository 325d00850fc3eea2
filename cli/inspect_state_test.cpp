// `gigagpt inspect` on stores: whole, damaged and made up.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/crc32c.h"
#include "cli/testing.h"
#include "engine/storage/file_storage.h"
#include "ops/optimizers/sgd.h"

namespace gigagpt::cli {
namespace {

using engine::Array;
using engine::FileStorage;
using engine::LayerSpec;
using engine::Precision;
using engine::StateForm;

// Layers of four segments and one.
std::vector<LayerSpec> specs() {
  return {{"first", "first.", {{"matrix", {70, 80}}, {"vector", {7}}, {"other", {7}}}},
          {"head", "", {{"ln.weight", {50}}}, {{"first.matrix"}}}};
}

class InspectStore : public testing::TestWithParam<StateForm> {
 protected:
  // The weights are `weight`, the first moments 2. After a step, with gradients of 0.5, the update
  // of the first layer is still to be made.
  std::unique_ptr<FileStorage> make(float weight, bool step, bool training = true) {
    StateForm form = GetParam();
    form.training = training;
    auto storage = std::make_unique<FileStorage>(
        specs(), form, path_, FileStorage::Mode::kCreate,
        engine::StreamOptions{.segment_elements = 2048, .buffers = 2, .step_tokens = 72});
    storage->begin_writing(4);
    for (size_t layer = 0; layer < 2; ++layer) {
      const auto params = specs()[layer].params;
      for (size_t p = 0; p < params.size(); ++p) {
        const int64_t offset = storage->layout().layer(layer).offsets[p];
        storage->write(Array::kMaster, layer, offset,
                       std::vector<float>(size_t(params[p].count()), weight));
        if (!training) continue;
        storage->write(Array::kExpAvg, layer, offset,
                       std::vector<float>(size_t(params[p].count()), 2));
      }
    }
    storage->finish_writing();
    for (size_t i = 0; i < storage->layout().segments().size(); ++i) {
      parts_.push_back(storage->layout().slot_parts(storage->layout().segments()[i]));
      places_.push_back(storage->slot_offset(i));
    }
    if (step) make_step(*storage);
    return storage;
  }

  void make_step(FileStorage& storage) {
    const std::vector<engine::Request> needs = {{0, true}, {1, true}};
    storage.expect(needs);
    for (const engine::Request& need : needs) {
      auto* gradient = reinterpret_cast<float*>(storage.acquire(need));
      std::fill_n(gradient, storage.layout().layer(need.layer).size, 0.5F);
      storage.release(need);
    }
    storage.defer({{&ops::Sgd::kInfo, {.beta1 = 0, .weight_decay = 0}}, 1.0, 1.0, 5});
    const engine::Request head = {1, false};
    storage.expect({&head, 1});
    storage.acquire(head);
    storage.release(head);
    while (engine::StateFile::peek(path_)->step < 5) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  TemporaryDirectory directory_;
  Path path_ = directory_ / "model.store";
  std::vector<engine::SlotParts> parts_;  // per segment
  std::vector<uint64_t> places_;          // of their slots
};
INSTANTIATE_TEST_SUITE_P(Forms, InspectStore,
                         testing::Values(StateForm{Precision::kFp32}, StateForm{Precision::kBf16},
                                         StateForm{Precision::kBf16, true, /*compact=*/true}),
                         [](const auto& p) {
                           return p.param.precision == Precision::kFp32 ? "fp32"
                                  : p.param.compact                     ? "compact"
                                                                        : "bf16";
                         });

TEST_P(InspectStore, SaysWhatItHolds) {
  std::string id;
  {
    const auto storage = make(3, /*step=*/false);
    id = storage->file_id();
    EXPECT_TRUE(has(look(path_).error, "model.store is in use by another process"));
  }
  const std::string before = read_text(path_);
  const Outcome whole = look(path_);
  EXPECT_EQ(whole.error, "");
  EXPECT_TRUE(has(whole.text, "model.store: a store, version 3, id " + id));
  EXPECT_TRUE(has_line(whole.text, "step 4, each of 72 tokens\n"));
  EXPECT_TRUE(has_line(whole.text, GetParam().precision == Precision::kFp32 ? "precision fp32\n"
                                                                            : "precision bf16\n"));
  EXPECT_TRUE(has_line(whole.text, "optimizer adamw\n"));
  EXPECT_TRUE(has_line(whole.text, "checksums all match"));
  // Norms of 5614 values of 3 and of 2; what pads the layer counts for nothing.
  EXPECT_TRUE(has_line(whole.text, fmt::format("first 5614 [70,80] 2*[7] {:.6g} {:.6g} 0\n",
                                               3 * std::sqrt(5614), 2 * std::sqrt(5614))));
  EXPECT_TRUE(has_line(whole.text, fmt::format("head 50 [50] {:.6g} {:.6g} 0\n", 3 * std::sqrt(50),
                                               2 * std::sqrt(50))));
  EXPECT_TRUE(read_text(path_) == before) << "only read";
}

// The head's segment may be updated already; the others wait for gradients that must be whole.
TEST_P(InspectStore, PendingUpdatesNeedTheirGradients) {
  make(3, /*step=*/true).reset();
  const Outcome pending = look(path_);
  EXPECT_EQ(pending.error, "");
  EXPECT_TRUE(has_line(pending.text, "step 5, each of 72 tokens; its update is pending in "));
  flip_bit(path_, places_[1] + parts_[1].gradient.at + 5);
  flip_bit(path_, places_[2] + parts_[2].gradient_info + 20);
  const Outcome damaged = look(path_);
  EXPECT_TRUE(has(damaged.error, ": 2 of 5 segments are damaged"));
  EXPECT_TRUE(has(damaged.text, "segment 1 (first, elements 2048 to 4096)'s gradient at byte"));
  EXPECT_TRUE(has(damaged.text, "the description of the gradient of segment 2 (first, "));
}

TEST_P(InspectStore, AllDamageIsListed) {
  make(3, /*step=*/false).reset();
  EXPECT_EQ(look(path_).error, "");
  flip_bit(path_, places_[1] + parts_[1].exp_avg.at + 5);
  const Outcome one = look(path_);
  EXPECT_TRUE(
      has(one.error, "the checksum of segment 1 (first, elements 2048 to 4096)'s first moment"));
  EXPECT_TRUE(has_line(
      one.text, fmt::format("first 5614 [70,80] 2*[7] {:.6g} damaged 0\n", 3 * std::sqrt(5614))));
  flip_bit(path_, places_[1] + parts_[1].exp_avg_sq.at + 5);
  flip_bit(path_, places_[2] + parts_[2].working.at + 5);
  flip_bit(path_, places_[4] + parts_[4].info + 20);
  const Outcome all = look(path_);
  EXPECT_EQ(all.error, path_.string() + ": 3 of 5 segments are damaged; go on from a checkpoint");
  for (const char* part : {"s first moment at byte", "s second moment at byte", "s weights at byte",
                           "segment 4 (head, elements 0 to 1024) is missing"}) {
    EXPECT_TRUE(has(all.text, part));
  }
  EXPECT_TRUE(has_line(all.text, "head 50 [50] damaged damaged damaged\n"));
}

TEST_P(InspectStore, WithoutTrainingItHasWeightsAlone) {
  make(3, /*step=*/false, /*training=*/false).reset();
  const Outcome outcome = look(path_);
  EXPECT_EQ(outcome.error, "");
  EXPECT_TRUE(has_line(outcome.text, "holds weights alone"));
  EXPECT_TRUE(has_line(outcome.text,
                       fmt::format("first 5614 [70,80] 2*[7] {:.6g} - -\n", 3 * std::sqrt(5614))));
}

// Places in a header, of docs/FILE_FORMAT.md.
constexpr size_t kSlotCount = 40, kSlotBytes = 48, kStep = 56, kDescriptionCrc = 80, kUpdate = 84,
                 kCrc = 4092;

uint32_t crc_of(std::string_view text) {
  return crc32c(std::as_bytes(std::span(text)));
}

template <class T>
void put(std::string& file, size_t place, T value) {
  std::memcpy(file.data() + place, &value, sizeof value);
}

// Makes the sums right again of a file that somebody made up.
void sign(std::string& file, const std::string& description) {
  for (const size_t header : {size_t{0}, kBlockBytes}) {
    put(file, header + 32, uint64_t(description.size()));
    put(file, header + kDescriptionCrc, crc_of(description));
    put(file, header + kCrc, crc_of(std::string_view(file).substr(header, kCrc)));
  }
}

class InspectHostileStore : public InspectStore {
 protected:
  void SetUp() override {
    make(3, /*step=*/false).reset();
    whole_ = read_text(path_);
    uint64_t bytes = 0;
    std::memcpy(&bytes, whole_.data() + 32, 8);
    description_ = whole_.substr(2 * kBlockBytes, bytes);
  }
  // With another description, and right sums.
  Outcome described(const std::string& description) {
    std::string file = whole_;
    file.replace(2 * kBlockBytes, kBlockBytes, kBlockBytes, '\0');
    if (description.size() <= kBlockBytes)
      file.replace(2 * kBlockBytes, description.size(), description);
    sign(file, description);
    File::create(path_).write(file);
    return look(path_);
  }
  template <class T>
  Outcome with(size_t place, T value) {
    std::string file = whole_;
    for (const size_t header : {size_t{0}, kBlockBytes}) put(file, header + place, value);
    sign(file, description_);
    File::create(path_).write(file);
    return look(path_);
  }
  std::string replaced(const std::string& part, const std::string& by) const {
    std::string text = description_;
    return text.replace(text.find(part), part.size(), by);
  }
  std::string whole_, description_;
};
INSTANTIATE_TEST_SUITE_P(Precisions, InspectHostileStore,
                         testing::Values(StateForm{Precision::kBf16}));

TEST_P(InspectHostileStore, DescriptionsThatAreNone) {
  EXPECT_EQ(described(description_).error, "") << "as it was";
  const std::string shape = "\"shape\":[70,80]";
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"", "parse error"},
           {"[]", "cannot use at()"},
           {"{}", "key 'precision' not found"},
           {replaced("bf16", "fp8"), "unknown precision"},
           {replaced("\"bf16\"", "7"), "must be string"},
           {replaced("true", "1"), "must be boolean"},
           {replaced("2048", "2047"), "not a whole number from 2048"},
           {replaced("2048", "2049"), "not a multiple of 2048"},
           {replaced("2048", "1e4"), "not a whole number"},
           {replaced("2048", "1125899906842624"), "not a whole number from 2048"},
           {replaced("2048", "4096"), "not written as this program writes it"},
           {replaced(shape, "\"shape\":[4611686018427387904,4]"), "does not fit the file's size"},
           {replaced(shape, "\"shape\":[4294967296,4294967296,4]"), "does not fit the file's size"},
           {replaced(shape, "\"shape\":[18446744073709551615]"), "does not fit the file's size"},
           {replaced(shape, "\"shape\":[-1]"), "does not fit the file's size"},
           {replaced(shape, "\"shape\":[0]"), "does not fit the file's size"},
           {replaced(shape, "\"shape\":[1.5]"), "does not fit the file's size"},
           {replaced(shape, "\"shape\":[[1]]"), "does not fit the file's size"},
           {replaced(shape, "\"shape\":{}"), "shape is not a list"},
           {replaced("\"other\"", "\"vector\""), "first.vector appears twice"},
           {replaced("\"vector\"", "null"), "must be string"},
           {replaced("[\"first.matrix\"]", "[\"nothing\"]"), "no layer before it has"},
           {replaced("[\"first.matrix\"]", "[\"ln.weight\"]"), "no layer before it has"},
           {replaced("\"adamw\"", "\"adam\""), "does not know its optimizer adam"},
           {replaced("\"adamw\"", "\"lion\""), "not written as this program writes it"},
           {replaced("\"rate\":1.0", "\"rate\":1"), "not written as this program writes it"},
           {replaced("\"rate\":1.0", "\"rate\":\"1\""), "must be number"},
           {replaced("\"layers\":[", "\"layers\":[[],"), "cannot use at()"},
           {replaced("\"layers\":[", "\"more\":["), "key 'layers' not found"},
           {replaced("{\"precision\"", "{\"more\":1,\"precision\""), "not written as this"},
           {R"({"precision":"bf16","training":true,"segment_elements":2048,"layers":[]})",
            "it has no parameters"},
           {std::string(4000, '['), "nested more than 50 deep"}}) {
    const Outcome outcome = described(text);
    EXPECT_TRUE(outcome.error.starts_with("store: " + path_.string())) << outcome.error << text;
    EXPECT_TRUE(has(outcome.error, message)) << text;
  }
}

TEST_P(InspectHostileStore, HeadersThatCannotBe) {
  EXPECT_TRUE(has(with(kSlotCount, ~uint64_t{0}).error, "is cut off"));
  EXPECT_TRUE(has(with(kSlotCount, uint64_t{1} << 32).error, "is cut off"));
  EXPECT_TRUE(has(with(kSlotBytes, uint64_t{0}).error, "not written as this program"));
  EXPECT_TRUE(has(with(kSlotBytes, ~uint64_t{0}).error, "not written as this program"));
  EXPECT_TRUE(has(with(kStep, int64_t{-1}).error, "was never completed"));
  EXPECT_TRUE(has(with(kStep, int64_t{9}).error, "5 of 5 segments are damaged"));
  EXPECT_TRUE(has(with(8, uint32_t{4}).error, "has version 4, this program knows 3"));
  EXPECT_TRUE(has(with(8, uint32_t{1}).error, "is not a gigaGPT store"));
  EXPECT_TRUE(has(with(kUpdate, uint32_t{0}).error, "parse error"));
  EXPECT_TRUE(has(with(kUpdate, ~uint32_t{0}).error, "update is too long"));
  EXPECT_TRUE(has(with(kUpdate + 4 + 14, 'b').error, "does not know its optimizer bdamw"));
  EXPECT_TRUE(has(with(kUpdate + 4 + 2, 'b').error, "key 'optimizer' not found"));
  EXPECT_TRUE(has(with(kSlotCount, uint64_t{2}).error, "segments are damaged"));
  std::string file = whole_;
  file[2 * kBlockBytes + 30] ^= 1;
  File::create(path_).write(file);
  EXPECT_TRUE(has(look(path_).error, "its description, "));
  file = whole_;
  for (const size_t header : {size_t{0}, kBlockBytes}) put(file, header + 32, ~uint64_t{0});
  for (const size_t header : {size_t{0}, kBlockBytes})
    put(file, header + kCrc, crc_of(std::string_view(file).substr(header, kCrc)));
  File::create(path_).write(file);
  EXPECT_TRUE(has(look(path_).error, "its description is too long"));
}

TEST_P(InspectHostileStore, DamageNeverCrashes) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 1000; ++i) described(damaged(description_, random));
  for (int i = 0; i < 300; ++i) {
    std::string file = whole_;
    const std::string head = damaged(file.substr(0, 3 * kBlockBytes), random);
    File::create(path_).write(file.replace(0, head.size(), head));
    look(path_);
  }
  for (int i = 0; i < 300; ++i) {
    std::string file = whole_;
    file.resize(random() % file.size());
    File::create(path_).write(file);
    EXPECT_NE(look(path_).error, "");
  }
}

}  // namespace
}  // namespace gigagpt::cli
