// Weights of a model as others store them: what is found, and what is refused.
#include "formats/stored_weights.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/testing.h"

namespace gigagpt::formats {
namespace {

using Values = std::vector<float>;

struct Given {
  std::string name;
  std::vector<int64_t> shape;
  Values values;
  std::string dtype = "F32";  // or I32
};

// Of a model with a matrix that others tie to a second one, and a bias that must be zero.
std::vector<StoredTensor> layout() {
  return {{"body.a", {2, 3}, "a", true, "a"},
          {"body.b", {2}, "", false, "b"},
          {"head", {2, 3}, "a", false, "", /*foreign=*/true},
          {"body.mask", {}, "", false, "mask", /*foreign=*/true}};
}

const Given kA{"body.a", {2, 3}, {1, 2, 3, 4, 5, 6}};
const Given kB{"body.b", {2}, {0, 0}};

class Stored : public testing::Test {
 protected:
  void write(const std::string& file, const std::vector<Given>& tensors) {
    std::vector<TensorInfo> infos;
    for (const Given& t : tensors) infos.push_back({t.name, t.dtype, t.shape});
    SafetensorsWriter writer(folder_ / file, infos, {});
    for (const Given& t : tensors) writer.write(std::as_bytes(std::span(t.values)));
    writer.finish();
  }

  void write_index(const nlohmann::json& map) {
    folder_.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  }

  StoredWeights open() const { return StoredWeights(folder_.path(), layout()); }
  void check() const { open().check_values(); }
  Values values(const std::string& name) const {
    const StoredWeights weights = open();
    for (const StoredTensor& tensor : weights.tensors()) {
      if (tensor.name != name) continue;
      Values values(size_t(weights.file_of(tensor).info(weights.name_of(tensor)).count()));
      weights.read_floats(tensor, 0, values);
      return values;
    }
    return {};
  }

  TemporaryDirectory folder_;
};

TEST_F(Stored, TensorsAreFoundUnderEitherName) {
  write("model.safetensors", {kA, {"b", {2}, {0, 0}}});
  check();
  EXPECT_EQ(values("body.a"), kA.values);
  EXPECT_EQ(open().name_of(layout()[1]), "b");
}

TEST_F(Stored, WhatOthersWriteBesidesMayBeThere) {
  write("model.safetensors", {kA, kB, {"head", {2, 3}, kA.values}, {"mask", {1}, {7}, "I32"}});
  check();
}

TEST_F(Stored, ASecondMatrixMustBeTheFirst) {
  Values other = kA.values;
  other[5] = 6.5;
  write("model.safetensors", {kA, kB, {"head", {2, 3}, other}});
  open();
  EXPECT_ERROR(check(), "head differs from body.a");
  write("model.safetensors", {kA, kB, {"head", {3, 2}, kA.values}});
  EXPECT_ERROR(open(), "head is [3, 2], but this configuration needs [2, 3]");
}

TEST_F(Stored, WhatBelongsToNoParameterMustBeZero) {
  write("model.safetensors", {kA, {"body.b", {2}, {0, 1}}});
  EXPECT_ERROR(check(), "body.b is not zero");
}

TEST_F(Stored, EachMistakeIsNamed) {
  const std::string file = (folder_ / "model.safetensors").string();
  EXPECT_ERROR(open(), file + " is missing");
  write("model.safetensors", {kA});
  EXPECT_ERROR(open(), file + " has no tensor body.b");
  write("model.safetensors", {kA, {"body.b", {1, 2}, {0, 0}}});
  EXPECT_ERROR(open(), "body.b is [1, 2], but this configuration needs [2]");
  write("model.safetensors", {kA, {"body.b", {2}, {0, 0}, "I32"}});
  EXPECT_ERROR(open(), "body.b is I32, not floating point");
  write("model.safetensors", {kA, kB, {"a", {2, 3}, kA.values}});
  EXPECT_ERROR(open(),
               "unexpected tensor a: a model with this configuration has no such parameter");
  write("model.safetensors", {kA, kB, {"body.cross", {1}, {0}}});
  EXPECT_ERROR(open(), "unexpected tensor body.cross");
}

TEST_F(Stored, PicklesAreRefusedWithWhatToDo) {
  folder_.write("pytorch_model.bin", "");
  EXPECT_ERROR(open(), "save_pretrained");
}

TEST_F(Stored, PartsAreReadAsOne) {
  write("part-1.safetensors", {kA});
  write("part-2.safetensors", {kB});
  write_index({{"body.a", "part-1.safetensors"}, {"body.b", "part-2.safetensors"}});
  check();
  EXPECT_EQ(values("body.a"), kA.values);
  EXPECT_EQ(weight_files(folder_.path()).size(), 2U);
  EXPECT_EQ(open().file_of(layout()[1]).path().filename(), "part-2.safetensors");
}

TEST_F(Stored, AnIndexThatDoesNotFitItsPartsIsRefused) {
  write("part-1.safetensors", {kA});
  write("part-2.safetensors", {kB});
  write_index({{"body.a", "part-2.safetensors"}, {"body.b", "part-1.safetensors"}});
  EXPECT_ERROR(open(), "tensor body.a is not in part-2.safetensors");
  write_index({{"body.a", "part-1.safetensors"}, {"body.c", "part-2.safetensors"}});
  EXPECT_ERROR(open(), "tensor body.c is not in part-2.safetensors");
  write("part-2.safetensors", {kA, kB});
  write_index({{"body.a", "part-1.safetensors"}, {"body.b", "part-2.safetensors"}});
  EXPECT_ERROR(open(), "body.a is in another file of this model too");
  write_index({{"body.a", "part-3.safetensors"}});
  EXPECT_ERROR(open(), "part-3.safetensors");
}

TEST_F(Stored, AnIndexNamesFilesOfItsFolderAlone) {
  for (const char* name : {"../part.safetensors", "/etc/passwd", "", ".", "..", "a/b"}) {
    write_index({{"body.a", name}});
    EXPECT_ERROR(open(), "is not the name of a file in this folder") << name;
  }
  for (const nlohmann::json& bad : {nlohmann::json(), nlohmann::json(1), nlohmann::json::array(),
                                    nlohmann::json::object(), nlohmann::json{{"body.a", 1}}}) {
    write_index(bad);
    EXPECT_ERROR(open(), "model.safetensors.index.json") << bad;
  }
  for (const char* text : {"", "[]", "{", "null", "{\"weight_map\"",
                           R"({"weight_map": {"body.a": "p", "body.a": "q"}})"}) {
    folder_.write("model.safetensors.index.json", text);
    EXPECT_ERROR(open(), "model.safetensors.index.json") << text;
  }
}

}  // namespace
}  // namespace gigagpt::formats
