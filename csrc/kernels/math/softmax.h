// Softmax and log-softmax of a row x with maximum m and s = sum(exp(x - m)), and their derivatives.
#pragma once
#include "value.h"

namespace fastgrad::math {

// The maximum so far and the sum of exponentials relative to it, of one row or, lane by lane, of several.
//
// Subtracting `reference` instead of the maximum keeps exp(-inf - -inf) out of parts of a row that are all -inf; a row
// that is -inf throughout still ends as NaN, as exp(x - m) of it is.
template <class V>
struct MaxSum {
  V maximum, sum;
  FASTGRAD_FORMULA V reference() const { return select(maximum == V(-__builtin_inff()), V(0), maximum); }
  // Raises the maximum to at least m and rescales the sum to it.
  FASTGRAD_FORMULA void raise(V m) {
    const V before = maximum;
    maximum = max(before, m);
    sum = sum * exp_nonpositive(before - reference());
  }
};

// y = exp(x - m) / s
template <class V>
FASTGRAD_FORMULA V softmax(V x, V max, V inverse_sum) {
  return exp_nonpositive(x - max) * inverse_sum;
}
// y = x - m - log(s), subtracted in this order: x - m is nearly exact however large both are
template <class V>
FASTGRAD_FORMULA V log_softmax(V x, V max, V log_sum) {
  return (x - max) - log_sum;
}
// dx = y (dy - sum(dy y))
template <class V>
FASTGRAD_FORMULA V softmax_backward(V grad, V y, V dot) {
  return y * (grad - dot);
}
// dx = dy - exp(y) sum(dy)
template <class V>
FASTGRAD_FORMULA V log_softmax_backward(V grad, V y, V sum) {
  return grad - exp(y) * sum;
}

}  // namespace fastgrad::math
