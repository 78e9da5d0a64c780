// A row's maximum m and sum(exp(x - m)), for softmax and cross-entropy.
#pragma once
#include "../math/softmax.h"
#include "rows.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

template <class A>
struct MaximumAndSum {
  A maximum, sum;
};

// Of the first input, which is -inf beyond the row's end. A row of -inf throughout gives NaN, as exp(x - m) of it is.
// With Keep, a held row's exp(x - m) take the place of x.
template <class A, bool Keep = false, class Row>
__device__ __forceinline__ MaximumAndSum<A> maximum_and_sum(Row& row) {
  const A lowest = A(-INFINITY);
  A m = lowest;
  if constexpr (Row::kHeld) {
    row.pieces([&](int64_t, auto& x) {
#pragma unroll
      for (const A v : x[0]) m = Max()(m, v);
    });
    m = row.combine(m, Max());
    if constexpr (!Keep) return {m, row.sum([&](int64_t, A x, auto...) { return math::exp_nonpositive(x - m); })};
    row.pieces([&](int64_t, auto& x) {
#pragma unroll
      for (A& v : x[0]) v = math::exp_nonpositive(v - m);
    });
    return {m, row.sum([&](int64_t, A x, auto...) { return x; })};
  } else {
    // Every thread on its own: the sum is relative to the maximum so far, or to 0 where that is -inf.
    const auto reference = [&] { return m == lowest ? A(0) : m; };
    LongSum<A> sum;
    const auto raise = [&](A top) {
      const A before = m;
      m = top;
      sum.scale(math::exp_nonpositive(before - reference()));
    };
    row.pieces([&](int64_t, auto& x) {
      A top = m;
#pragma unroll
      for (const A v : x[0]) top = Max()(top, v);
      if (!(top <= m)) raise(top);
      sum.add(row.sum_of_items([&](int i) { return math::exp_nonpositive(x[0][i] - reference()); }));
    });
    raise(row.combine(m, Max()));
    const A total = A(row.combine(sum.value(), Plus()));
    return {m, m == lowest ? A(NAN) : total};
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
