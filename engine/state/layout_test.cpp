#include "engine/state/layout.h"

#include <gtest/gtest.h>

#include "ops/optimizers/list.h"

namespace gigagpt::engine {
namespace {

std::vector<LayerSpec> layers_of_odd_shapes() {
  return {{"first",
           "first.",
           {{"table", {300, 20}, {.looked_up = true}}, {"positions", {30, 20}, {.per_token = 0}}}},
          {"second",
           "second.",
           {{"a", {60, 50}},
            {"bias", {60}},
            {"b", {10, 20}},
            {"scales", {3, 5}, {.fp32 = true}},
            {"c", {90, 110}},
            {"experts", {3, 20, 30}}}},
          {"last", "last.", {{"norm", {7}}, {"head", {300, 20}, {.output = true}}}}};
}

std::vector<StateLayout> layouts(const ops::Optimizer& optimizer, int64_t segment_elements) {
  std::vector<StateLayout> all;
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    for (const int systems : {1, 2, 3, 7}) {
      for (int rank = 0; rank < systems; ++rank) {
        all.emplace_back(layers_of_odd_shapes(),
                         StateForm{precision, true, false, GradientForm::kFp32, &optimizer},
                         segment_elements, Shard{rank, systems});
      }
    }
  }
  return all;
}

TEST(StateLayout, SegmentsAndShardsTileEveryLayer) {
  for (const ops::Optimizer* optimizer : ops::optimizers()) {
    for (const StateLayout& layout : layouts(*optimizer, 2048)) {
      for (size_t i = 0; i < layout.layer_count(); ++i) {
        int64_t end = 0;
        for (size_t s = layout.first_segment(i); s < layout.first_segment(i + 1); ++s) {
          const Segment& segment = layout.segments()[s];
          EXPECT_EQ(segment.begin, end);
          EXPECT_GT(segment.count, 0);
          EXPECT_EQ(segment.count % 1024, 0);
          const Segment shard = layout.shard_of(i, segment.owner);
          EXPECT_EQ(shard.overlap(segment.begin, segment.count).count, segment.count);
          end = segment.end();
        }
        EXPECT_EQ(end, layout.layer(i).size);
      }
    }
  }
}

// By Muon the hidden matrices, also those of experts; by Adafactor all.
TEST(StateLayout, WholeParametersAreNotCut) {
  const auto cut = [](const ops::Optimizer& optimizer) {
    std::vector<std::string> names;
    for (const StateLayout& layout : layouts(optimizer, 2048)) {
      for (const Segment& segment : layout.segments()) {
        layout.for_each_parameter(segment, [&](const ParamSpec& param, const Segment& piece) {
          const bool known = std::find(names.begin(), names.end(), param.name) != names.end();
          if (piece.count < param.count() && !known) names.push_back(param.name);
        });
      }
    }
    std::sort(names.begin(), names.end());
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(cut(ops::AdamW::kInfo), (Names{"a", "c", "experts", "head", "positions", "table"}));
  EXPECT_EQ(cut(ops::Muon::kInfo), (Names{"head", "positions", "table"}));
  EXPECT_EQ(cut(ops::Adafactor::kInfo), Names());
  const StateForm form{Precision::kBf16, true, false, GradientForm::kFp32, &ops::Muon::kInfo};
  Names whole;
  for (const LayerSpec& layer : layers_of_odd_shapes()) {
    for (const ParamSpec& param : layer.params) {
      if (form.needs_whole(param)) whole.push_back(param.name);
    }
  }
  EXPECT_EQ(whole, (Names{"a", "b", "c", "experts"}));
}

// What is kept lies side by side, in the order of the parameters, and a segment's has room.
TEST(StateLayout, KeptNumbersDoNotOverlap) {
  for (const ops::Optimizer* optimizer : ops::optimizers()) {
    for (const StateLayout& layout : layouts(*optimizer, 2048)) {
      for (const Array kept : {Array::kExpAvg, Array::kExpAvgSq}) {
        if (!layout.form().keeps(kept)) continue;
        for (const Segment& segment : layout.segments()) {
          int64_t least = layout.kept_before(segment.layer, kept, segment.begin);
          layout.for_each_parameter(segment, [&](const ParamSpec& param, const Segment& piece) {
            const bool whole = layout.form().needs_whole(param);
            const int64_t count = whole ? layout.form().kept_count(param, kept) : piece.count;
            const int64_t begin = layout.kept_before(segment.layer, kept, piece.begin);
            const int64_t after = layout.kept_before(segment.layer, kept, segment.end());
            EXPECT_GE(begin, least);
            EXPECT_LE(begin + count, after);
            EXPECT_EQ(begin % 16, 0);
          });
          EXPECT_EQ(layout.kept_bytes(segment, kept),
                    4 * uint64_t(layout.kept_before(segment.layer, kept, segment.end()) - least));
        }
      }
    }
  }
}

// Shards differ in size, and are alike over all layers.
TEST(StateLayout, SystemsTakeTurnsWhereParametersAreWhole) {
  const StateForm form{Precision::kFp32, true, false, GradientForm::kFp32, &ops::Muon::kInfo};
  const LayerSpec layer{"", "", {{"small", {32, 64}}, {"large", {64, 64}}}};
  std::vector<LayerSpec> same(4, layer);
  for (size_t i = 0; i < same.size(); ++i) same[i].prefix = std::to_string(i);
  const StateLayout layout(same, form, 2048, {0, 2});
  int64_t elements[2] = {};
  for (const Segment& segment : layout.segments()) elements[segment.owner] += segment.count;
  EXPECT_EQ(elements[0], elements[1]);
  EXPECT_NE(layout.shard_of(0, 0).count, layout.shard_of(1, 0).count);
}

TEST(StateLayout, KeepsOfAMatrixItsRowsAndColumns) {
  const StateForm form{Precision::kFp32, true, false, GradientForm::kFp32, &ops::Adafactor::kInfo};
  using Shape = std::vector<int64_t>;
  const auto kept = [&](const Shape& shape) {
    return form.kept_shape({"x", shape}, Array::kExpAvgSq);
  };
  EXPECT_EQ(kept({30, 40}), (Shape{70}));
  EXPECT_EQ(kept({5, 30, 40}), (Shape{5, 70}));
  EXPECT_EQ(kept({40}), (Shape{40}));
  EXPECT_EQ(kept({1, 40}), (Shape{1, 40}));  // where a row and columns would be more
  EXPECT_EQ(form.kept_count({"x", {30, 40}}, Array::kExpAvg), 0);
}

}  // namespace
}  // namespace gigagpt::engine
