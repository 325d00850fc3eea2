// Holds a model of any kind to what the engine counts on: its layers are functions of what they are
// given, every way of running them gives plain autograd's bits, gradients are the slopes of the
// loss, and nothing that a run learned is lost.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/model/layer.h"

namespace gigagpt::engine {

// A model, and what it is tried with.
struct Subject {
  std::function<Model()> make;
  // One step: at least two micro-batches, with targets, one of them of several rows.
  std::vector<MicroBatch> batches;
  int64_t sequence_length = 1;  // tokens of a row
  bool language = false;        // tokens [B, T] go in, and logits [B, T, V] come out
  bool counts_flops = true;     // all products are made by ops or by ATen's matrix products
  Path scratch;                 // a folder for files
};

struct Finding {
  std::string claim;    // one sentence
  std::string problem;  // why it does not hold; empty: it does
  std::string seen;     // figures
};

// Makes every check, with weights large enough for each to matter, and tells what it finds in
// order, until one does not hold that the others rest on. Returns the number of claims that do not
// hold. From one thread, while nothing is traced.
int check_model(const Subject& subject, const std::function<void(const Finding&)>& found);

}  // namespace gigagpt::engine
