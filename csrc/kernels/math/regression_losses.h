// Losses of a difference, and their first derivatives: d = input - target, weighted by w (1 where there is none).
//
// The derivative by the input is given; that by the target is its negative. `grad` is the incoming gradient,
// parameter 0 what it is scaled by (1/n for a mean), parameter 1 beta.
#pragma once
#include "value.h"

namespace fastgrad::math {

// w d^2
struct MseLoss {
  template <class V>
  FASTGRAD_FORMULA V operator()(V input, V target, V w = V(1)) const {
    const V d = input - target;
    return w * (d * d);
  }
};
struct MseLossBackward {
  Number scale;
  explicit MseLossBackward(const Number* p) : scale(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V input, V target, V w = V(1)) const {
    const V d = input - target;
    return value<V>(scale) * grad * w * (d + d);
  }
};

// w |d|, with the derivative w sign(d); sign(0) = 0, and 0 for NaN as in torch.
struct L1Loss {
  template <class V>
  FASTGRAD_FORMULA V operator()(V input, V target, V w = V(1)) const {
    return w * abs(input - target);
  }
};
struct L1LossBackward {
  Number scale;
  explicit L1LossBackward(const Number* p) : scale(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V input, V target, V w = V(1)) const {
    const V d = input - target;
    return value<V>(scale) * grad * w * select(d > V(0), V(1), select(d < V(0), V(-1), V(0)));
  }
};

// d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere. Dividing first keeps d^2 from overflowing.
struct SmoothL1Loss {
  Number beta;
  explicit SmoothL1Loss(const Number* p) : beta(p[1]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V input, V target) const {
    const V d = abs(input - target), b = value<V>(beta);
    return select(d < b, V(0.5) * d * (d / b), d - V(0.5) * b);
  }
};
// d / beta where |d| < beta, sign(d) elsewhere; NaN stays NaN.
struct SmoothL1LossBackward {
  Number scale, beta;
  explicit SmoothL1LossBackward(const Number* p) : scale(p[0]), beta(p[1]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V input, V target) const {
    const V d = input - target, b = value<V>(beta);
    return value<V>(scale) * grad * select(abs(d) >= b, copysign(V(1), d), d / b);
  }
};

}  // namespace fastgrad::math
