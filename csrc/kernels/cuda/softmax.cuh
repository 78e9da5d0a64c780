// A row's maximum m and sum(exp(x - m)), for softmax and cross-entropy.
#pragma once
#include "../math/softmax.h"
#include "rows.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

template <class A>
struct MaximumAndSum {
  A maximum, sum;
};

// Of the first stream. A row of -inf throughout gives NaN, as exp(x - m) of it is.
template <class A, class Row>
__device__ __forceinline__ MaximumAndSum<A> maximum_and_sum(Row& row) {
  const A lowest = A(-INFINITY);
  if constexpr (Row::kHeld) {
    A m = lowest, sum = 0;
    row.each([&](int64_t, A x, auto...) { m = math::max(m, x); });
    m = row.combine(m, Max());
    row.each([&](int64_t, A x, auto...) { sum += math::exp(x - m); });
    return {m, row.combine(sum, Plus())};
  } else {
    math::MaxSum<A> mine{lowest, A(0)};
    row.each([&](int64_t, A x, auto...) {
      if (!(x <= mine.maximum)) mine.raise(x);
      mine.sum += math::exp(x - mine.reference());
    });
    const A m = row.combine(mine.maximum, Max());
    mine.raise(m);
    const A sum = row.combine(mine.sum, Plus());
    return {m, m == lowest ? A(NAN) : sum};
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
