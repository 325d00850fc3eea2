// The scaling law of compute-optimal models: the loss that training ends with, from its FLOPs (Dey
// et al. 2023, "Cerebras-GPT", arXiv 2304.03208, equation 1). No LibTorch.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/state/layer_spec.h"

namespace gigagpt {

// L(f) = (f / scale)^-exponent + floor, in nats a token.
struct ScalingLaw {
  std::string name;
  double scale = 1;  // FLOPs
  double exponent = 0;
  double floor = 0;

  double loss(double flops) const;
};

// A finished run as a law sees it.
struct LawPoint {
  std::string name;
  double flops = 0;  // by the paper's count
  double parameters = 0, tokens = 0;
  double loss = 0;  // nats a token, of validation
};

// 95 % of fits to losses that scatter as those at hand do lie in it.
struct Interval {
  double low = 0, high = 0;
};

// Of the Pile's test set in GPT-2's tokens, at 20 tokens a parameter. That of the standard
// parametrisation is the paper's; that of muP, for which it has none, is fitted to its five models
// with the same floor.
const ScalingLaw& published_law(bool mup);

// Tokens in a byte of the Pile (Gao et al. 2020, arXiv 2101.00027, section 3.1), to make bits a
// byte of nats a token.
inline constexpr double kPileTokensPerByte = 0.29335;

// FLOPs to train on one token as Cerebras-GPT's paper counts them (appendix F): attention twice and
// to all tokens of the sequence, and the embedding as a product forward and for its weights. Gives
// all seven published numbers.
double published_flops_per_token(const std::vector<engine::LayerSpec>& layers,
                                 int64_t sequence_length);

// Cerebras-GPT, from the paper's tables.
struct PublishedModel {
  const char* name;
  int64_t depth, width, heads;
  double tokens, parameters, flops;
  double loss;      // on the Pile's test set
  double mup_loss;  // 0: there is none
};
std::span<const PublishedModel> published_models();

// The one whose FLOPs are nearest, by their ratio.
const PublishedModel& nearest_published(double flops);

}  // namespace gigagpt
