// Attention without a T x T matrix (Dao et al., "FlashAttention", 2022), as tasks that a
// caller runs on its threads. Plain arrays, no LibTorch.
//
// Scores are computed transposed, S^T [keys, 64 queries]: the softmax then runs down the vectors,
// and P^T is already laid out as the next product's packed operand.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ops/kernels/bf16.h"

namespace gigagpt::ops::kernels {

// Which keys the queries see, by blocks of 64 queries and 64 keys.
struct BlockMask {
  static constexpr uint32_t kNone = 0, kAll = 1;
  static constexpr uint32_t kSome = 2;  // kSome + n: as bits says from 64 n on
  const uint32_t* kinds = nullptr;      // [rows, query_blocks, key_blocks]
  const uint64_t* bits = nullptr;       // of each key: bit c is set if query c sees it
  size_t rows = 1;                      // as many as the batch has, or one for all
  size_t query_blocks = 0, key_blocks = 0;

  uint32_t kind(size_t row, size_t query_block, size_t key_block) const {
    if (key_block >= key_blocks) return kNone;
    return kinds[((rows == 1 ? 0 : row) * query_blocks + query_block) * key_blocks + key_block];
  }
  const uint64_t* bits_of(uint32_t kind) const { return bits + (kind - kSome) * 64; }
};

// q [B, Tq, H, D], k and v [B, Tk, G, D], y like q; strides in elements, those of heads and D are D
// and 1. H / G heads of queries share one of keys and values. Without a mask
// query i sees the keys up to i + Tk - Tq.
template <class T>
struct AttentionArgs {
  size_t B, H, G, D, Tq, Tk;
  const T* q;
  const T* k;
  const T* v;
  size_t q_row, q_batch, kv_row, kv_batch;
  T* y;
  size_t y_row, y_batch;
  float* lse;  // B H Tq: log2 of the sums that the softmax divides by
  // Dropout on the probabilities: probability (b, h, i, j) takes word j % 4 of
  // philox(key, ((b H + h) Tq + i) ceil(Tk / 4) + j / 4).
  double dropout_p;
  uint64_t dropout_key;
  const BlockMask* mask = nullptr;
  bool over_size = false;  // scores are divided by D, not by its root
  // The backward pass alone, which needs Tq == Tk, y and lse as the forward pass left them, and dy,
  // with y's strides. dq has the strides of q; dk and dv [B, Tk, H, D] have strides of their own,
  // as each head of queries has its part of them to itself.
  const T* dy = nullptr;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;
  size_t dkv_row = 0, dkv_batch = 0;

  // What the scores q k^T are divided by.
  float divisor() const { return over_size ? float(D) : std::sqrt(float(D)); }
  // Where head b H + h begins in a tensor with that stride between batch rows.
  size_t head_at(size_t head, size_t batch) const { return head / H * batch + head % H * D; }
  // The head b G + g of keys and values that it shares, and where that begins.
  size_t kv_head(size_t head) const { return head / H * G + head % H / (H / G); }
  size_t kv_head_at(size_t kv) const { return kv / G * kv_batch + kv % G * D; }
};

// Heads are counted over the batch, b H + h, those of keys and values b G + g; blocks are of 64
// queries. Call pack once for each head of keys and values before the blocks that see it, with its
// own memory; scratch belongs to a thread. Both are 64-byte aligned.
template <class T>
struct AttentionKernels {
  size_t (*packed_bytes)(const AttentionArgs<T>& args);  // per head
  size_t (*forward_scratch_bytes)(const AttentionArgs<T>& args);
  size_t (*backward_scratch_bytes)(const AttentionArgs<T>& args);
  void (*pack)(const AttentionArgs<T>& args, size_t kv_head, std::byte* packed);
  void (*forward)(const AttentionArgs<T>& args, size_t head, size_t block, const std::byte* packed,
                  std::byte* scratch);
  void (*backward)(const AttentionArgs<T>& args, size_t head, std::byte* scratch);
};

constexpr size_t kQueryBlock = 64;

// For float the best for this CPU; for Bf16 only where has_avx512_bf16().
template <class T>
const AttentionKernels<T>& attention_kernels();

}  // namespace gigagpt::ops::kernels
