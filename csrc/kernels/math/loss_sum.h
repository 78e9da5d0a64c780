// The sum of a loss, divided by parameter 0: 1, or n for the mean.
#pragma once
#include "reductions.h"

namespace fastgrad::math {

struct LossSum : Sum {
  template <class V>
  static FASTGRAD_FORMULA Tuple<V, 1> finish(Tuple<V, 1> a, double, const Number* parameter) {
    return {{a.item[0] / V(scalar_t<V>(parameter[0].real))}};
  }
};

}  // namespace fastgrad::math
