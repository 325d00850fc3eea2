// The weights of a model as they lie in a directory: model.safetensors, or the parts that
// model.safetensors.index.json lists, under our names or those of other programs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/safetensors.h"

namespace gigagpt::formats {

// A tensor of a checkpoint in another layout than ours, and the parameter of ours that it holds.
struct StoredTensor {
  std::string name;
  std::vector<int64_t> shape;   // in the file; not looked at if `parameter` is "" and it is foreign
  std::string parameter;        // ours; "" if it has none
  bool transposed = false;      // the file holds [in, out], the parameter is [out, in]
  std::string other_name = {};  // that others give it; "" if there is none
  // Others write it, we do not: it may be missing. What is there must equal the parameter, if it
  // has one.
  bool foreign = false;
};

// A tensor of a model as other programs want it, which know no multipliers and divide attention's
// scores by the root of a head's size: the values of a stored one, times factors.
struct FoldedTensor {
  StoredTensor from;
  std::string name;  // there
  double factor = 1;
  int64_t query_rows = 0;  // the first of its outputs, which are also times `query_factor`
  double query_factor = 1;

  double factor_of(int64_t output) const {
    return output < query_rows ? factor * query_factor : factor;
  }
};

// Calls visit(first element, how many) for pieces of a tensor that need little memory.
template <class Visit>
void in_pieces(int64_t count, Visit visit) {
  constexpr int64_t kPiece = 1 << 20;
  for (int64_t first = 0; first < count; first += kPiece) {
    visit(first, size_t(std::min(kPiece, count - first)));
  }
}

// The files that have a directory's weights, in order. Throws Error if there are none.
std::vector<Path> weight_files(const Path& directory);

// The tensors of a model, found in a directory. On opening, headers, names and shapes are checked
// as a whole: every tensor of the list is there in floating point, and nothing that is not in it.
// Values are read on demand. Throws Error naming file and tensor. Reading is thread-safe.
class StoredWeights {
 public:
  StoredWeights(const Path& directory, std::vector<StoredTensor> tensors);

  // Reads what must be zero, as it belongs to no parameter, or equal to another tensor. Throws
  // Error if it is not.
  void check_values() const;

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const SafetensorsReader& file_of(const StoredTensor& tensor) const;
  // Its name in that file.
  const std::string& name_of(const StoredTensor& tensor) const;
  // Elements from `first` on, as they lie in the file, whatever its floating-point type.
  void read_floats(const StoredTensor& tensor, int64_t first, std::span<float> values) const;

 private:
  const SafetensorsReader* find(const std::string& name) const;
  void check_equal(const StoredTensor& tensor, const StoredTensor& twin) const;

  std::vector<StoredTensor> tensors_;
  std::vector<SafetensorsReader> files_;
  std::map<std::string, size_t> file_of_;  // by the names in the files
};

}  // namespace gigagpt::formats
