// Cross-entropy of logits with class indices or probabilities, and its gradient (formulas: math/cross_entropy.h).
//
// Forward reads the logits once where a row fits the registers, and saves per row the maximum and the log of the sum
// apart: their sum would round away what large logits differ in. Backward reads the logits once and writes the
// gradient.
#include "../math/cross_entropy.h"

#include "class_loss.cuh"
#include "softmax.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

// How much class c counts in -sum(q log p): its weight, times its smoothed probability if there are probabilities.
template <class A, class... Probability>
__device__ __forceinline__ A share_of(const RowsArgs& a, int64_t c, Probability... t) {
  const A w = weight_of<A>(a, c);
  if constexpr (sizeof...(t) == 0)
    return w;
  else
    return math::weighted_probability(t..., w, A(a.parameter[1].real), A(a.n));
}

// Streams: logits (and probabilities)
template <bool Probabilities>
struct CrossEntropy {
  static constexpr int kInputs = Probabilities ? 2 : 1, kStreamed = Probabilities ? 0b11 : 0b1;
  static constexpr int kItems = Probabilities ? 16 : 32;
  static constexpr double kFill = -INFINITY;
  static constexpr bool kIntegers = false, kSums = true;
  template <class A, class Row>
  __device__ __forceinline__ void run(Row& row, const RowsArgs& a, RowSums& sums) const {
    const MaximumAndSum<A> r = maximum_and_sum<A>(row);
    const A log_sum = math::log(r.sum), smoothing = A(a.parameter[1].real);
    A sum_q = 0, sum_q_x = 0;
    if (Probabilities || smoothing > A(0)) {
      const auto sums_q = row.sum([&](int64_t c, A x, auto... t) {
        if (c >= a.n) return math::Tuple<A, 2>{{A(0), A(0)}};
        const A q = share_of<A>(a, c, t...);
        return math::Tuple<A, 2>{{q, q * (x - r.maximum)}};
      });
      sum_q = sums_q.item[0];
      sum_q_x = sums_q.item[1];
    }
    if (!row.leads()) return;
    const int64_t plane = a.operand[kStats].element_stride;
    char* const stats = row.base(kStats);
    *reinterpret_cast<A*>(stats) = r.maximum;
    *reinterpret_cast<A*>(stats + plane) = r.sum;
    const A all = math::weighted_negative_log_probability(sum_q, sum_q_x, log_sum);
    if constexpr (Probabilities) {
      *reinterpret_cast<A*>(stats + 2 * plane) = sum_q;
      add_loss(row, a, sums, all, A(1));
    } else {
      const Class c(a, row.base(kTarget));
      if (c.ignored) return add_loss(row, a, sums, A(0), A(0));
      if (!c.valid) return reject_class<A>(row, a, sums);
      const A x = load_one<A>(a, kLogits, row.base(kLogits) + c.index * a.operand[kLogits].element_stride);
      const A w = weight_of<A>(a, c.index), nll = math::negative_log_probability(x, r.maximum, log_sum);
      add_loss(row, a, sums, smoothing > A(0) ? math::smoothed_loss(nll, w, all, smoothing, A(a.n)) : w * nll, w);
    }
  }
};

// Streams: logits (and probabilities) | gradient
template <bool Probabilities>
struct CrossEntropyBackward {
  static constexpr int kInputs = Probabilities ? 2 : 1;
  static constexpr int kStreamed = (Probabilities ? 0b11 : 0b1) | 1 << kGradInput, kItems = 32;
  static constexpr double kFill = 0;
  static constexpr bool kIntegers = false, kSums = false;
  template <class A, class Row>
  __device__ __forceinline__ void run(Row& row, const RowsArgs& a) const {
    const int64_t plane = a.operand[kStats].element_stride;
    const char* const stats = row.base(kStats);
    const A m = *reinterpret_cast<const A*>(stats), sum = *reinterpret_cast<const A*>(stats + plane);
    const A g = row_gradient<A>(a, row.base(kGradient)), smoothing = A(a.parameter[1].real);
    A scale, share = g, target_share = 0;
    int64_t target = -1;
    if constexpr (Probabilities) {
      scale = g * *reinterpret_cast<const A*>(stats + 2 * plane);
    } else {
      A sum_weights = A(a.n);
      if (a.operand[kWeight].data && smoothing > A(0)) {
        sum_weights = row.sum([&](int64_t c, A) { return c < a.n ? weight_of<A>(a, c) : A(0); });
      }
      const Class c(a, row.base(kTarget));
      if (c.valid) {
        target = c.index;
        target_share = g * (A(1) - smoothing) * weight_of<A>(a, target);
        share = g * (smoothing / A(a.n));
        scale = target_share + share * sum_weights;
      } else {
        scale = share = c.ignored ? A(0) : A(NAN);
      }
    }
    scale /= sum;
    const bool shared = Probabilities || smoothing > A(0);
    row.write(kGradInput, [&](int64_t c, A x, auto... t) {
      const A q = shared && c < a.n ? share * share_of<A>(a, c, t...) : A(0);
      const A dx = math::cross_entropy_backward(math::exp_nonpositive(x - m), scale, q);
      return c == target ? dx - target_share : dx;
    });
  }
};

}  // namespace

Status cross_entropy(const RowsArgs& a) {
  const bool p = a.flags & kProbabilities;
  if (a.compute == Dtype::f32)
    return p ? class_loss<float>(a, CrossEntropy<true>{}) : class_loss<float>(a, CrossEntropy<false>{});
  return p ? class_loss<double>(a, CrossEntropy<true>{}) : class_loss<double>(a, CrossEntropy<false>{});
}
Status cross_entropy_backward(const RowsArgs& a) {
  return a.flags & kProbabilities ? rows<CrossEntropyBackward<true>>(a) : rows<CrossEntropyBackward<false>>(a);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
