// What several systems do together, as processes of this machine. Without LibTorch.
#include "engine/systems/cluster.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>

#include "base/random.h"
#include "base/system.h"
#include "base/testing.h"
#include "engine/systems/exchange.h"
#include "engine/systems/systems_testing.h"
#include "ops/kernels/bf16.h"

namespace gigagpt::engine {
namespace {

// In a system's process, where GoogleTest's own checks would go unheard.
void expect(bool condition, const char* what, int line) {
  if (!condition) fail("line {}: {}", line, what);
}
#define EXPECT_HERE(condition) expect(condition, #condition, __LINE__)

TEST(Cluster, OfOneNeedsNobody) {
  Cluster& alone = Cluster::alone();
  EXPECT_TRUE(alone.is_alone() && alone.leads());
  EXPECT_EQ(alone.gather(7), std::vector<int>{7});
  EXPECT_EQ(alone.sum(0.1), 0.1);
  EXPECT_TRUE(alone.any(true));
  EXPECT_FALSE(alone.any(false));
  EXPECT_EQ(alone.together([] { return 3; }), 3);
  EXPECT_THROW(alone.together([]() -> int { fail("no"); }), AgreedError);
}

TEST(Cluster, GathersSumsAndBroadcasts) {
  for (const int systems : {2, 3, 5}) {
    EXPECT_TRUE(run_systems(systems, [systems](Cluster& cluster) {
      const int rank = cluster.rank();
      EXPECT_HERE(cluster.systems() == systems && cluster.systems_here() == systems);
      EXPECT_HERE(cluster.leads() == (rank == 0));
      const auto ranks = cluster.gather(rank);
      for (int i = 0; i < systems; ++i) EXPECT_HERE(ranks[size_t(i)] == i);
      const auto texts = cluster.gather_texts(std::string(size_t(rank), 'x'));
      for (int i = 0; i < systems; ++i)
        EXPECT_HERE(texts[size_t(i)] == std::string(size_t(i), 'x'));
      double in_order = 0;
      for (int i = 0; i < systems; ++i) in_order += 0.1 * (i + 1);
      EXPECT_HERE(cluster.sum(0.1 * (rank + 1)) == in_order);
      EXPECT_HERE(cluster.any(rank == systems - 1) && !cluster.any(false));
      std::vector<std::byte> bytes(3'000'000, std::byte(rank == 0 ? 42 : 0));
      cluster.broadcast(bytes);
      EXPECT_HERE(bytes.front() == std::byte(42) && bytes.back() == std::byte(42));
      std::vector<std::byte> brought(10, std::byte(rank));
      for (int from = 0; from < systems; ++from) {
        cluster.bring(from, brought);
        if (rank == 0) EXPECT_HERE(brought[9] == std::byte(from));
      }
      std::vector<std::vector<std::byte>> mine(static_cast<size_t>(systems));
      for (int to = 0; to < systems; ++to) mine[size_t(to)].resize(size_t(10 * rank + to));
      const auto theirs = cluster.swap(mine);
      for (int from = 0; from < systems; ++from) {
        EXPECT_HERE(theirs[size_t(from)].size() == size_t(10 * from + rank));
      }
    }));
  }
}

TEST(Cluster, WhatOneMeetsAllMeet) {
  EXPECT_TRUE(run_systems(3, [](Cluster& cluster) {
    for (const int bad : {0, 1, 2}) {
      try {
        cluster.together([&] {
          if (cluster.rank() == bad) fail("oh");
        });
        EXPECT_HERE(!"thrown");
      } catch (const AgreedError& error) {
        EXPECT_HERE(std::string(error.what()) == cluster.name_of(bad) + ": oh");
      }
    }
    try {
      cluster.together([] { fail("all alike"); });
    } catch (const AgreedError& error) {
      EXPECT_HERE(std::string(error.what()) == "all alike");
    }
  }));
}

TEST(Cluster, AnErrorEndsAllWithOneMessage) {
  for (const int bad : {0, 2}) {
    testing::internal::CaptureStderr();
    EXPECT_FALSE(run_systems(3, [bad](Cluster& cluster) {
      if (cluster.rank() == bad) fail("disk on fire");
      cluster.gather(1);  // which never comes
    }));
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              fmt::format("system {} of 3 on host {}: disk on fire\n", bad, host_name()));
  }
}

TEST(Cluster, SilenceEndsAll) {
  for (const int silent : {0, 1}) {
    testing::internal::CaptureStderr();
    Systems systems(
        2,
        [silent](Cluster& cluster) {
          if (cluster.rank() == silent) ::raise(SIGSTOP);
          cluster.gather(1);
        },
        /*timeout_s=*/0.5);
    EXPECT_FALSE(systems.wait());
    const std::string text = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(text.starts_with(fmt::format("system {} of 2 on host", silent))) << text;
    EXPECT_NE(text.find("has been silent for"), std::string::npos) << text;
  }
}

// A layer of two matrices and a vector, and one that is smaller than the systems' shards.
std::vector<LayerSpec> specs() {
  return {{"a", "a.", {{"m", {70, 130}}, {"n", {40, 50}}, {"v", {300}}}},
          {"b", "b.", {{"v", {7}}}}};
}

StateLayout layout_of(const Cluster& cluster, const StateForm& form, int64_t segment) {
  return {specs(), form, segment, {cluster.rank(), cluster.systems()}};
}

float part_of(int rank, size_t layer, int64_t element) {
  const uint64_t draw = mix(mix(uint64_t(rank), layer), uint64_t(element));
  return (float(draw >> 40) * 0x1p-23F - 1.0F) * (draw % 7 == 0 ? 1000.0F : 1.0F);
}

using ops::kernels::to_bf16;
using ops::kernels::to_float;

// Neighbours first, then pairs of pairs.
float tree_sum(std::vector<float> parts) {
  for (size_t stride = 1; stride < parts.size(); stride *= 2) {
    for (size_t i = 0; i + stride < parts.size(); i += 2 * stride) parts[i] += parts[i + stride];
  }
  return parts[0];
}

float expected_sum(int systems, const StateForm& form, size_t layer, int64_t element) {
  std::vector<float> parts;
  for (int rank = 0; rank < systems; ++rank) {
    const float part = part_of(rank, layer, element);
    parts.push_back(form.precision == Precision::kBf16 ? to_float(to_bf16(part)) : part);
  }
  const float sum = tree_sum(parts);
  return form.compact ? to_float(to_bf16(sum)) : sum;
}

// Each system dawdles at other places, so messages come in other orders every time.
void dawdle(int rank, uint64_t step) {
  const uint64_t draw = mix(uint64_t(rank), step) % 8;
  if (draw < 3) std::this_thread::sleep_for(std::chrono::microseconds(300 * draw));
}

void reduce_and_share(Cluster& cluster, const StateForm& form, int64_t segment_elements) {
  const StateLayout layout = layout_of(cluster, form, segment_elements);
  Exchange exchange(cluster, layout);
  for (size_t layer = 0; layer < layout.layer_count(); ++layer) {
    const int64_t size = layout.layer(layer).size;
    std::vector<float> gradient(static_cast<size_t>(size));
    for (int64_t e = 0; e < size; ++e) gradient[size_t(e)] = part_of(cluster.rank(), layer, e);
    std::vector<std::byte> working(layout.working_bytes(layer));
    const Segment shard = layout.shard_of(layer);
    const uint64_t begin = layout.working_at(layer, shard.begin);
    const uint64_t end = layout.working_at(layer, shard.begin + shard.count);
    std::fill(working.begin() + int64_t(begin), working.begin() + int64_t(end),
              std::byte(cluster.rank() + 1));
    std::atomic<size_t> missing = 2 * layout.segment_count(layer);
    for (const size_t i : Exchange::order(layout, layer)) {
      dawdle(cluster.rank(), i);
      const Segment& s = layout.segments()[i];
      exchange.reduce(i, gradient.data() + s.begin, [&] { --missing; });
      exchange.broadcast(i, working.data() + layout.working_at(layer, s.begin), [&] { --missing; });
    }
    while (missing > 0) std::this_thread::yield();
    double square_sum = 0;
    for (int64_t e = shard.begin; e < shard.begin + shard.count; ++e) {
      const float sum = expected_sum(cluster.systems(), form, layer, e);
      EXPECT_HERE(gradient[size_t(e)] == sum);
      square_sum += double(sum) * double(sum);
    }
    // Of n squares added in double in another order: n eps of the sum at most.
    EXPECT_HERE(std::abs(exchange.square_sum_of_layer(layer) - square_sum) <=
                double(shard.count) * 0x1p-52 * square_sum);
    for (const Segment& s : layout.segments()) {
      if (s.layer != layer) continue;
      for (uint64_t at = layout.working_at(layer, s.begin);
           at < layout.working_at(layer, s.begin + s.count); ++at) {
        EXPECT_HERE(working[at] == std::byte(s.owner + 1));
      }
    }
  }
}

TEST(Exchange, AddsUpInPairsAndHandsRound) {
  const std::vector<StateForm> forms = {{Precision::kFp32, true},
                                        {Precision::kBf16, true},
                                        {Precision::kBf16, true, /*compact=*/true}};
  for (const int systems : {2, 3, 4, 7}) {
    for (const StateForm& form : forms) {
      for (const int64_t segment : {2048, 1 << 20}) {
        EXPECT_TRUE(run_systems(
            systems, [&](Cluster& cluster) { reduce_and_share(cluster, form, segment); }))
            << systems << " systems, segments of " << segment;
      }
    }
  }
}

// The least that reduce-scatter and all-gather can send, and no byte more.
TEST(Exchange, SendsNoMoreThanItMust) {
  EXPECT_TRUE(run_systems(3, [](Cluster& cluster) {
    const StateForm form{Precision::kBf16, true};
    const StateLayout layout = layout_of(cluster, form, 2048);
    const uint64_t before = cluster.sent_bytes();
    reduce_and_share(cluster, form, 2048);
    uint64_t least = 0;
    for (const Segment& s : layout.segments()) {
      const uint64_t weights =
          layout.working_at(s.layer, s.begin + s.count) - layout.working_at(s.layer, s.begin);
      least += layout.is_own(s) ? 2 * weights : 2 * uint64_t(s.count);
    }
    EXPECT_HERE(cluster.sent_bytes() - before == least);
  }));
}

TEST(Exchange, ShardsCoverEveryElementOnce) {
  for (const int systems : {1, 2, 3, 16}) {
    std::vector<int64_t> ends(specs().size());
    int64_t own = 0, all = 0;
    for (int rank = 0; rank < systems; ++rank) {
      const StateLayout layout(specs(), {Precision::kBf16, true}, 2048, {rank, systems});
      own += int64_t(layout.own_segments());
      all = int64_t(layout.segments().size());
      for (size_t layer = 0; layer < ends.size(); ++layer) {
        const Segment shard = layout.shard_of(layer);
        EXPECT_EQ(shard.begin, ends[layer]);
        ends[layer] += shard.count;
        // No shard is more than a block of 2048 above the mean.
        EXPECT_LE(shard.count, layout.layer(layer).size / systems + 2048);
      }
      for (size_t i = 0; i < layout.segments().size(); ++i) {
        const Segment& s = layout.segments()[i];
        EXPECT_EQ(layout.segment_of(s.layer, s.begin), i);
        EXPECT_EQ(layout.segment_of(s.layer, s.begin + s.count - 1), i);
      }
    }
    const StateLayout layout(specs(), {Precision::kBf16, true}, 2048);
    for (size_t layer = 0; layer < ends.size(); ++layer) {
      EXPECT_EQ(ends[layer], layout.layer(layer).size);
    }
    EXPECT_EQ(own, all);
  }
}

}  // namespace
}  // namespace gigagpt::engine
