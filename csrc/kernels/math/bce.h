// Binary cross-entropy of probabilities and of logits, and their first derivatives. t is the target, w the weight, p
// the weight of the positive class; parameter 0 scales the incoming gradient (1/n for a mean).
#pragma once
#include "value.h"

namespace fastgrad::math {

// log(1 - x) on [0, 1]; NaN outside.
template <class V>
FASTGRAD_FORMULA V log_complement(V x) {
  using T = scalar_t<V>;
  return select(x < V(1), log1p_of_finite(-x), select(x == V(1), V(T(-__builtin_inf())), V(T(__builtin_nan("")))));
}
template <class V>
FASTGRAD_FORMULA V zero_to_one(V x, V inside, V outside) {
  return select((x >= V(0)) & (x <= V(1)), inside, outside);
}

// -w (t log x + (1 - t) log(1 - x)) with the logarithms clamped at -100. NaN where x or t is outside [0, 1], which the
// glue turns into an error. Where no logarithm needs the clamp, there are ways of fewer operations to the same bits,
// the shortest for targets of 0 and 1: then one logarithm counts.
struct BinaryCrossEntropy : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x, V t, V w = V(1)) const {
    using T = scalar_t<V>;
    V positive, negative;
    if (is_interior(x)) {
      if (is_binary(t)) return -w * log_likelihood(x, t);
      positive = log(x);
      negative = log1p_of_finite(-x);
    } else {
      positive = at_least(log(x), T(-100));
      negative = at_least(log_complement(x), T(-100));
    }
    const V loss = (t - V(1)) * negative - t * positive;
    return zero_to_one(t, w * loss, V(T(__builtin_nan(""))));
  }
};
// w (x - t) / (x (1 - x)), the denominator at least 1e-12.
struct BinaryCrossEntropyBackward {
  Number scale;
  explicit BinaryCrossEntropyBackward(const Number* p) : scale(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V t, V w = V(1)) const {
    return value<V>(scale) * grad * w * ((x - t) / max(x * (V(1) - x), V(1e-12)));
  }
};
// By the target: w (log(1 - x) - log x), not clamped.
struct BinaryCrossEntropyTargetBackward : BoundByArithmetic {
  Number scale;
  explicit BinaryCrossEntropyTargetBackward(const Number* p) : scale(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V w = V(1)) const {
    return value<V>(scale) * grad * w * (log_complement(x) - log(x));
  }
};
// 1 where x lies outside [0, 1] or is NaN: counts them.
struct OutsideUnitInterval {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return zero_to_one(x, V(0), V(1));
  }
};
struct IsNan {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x) const {
    return select(x == x, V(0), V(1));
  }
};

// -w (p t log s(x) + (1 - t) log s(-x)) for the logit x, s the sigmoid. With l = log1p(exp(-|x|)), -log s(x) is l for
// x > 0 and l - x otherwise, so the loss is
//   w ((1 - t + p t) l + (x > 0 ? (1 - t) x : -p t x)),
// where nothing cancels for t in {0, 1}. At x = -inf it is (1 - t) x - (1 - t + p t) x, as torch has it: NaN for a
// target in [0, 1].
struct BinaryCrossEntropyWithLogits : BoundByArithmetic {
  template <class V>
  FASTGRAD_FORMULA V operator()(V x, V t, V w = V(1)) const {  // p = 1
    const V l = log1p_of_fraction(exp_nonpositive(-abs(x)));
    const V loss = fma(select(x > V(0), V(1), V(0)) - t, x, l);
    return w * select(x == V(scalar_t<V>(-__builtin_inf())), (V(1) - t) * x - x, loss);
  }
  template <class V>
  FASTGRAD_FORMULA V operator()(V x, V t, V w, V p) const {
    const V negative = V(1) - t, positive = p * t, sum = negative + positive;
    const V l = log1p_of_fraction(exp_nonpositive(-abs(x)));
    V linear = select(x > V(0), negative, -positive) * x;
    linear = select(x == V(scalar_t<V>(-__builtin_inf())), negative * x - sum * x, linear);
    return w * (sum * l + linear);
  }
};
// w ((1 - t) s(x) - p t s(-x)). With e = exp(-|x|) one of the sigmoids is 1 / (1 + e), the other e / (1 + e).
struct BinaryCrossEntropyWithLogitsBackward : BoundByArithmetic {
  Number scale;
  explicit BinaryCrossEntropyWithLogitsBackward(const Number* p) : scale(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V t, V w = V(1), V p = V(1)) const {
    const V e = exp_nonpositive(-abs(x)), up = V(1) - t, down = -p * t;
    const auto right = x > V(0);
    const V of_larger = select(right, up, down), of_smaller = select(right, down, up);
    return value<V>(scale) * grad * w * quotient(fma(of_smaller, e, of_larger), V(1) + e);
  }
};
// By the target: w ((p - 1) l - (x > 0 ? x : p x)), l as above.
struct BinaryCrossEntropyWithLogitsTargetBackward : BoundByArithmetic {
  Number scale;
  explicit BinaryCrossEntropyWithLogitsTargetBackward(const Number* p) : scale(p[0]) {}
  template <class V>
  FASTGRAD_FORMULA V operator()(V grad, V x, V w = V(1), V p = V(1)) const {
    const V l = log1p_of_fraction(exp_nonpositive(-abs(x)));
    return value<V>(scale) * grad * w * ((p - V(1)) * l - select(x > V(0), V(1), p) * x);
  }
};

}  // namespace fastgrad::math
