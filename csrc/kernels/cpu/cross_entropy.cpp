// Cross-entropy of logits with class indices or probabilities, and its gradient (formulas: math/cross_entropy.h).
//
// Forward reads the logits once, block by block in L1: maximum and sum of exponentials, found together by rescaling,
// and where label smoothing or probabilities need them sum(q) and sum(q (x - maximum)). It saves per row the maximum
// and the log of the sum apart: their sum would round away what large logits differ in. Backward reads the logits once
// and writes the gradient. Neither needs a softmax. Row losses are summed in double, piece after piece.
#include "../math/cross_entropy.h"

#include "../math/softmax.h"
#include "class_loss.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

template <class T>
struct Smoothing {
  using V = Vec<T>;
  T amount, classes;
  explicit Smoothing(const RowsArgs& a) : amount(T(a.parameter[1].real)), classes(T(a.n)) {}
};

// 1 in the lanes that a step has.
template <class T>
FASTGRAD_INLINE Vec<T> ones(Whole) {
  return Vec<T>(1);
}
template <class T>
FASTGRAD_INLINE Vec<T> ones(Part s) {
  return select(Vec<T>::iota() < Vec<T>(T(s.count)), Vec<T>(1), Vec<T>(0));
}

// How much class c counts in -sum(q log p): its weight, times its smoothed probability if there are probabilities.
template <class T, bool Probabilities, class B, class Step>
FASTGRAD_INLINE Vec<T> share_of(const B& b, Step s, const T* weights, const Smoothing<T>& smoothing) {
  using V = Vec<T>;
  const V w = weights ? b.shared(weights, s) : ones<T>(s);
  if constexpr (!Probabilities)
    return w;
  else
    return math::weighted_probability(b.load(1, s), w, V(smoothing.amount), V(smoothing.classes));
}

template <class T, bool Probabilities>
struct CrossEntropy : ClassLossSums<T> {
  using V = Vec<T>;
  using Base = ClassLossSums<T>;
  using Base::args;
  using Base::weights;
  static constexpr bool accumulates = true;
  static constexpr RowStreams streams = {Probabilities ? 2 : 1, 0, {kLogits, kTarget}};
  static constexpr int64_t along_block = 1 << 14;
  Smoothing<T> smoothing;
  bool sums_all;  // whether sum(q) and sum(q (x - maximum)) are needed
  RowState<T> max, sum, sum_q, sum_q_x;

  CrossEntropy(const RowsArgs& a, ClassLossShared<T>* s)
      : Base(a, s), smoothing(a), sums_all(Probabilities || a.parameter[1].real > 0) {}

  FASTGRAD_INLINE void begin(const RowTile& tile) {
    for (int i = 0; i < tile.lanes(V::size); ++i) {
      max.value[i] = T(-__builtin_inf());
      sum.value[i] = sum_q.value[i] = sum_q_x.value[i] = 0;
    }
  }

  template <class B>
  FASTGRAD_INLINE void accumulate(const B& b, bool whole) {
    const auto x = [&](auto s) { return b.load(0, s, T(-__builtin_inf())); };
    math::MaxSum<V> state{max.get(b.lane), sum.get(b.lane)};
    const V before = state.reference(), highest = b.reduce(V(T(-__builtin_inf())), x, Max());
    if (whole)
      state.maximum = B::lanes(highest, Max());
    else
      state.raise(highest);
    const V reference = state.reference();
    const auto exponential = [&](auto s) {
      b.prefetch_next(0, s);
      return exp(x(s) - reference);
    };
    state.sum = state.sum + b.reduce(V(0), exponential, Sum());
    max.set(b.lane, state.maximum);
    sum.set(b.lane, state.sum);
    if (!sums_all) return;
    const V q = sum_q.get(b.lane);
    const V moved = sum_q_x.get(b.lane) + q * (before - reference);
    const auto share = [&](auto s) { return share_of<T, Probabilities>(b, s, weights, smoothing); };
    sum_q.set(b.lane, q + b.reduce(V(0), share, Sum()));
    const auto term = [&](auto s) { return share(s) * (b.load(0, s) - reference); };
    sum_q_x.set(b.lane, moved + b.reduce(V(0), term, Sum()));
  }

  template <class B>
  FASTGRAD_INLINE void finish(const B& b, bool whole) {
    math::MaxSum<V> state{max.get(b.lane), sum.get(b.lane)};
    const V before = state.reference();
    if (!whole) state.raise(B::lanes(state.maximum, Max()));
    max.set(b.lane, state.maximum);
    sum.set(b.lane, log(B::lanes(state.sum, Sum())));
    if (!sums_all) return;
    const V q = sum_q.get(b.lane);
    sum_q_x.set(b.lane, B::lanes(sum_q_x.get(b.lane) + q * (before - state.reference()), Sum()));
    sum_q.set(b.lane, B::lanes(q, Sum()));
  }

  FASTGRAD_INLINE void done(const RowTile& tile) {
    const int64_t plane = args.operand[kStats].element_stride;
    tile.for_rows([&](int lane, const auto& at) {
      const T m = max.value[lane], log_sum = sum.value[lane];
      char* stats = at(kStats);
      *reinterpret_cast<T*>(stats) = m;
      *reinterpret_cast<T*>(stats + plane) = log_sum;
      const T all = math::weighted_negative_log_probability(sum_q.value[lane], sum_q_x.value[lane], log_sum);
      if constexpr (Probabilities) {
        *reinterpret_cast<T*>(stats + 2 * plane) = sum_q.value[lane];
        this->add(all, 1, at(kLoss));
      } else {
        const Class c(args, at(kTarget));
        if (c.ignored) return this->add(0, 0, at(kLoss));
        if (!c.valid) return this->reject(tile.first + lane, at(kLoss));
        const T x = load_one<T>(args, kLogits, at(kLogits) + c.index * args.operand[kLogits].element_stride);
        const T w = weights ? weights[c.index] : T(1), nll = math::negative_log_probability(x, m, log_sum);
        this->add(sums_all ? math::smoothed_loss(nll, w, all, smoothing.amount, smoothing.classes) : w * nll, w,
                  at(kLoss));
      }
    });
  }
};

// Streams: logits (and probabilities) | gradient. Per row: the factor of softmax, that of the shares, and what the
// row's own class gets besides.
template <class T, bool Probabilities>
struct CrossEntropyBackward : RowFormula<T> {
  using V = Vec<T>;
  static constexpr RowStreams streams =
      Probabilities ? RowStreams{2, 1, {kLogits, kTarget, kGradInput}} : RowStreams{1, 1, {kLogits, kGradInput}};
  static constexpr int out = streams.inputs;
  static constexpr int64_t along_block = 1 << 14;
  const RowsArgs& args;
  const T* weights;
  Smoothing<T> smoothing;
  RowGradient<T> gradient;
  T sum_weights;  // over all classes
  RowState<T> max, log_sum, scale, share;
  int64_t target[kTileRows];
  T target_share[kTileRows];

  CrossEntropyBackward(const RowsArgs& a, const T* w)
      : args(a), weights(w), smoothing(a), gradient(a), sum_weights(T(a.n)) {
    if (weights && !Probabilities) {
      double sum = 0;
      for (int64_t c = 0; c < a.n; ++c) sum += double(weights[c]);
      sum_weights = T(sum);
    }
  }

  FASTGRAD_INLINE void begin(const RowTile& tile) {
    const int64_t plane = args.operand[kStats].element_stride;
    tile.for_rows([&](int lane, const auto& at) {
      const char* stats = at(kStats);
      max.value[lane] = *reinterpret_cast<const T*>(stats);
      log_sum.value[lane] = *reinterpret_cast<const T*>(stats + plane);
      const T g = gradient(at(kGradient));
      target[lane] = -1;
      if constexpr (Probabilities) {
        scale.value[lane] = g * *reinterpret_cast<const T*>(stats + 2 * plane);
        share.value[lane] = g;
      } else {
        const Class c(args, at(kTarget));
        const T each = smoothing.amount / smoothing.classes;
        if (!c.valid) {
          scale.value[lane] = share.value[lane] = c.ignored ? T(0) : T(__builtin_nan(""));
          return;
        }
        target[lane] = c.index;
        target_share[lane] = g * (1 - smoothing.amount) * (weights ? weights[c.index] : T(1));
        share.value[lane] = g * each;
        scale.value[lane] = target_share[lane] + share.value[lane] * sum_weights;
      }
    });
  }

  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool) {
    // Along a row, the first lane holds what every lane needs.
    const auto get = [&](const RowState<T>& s) { return B::rows_in_lanes ? s.get(b.lane) : V(s.value[0]); };
    const V row_max = get(max), row_log = get(log_sum), row_scale = get(scale), row_share = get(share);
    if (Probabilities || smoothing.amount > 0) {
      b.each([&](auto s) {
        const V q = row_share * share_of<T, Probabilities>(b, s, weights, smoothing);
        b.store(out, s, math::cross_entropy_backward(b.load(0, s), row_max, row_log, row_scale, q));
      });
    } else {
      b.each([&](auto s) {
        b.prefetch_next(0, s);
        b.store(out, s, math::cross_entropy_backward(b.load(0, s), row_max, row_log, row_scale, V(0)));
      });
    }
    if constexpr (!Probabilities)
      for (int j = 0; j < b.rows; ++j) {
        const int64_t i = target[b.lane + j] - b.begin;
        if (i >= 0 && i < b.n && target[b.lane + j] >= 0) b.at(out, i)[j] -= target_share[b.lane + j];
      }
  }
};

}  // namespace

Status cross_entropy(const RowsArgs& a) {
  const bool p = a.flags & kProbabilities;
  if (a.compute == Dtype::f32)
    return p ? class_loss<float, CrossEntropy<float, true>>(a) : class_loss<float, CrossEntropy<float, false>>(a);
  return p ? class_loss<double, CrossEntropy<double, true>>(a) : class_loss<double, CrossEntropy<double, false>>(a);
}
Status cross_entropy_backward(const RowsArgs& a) {
  const bool p = a.flags & kProbabilities;
  if (a.compute == Dtype::f32)
    return p ? class_loss_backward<float, CrossEntropyBackward<float, true>>(a)
             : class_loss_backward<float, CrossEntropyBackward<float, false>>(a);
  return p ? class_loss_backward<double, CrossEntropyBackward<double, true>>(a)
           : class_loss_backward<double, CrossEntropyBackward<double, false>>(a);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
