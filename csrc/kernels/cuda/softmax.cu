// softmax and log_softmax over rows, and their derivatives (formulas: math/softmax.h).
//
// A row in registers: maximum, then exponentials and their sum, then the result, one read and one write. A longer row
// is read twice: maximum and sum are found together, each thread rescaling its sum where a piece raises its maximum.
#include "../math/softmax.h"

#include "softmax.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

// Streams: x | y
template <bool Log>
struct Softmax {
  static constexpr int kInputs = 1, kStreamed = 0b11, kItems = 32;
  static constexpr double kFill = -INFINITY;
  static constexpr bool kIntegers = true, kSums = false;
  template <class A, class Row>
  __device__ __forceinline__ void run(Row& row, const RowsArgs&) const {
    const MaximumAndSum<A> r = maximum_and_sum<A, !Log>(row);
    if constexpr (Log) {
      const A log_sum = math::log(r.sum);
      row.write(1, [&](int64_t, A x) { return math::log_softmax(x, r.maximum, log_sum); });
    } else {
      const A inverse = A(1) / r.sum;
      row.write(1, [&](int64_t, A x) { return Row::kHeld ? x * inverse : math::softmax(x, r.maximum, inverse); });
    }
  }
};

// Streams: gradient, y | gradient of x
template <bool Log>
struct SoftmaxBackward {
  static constexpr int kInputs = 2, kStreamed = 0b111, kItems = 32;
  static constexpr double kFill = 0;
  static constexpr bool kIntegers = false, kSums = false;
  template <class A, class Row>
  __device__ __forceinline__ void run(Row& row, const RowsArgs&) const {
    const A sum = row.sum([](int64_t, A g, A y) { return Log ? g : g * y; });
    row.write(2, [&](int64_t, A g, A y) {
      return Log ? math::log_softmax_backward(g, y, sum) : math::softmax_backward(g, y, sum);
    });
  }
};

}  // namespace

Status softmax(const RowsArgs& a) { return rows<Softmax<false>>(a); }
Status softmax_backward(const RowsArgs& a) { return rows<SoftmaxBackward<false>>(a); }
Status log_softmax(const RowsArgs& a) { return rows<Softmax<true>>(a); }
Status log_softmax_backward(const RowsArgs& a) { return rows<SoftmaxBackward<true>>(a); }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
