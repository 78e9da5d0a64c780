// Cross-entropy of a row of logits x with maximum m and s = sum(exp(x - m)), so that the row's log-probabilities are
// x - m - log(s); with class weights w and label smoothing e over n classes.
#pragma once
#include "value.h"

namespace fastgrad::math {

// -log p of one class
template <class V>
FASTGRAD_FORMULA V negative_log_probability(V x, V max, V log_sum) {
  return log_sum - (x - max);
}
// -sum(q log p), from Q = sum(q) and D = sum(q (x - m))
template <class V>
FASTGRAD_FORMULA V weighted_negative_log_probability(V sum_q, V sum_q_x, V log_sum) {
  return log_sum * sum_q - sum_q_x;
}
// (1 - e) w_t (-log p_t) + e/n (-sum(w log p))
template <class V>
FASTGRAD_FORMULA V smoothed_loss(V target_loss, V target_weight, V all_loss, V smoothing, V classes) {
  return (V(1) - smoothing) * target_weight * target_loss + smoothing / classes * all_loss;
}
// What a probability t counts for: q = w ((1 - e) t + e/n). The loss of a row of them is -sum(q log p).
template <class V>
FASTGRAD_FORMULA V weighted_probability(V t, V weight, V smoothing, V classes) {
  return weight * (t * (V(1) - smoothing) + smoothing / classes);
}
// d/dx_c of -sum(q log p), times the incoming gradient g: with `exponential` = exp(x_c - m), `scale` = g sum(q) / s and
// `share` = g q_c. By fma: which of the products it rounds must not be left to the compiler, or the gradient that
// forward leaves may differ from that of backward.
template <class V>
FASTGRAD_FORMULA V cross_entropy_backward(V exponential, V scale, V share) {
  return fma(scale, exponential, -share);
}

}  // namespace fastgrad::math
