// What the parts of `inspect` have in common.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/state/layer_spec.h"
#include "formats/run_files.h"

namespace gigagpt::cli {

void inspect_store(const Path& file);
void inspect_safetensors(const Path& file);
void inspect_gguf(const Path& file);
void inspect_checkpoint(const Path& directory);

// The L2 norm of values that come in pieces.
class Norm {
 public:
  void add(std::span<const float> values) {
    std::array<double, 8> sums = {};  // side by side, so that they are summed at once
    for (size_t i = 0; i < values.size(); ++i) sums[i % 8] += double(values[i]) * values[i];
    for (const double sum : sums) squares_ += sum;
    any_ = true;
  }
  void add(const Norm& other) {
    squares_ += other.squares_;
    any_ |= other.any_;
    damaged_ |= other.damaged_;
  }
  void spoil() { damaged_ = true; }  // some of the values could not be read
  std::string text() const;          // "-" without values

 private:
  double squares_ = 0;
  bool any_ = false, damaged_ = false;
};

// A directory that a user may have given with a slash at its end, without it.
inline Path without_slash(const Path& path) {
  return path.has_filename() ? path : path.parent_path();
}

std::string first_bytes(const Path& file, size_t most);

// The store that the config of a run names.
std::string store_key(const formats::TextPairs& config);

// A wrong number of layers in a checkpoint's config.json must not make a list of millions: throws
// Error if it is more than its weights are tensors.
void check_layers(const Path& checkpoint, int64_t layers, size_t tensors);

std::string printable(std::string text);  // without control characters, of bounded length
std::string size_text(uint64_t bytes);    // "12.34 GB"
// "[50257,768] 2*[768]": equal ones once.
std::string shapes_text(const std::vector<std::vector<int64_t>>& shapes);
// The line of a table for a layer, with the norms of its weights and both moments.
std::vector<std::string> layer_row(const engine::LayerSpec& layer,
                                   const std::array<Norm, 3>& norms);
void print_fact(const std::string& name, const std::string& value);
// The first and third column to the left, as names and shapes are, the others to the right.
void print_table(const std::vector<std::vector<std::string>>& rows);
// Prints them; throws Error with one of them, or with `summary` if there are several.
void finish(const std::vector<std::string>& problems, const std::string& summary);

}  // namespace gigagpt::cli
