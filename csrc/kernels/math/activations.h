// Activations and their first derivatives; `y` is the activation's own output.
#pragma once
#include "value.h"

namespace fastgrad::math {

// y = 1 / (1 + exp(-x)), as e / (1 + e) with e = exp(x) for a negative x: nothing overflows, and what is tiny is right.
struct Sigmoid : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    const V e = exp_nonpositive(-abs(x));
    return quotient(select(x < V(0), e, V(1)), V(1) + e);
  }
};
struct SigmoidBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V y) const {
    return grad * (V(1) - y) * y;
  }
};

struct Tanh : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return tanh(x);
  }
};
struct TanhBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V y) const {
    return grad * (V(1) - y * y);
  }
};

// y = max(x, 0); NaN stays NaN, and -0 stays -0.
struct Relu {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return select(is_negative(x), V(0), x);
  }
};
// The derivative at 0 is 0, as in torch. Where y is NaN the gradient passes.
struct ReluBackward {
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V y) const {
    return select(y <= V(0), V(0), grad);
  }
};

}  // namespace fastgrad::math
