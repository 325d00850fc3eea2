// Stores of format 2 are taken over, moments and a pending update included.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "base/testing.h"
#include "cli/programs_testing.h"
#include "formats/safetensors.h"

namespace gigagpt {
namespace {

struct Old {
  const char* name;
  const char* flags;
  int64_t step;
  std::vector<const char*> rows;  // of `inspect`, as the older version finished the update
  double tolerance;               // of weights
};

// The older version fused a multiplication and an addition where this one rounds twice, so that a
// weight of up to 4 may differ by a unit in its last place, 2^-22, in each of the few operations of
// an update; weights in bf16 alone were rounded at random from there, rarely the other way: by
// 2^-6.
const Old kAdamW = {"adamw",
                    "--precision fp32",
                    53,
                    {"1.84056   0.187199     0.0552889", "5.05725  0.0407013      0.016761",
                     "3.94145  0.0276727    0.00121228"},
                    4 * 0x1p-22};
const Old kSgd = {"sgd",
                  "--optimizer sgd --precision bf16",
                  96,
                  {"1.85456    1.60639             -", "4.05892    0.68589             -"},
                  4 * 0x1p-22};
const Old kCompact = {
    "compact",
    "--state compact --precision bf16",
    176,
    {"0.124024     0.0707548", "0.0796645      0.031804", "0.021693    0.00231558"},
    0x1p-6};

class OlderStore : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    cache_ = std::make_unique<TemporaryDirectory>();  // the machine is measured once
    ::setenv("XDG_CACHE_HOME", cache_->path().c_str(), 1);
  }
  static void TearDownTestSuite() { cache_.reset(); }
  OlderStore() {
    File::create(path("text.txt"))
        .write("abc bca cab dad\nbca cab\ndad abc bca\ncab abc dad bca\n");
    File::create(path("model.yaml"))
        .write(
            "depth: 1\nwidth: 8\nheads: 2\nsequence_length: 8\nmax_position_embeddings: 8\n"
            "batch_size: 4\nwarmup_steps: 2\nlearning_rate: 0.01\ncheckpoint_steps: 0\n");
    const Outcome prepared = shell(fmt::format("{} prepare --input {} --out {} --tokenizer char",
                                               kProgram, path("text.txt"), path("data")));
    EXPECT_EQ(prepared.status, 0) << prepared.text;
  }
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
  static std::string fixture(const std::string& name) {
    return kSource + "/cli/testdata/format2/" + name;
  }
  void unpack(const Old& old) {
    EXPECT_EQ(shell(fmt::format("gzip -dc {} > {}", fixture(std::string(old.name) + ".store.gz"),
                                path("model.store")))
                  .status,
              0);
  }
  Outcome go_on(const Old& old, int64_t steps, const std::string& more = "") {
    // Open MPI keeps a few kilobytes at its end, which are not leaks of this program.
    return shell(
        fmt::format("ASAN_OPTIONS=detect_leaks=0 {} train {} --dataset {} --out_dir {} --store {} "
                    "--num_steps {} "
                    "--checkpoint_path latest {} {}",
                    kProgram, path("model.yaml"), path("data"), path("out"), path("model.store"),
                    steps, old.flags, more));
  }
  void expect_weights(const Old& old) {
    const formats::SafetensorsReader expected(fixture(std::string(old.name) + ".safetensors"));
    const formats::SafetensorsReader actual(
        path(fmt::format("out/checkpoint_{}/model.safetensors", old.step)));
    for (const auto& tensor : expected.tensors()) {
      std::vector<float> before(size_t(tensor.count())), after(before.size());
      expected.read_floats(tensor.name, before);
      actual.read_floats(tensor.name, after);
      for (size_t i = 0; i < before.size(); ++i) {
        ASSERT_NEAR(before[i], after[i], old.tolerance) << tensor.name << "[" << i << "]";
      }
    }
  }
  void expect_rows(const Old& old, const std::string& file) {
    const Outcome looked = shell(kProgram + " inspect " + path(file));
    EXPECT_EQ(looked.status, 0);
    EXPECT_NE(looked.text.find("a store, version 3"), std::string::npos) << looked.text;
    for (const char* row : old.rows)
      EXPECT_NE(looked.text.find(row), std::string::npos) << row << " in\n" << looked.text;
  }

  TemporaryDirectory directory_;
  static std::unique_ptr<TemporaryDirectory> cache_;
};
std::unique_ptr<TemporaryDirectory> OlderStore::cache_;

TEST_F(OlderStore, IsTakenOverWithItsMomentsAndItsPendingUpdate) {
  for (const Old& old : {kAdamW, kSgd, kCompact}) {
    SCOPED_TRACE(old.name);
    unpack(old);
    const Outcome looked = shell(kProgram + " inspect " + path("model.store"));
    EXPECT_EQ(looked.status, 0);
    EXPECT_NE(looked.text.find("a store, version 2"), std::string::npos) << looked.text;
    EXPECT_NE(looked.text.find("pending in 3 of 3"), std::string::npos) << looked.text;
    const Outcome ran = go_on(old, old.step);
    EXPECT_EQ(ran.status, 0) << ran.text;
    EXPECT_NE(ran.text.find("in the format of an older version"), std::string::npos) << ran.text;
    expect_weights(old);
    expect_rows(old, "model.store");
    EXPECT_FALSE(std::filesystem::exists(path("model.store.older")));
    const Outcome next = go_on(old, old.step + 3);
    EXPECT_EQ(next.status, 0) << next.text;
    EXPECT_EQ(next.text.find("older version"), std::string::npos) << next.text;
    std::filesystem::remove_all(path("out"));
  }
}

// Its own place is taken by the new one from the start, so an interruption must not lose it.
TEST_F(OlderStore, IsStillThereAfterAnInterruption) {
  unpack(kAdamW);
  std::filesystem::rename(path("model.store"), path("model.store.older"));
  const Outcome nothing = go_on(kAdamW, kAdamW.step);
  EXPECT_EQ(nothing.status, 0) << nothing.text;
  expect_weights(kAdamW);
  std::filesystem::remove_all(path("out"));

  unpack(kAdamW);
  std::filesystem::rename(path("model.store"), path("model.store.older"));
  File::create(path("model.store")).write(std::string(100000, '\0'));  // reserved, and nothing more
  const Outcome begun = go_on(kAdamW, kAdamW.step);
  EXPECT_EQ(begun.status, 0) << begun.text;
  expect_weights(kAdamW);
  expect_rows(kAdamW, "model.store");
}

TEST_F(OlderStore, IsTakenOverByAnotherNumberOfSystems) {
  unpack(kCompact);
  const Outcome ran = go_on(kCompact, kCompact.step, "--num_systems 2");
  EXPECT_EQ(ran.status, 0) << ran.text;
  expect_weights(kCompact);
}

// Some files may have been made anew, and others not: none is removed before all are whole.
TEST_F(OlderStore, OfSeveralSystemsIsTakenOverWhateverWasDoneBefore) {
  const Old two = {"two", "--precision fp32 --num_systems 2", 7, {}, 0};
  const auto name = [&](int rank, const char* end = "") {
    return path(fmt::format("model.{}-of-2.store{}", rank, end));
  };
  const auto unpack_two = [&](const char* end) {
    for (const int rank : {0, 1}) {
      EXPECT_EQ(
          shell(fmt::format("gzip -dc {} > {}", fixture(fmt::format("two.{}-of-2.store.gz", rank)),
                            name(rank, end)))
              .status,
          0);
    }
  };
  unpack_two("");
  const Outcome ran = go_on(two, two.step);
  EXPECT_EQ(ran.status, 0) << ran.text;
  expect_weights(two);
  EXPECT_FALSE(std::filesystem::exists(name(0, ".older")));
  EXPECT_FALSE(std::filesystem::exists(name(1, ".older")));
  for (const int behind : {0, 1}) {
    SCOPED_TRACE(behind);
    std::filesystem::remove_all(path("out"));
    unpack_two(".older");
    File::create(name(behind)).write(std::string(100000, '\0'));  // reserved, and nothing more
    const Outcome again = go_on(two, two.step);
    EXPECT_EQ(again.status, 0) << again.text;
    EXPECT_NE(again.text.find("in the format of an older version"), std::string::npos)
        << again.text;
    expect_weights(two);
  }
  // Interrupted before it could be removed, it goes with the next start, and does not come back.
  std::filesystem::remove_all(path("out"));
  unpack_two(".older");
  const Outcome next = go_on(two, two.step + 1);
  EXPECT_EQ(next.status, 0) << next.text;
  EXPECT_EQ(next.text.find("older version"), std::string::npos) << next.text;
  EXPECT_FALSE(std::filesystem::exists(name(0, ".older")));
  EXPECT_FALSE(std::filesystem::exists(name(1, ".older")));
}

// On other systems than those that were interrupted, too.
TEST_F(OlderStore, SetAsideIsFoundByAnotherNumberOfSystems) {
  unpack(kAdamW);
  std::filesystem::rename(path("model.store"), path("model.store.older"));
  const Outcome ran = go_on(kAdamW, kAdamW.step, "--num_systems 2");
  EXPECT_EQ(ran.status, 0) << ran.text;
  expect_weights(kAdamW);
  EXPECT_FALSE(std::filesystem::exists(path("model.store.older")));
}

TEST_F(OlderStore, IsNotReplacedByARunOfItsOwn) {
  unpack(kAdamW);
  const std::string before = read_text(path("model.store"));
  const Outcome fresh =
      shell(fmt::format("{} train {} --dataset {} --out_dir {} --store {} --num_steps 2", kProgram,
                        path("model.yaml"), path("data"), path("out"), path("model.store")));
  EXPECT_EQ(fresh.status, 1);
  EXPECT_NE(fresh.text.find("already holds a run at step 53"), std::string::npos) << fresh.text;
  EXPECT_TRUE(read_text(path("model.store")) == before);
}

}  // namespace
}  // namespace gigagpt
