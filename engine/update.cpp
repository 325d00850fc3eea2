#include "engine/update.h"

#include <cmath>

namespace gigagpt::engine {

double apply_gradients(Store& store, const ops::UpdateRule& rule, double lr, double max_norm,
                       int64_t step) {
  double square_sum = 0;
  for (size_t i = store.layer_count(); i-- > 0;) {  // the order in which the backward pass ends
    square_sum += store.gradient_square_sum(i);
    if (!std::isfinite(square_sum)) {
      throw NonFinite("the gradient is not finite, first in layer " + store.layer(i).name);
    }
  }
  const double norm = std::sqrt(square_sum);
  store.update(rule, lr, norm > max_norm ? max_norm / norm : 1.0, step);
  return norm;
}

}  // namespace gigagpt::engine
