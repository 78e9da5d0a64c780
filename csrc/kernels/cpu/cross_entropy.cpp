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
  using Base::classes;
  using Base::loss;
  using Base::weights;
  static constexpr bool accumulates = true;
  static constexpr RowStreams streams = {Probabilities ? 2 : 1, 0, {kLogits, kTarget}};
  static constexpr int64_t along_block = 1 << 14;
  Smoothing<T> smoothing;
  bool sums_all;  // whether sum(q) and sum(q (x - maximum)) are needed
  RowState<T> max, sum, sum_q, sum_q_x;
  RowState<T> logit;  // of the row's class

  CrossEntropy(const RowsArgs& a, ClassLossShared<T>* s)
      : Base(a, s), smoothing(a), sums_all(Probabilities || a.parameter[1].real > 0) {}

  FASTGRAD_INLINE void begin(const RowTile& tile) {
    for (int i = 0; i < tile.lanes(V::size); ++i) {
      max.value[i] = T(-__builtin_inf());
      sum.value[i] = sum_q.value[i] = sum_q_x.value[i] = 0;
    }
    if constexpr (!Probabilities) this->read_classes(tile);
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
      return exp_nonpositive(x(s) - reference);
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
    if constexpr (B::rows_in_lanes && !Probabilities)
      if (whole)  // the tile is still there
        for (int j = 0; j < b.rows; ++j) {
          const int64_t c = classes.index[b.lane + j];
          logit.value[b.lane + j] = c < 0 ? T(__builtin_nan("")) : b.at(0, c)[j];
        }
    if (!sums_all) return;
    const V q = sum_q.get(b.lane);
    sum_q_x.set(b.lane, B::lanes(sum_q_x.get(b.lane) + q * (before - state.reference()), Sum()));
    sum_q.set(b.lane, B::lanes(q, Sum()));
  }

  // The losses of rows, one or a register of them.
  template <class X>
  FASTGRAD_INLINE X losses(X x, X weight, X counts, X m, X log_sum, X q, X q_x) const {
    using math::select;
    const X all = math::weighted_negative_log_probability(q, q_x, log_sum);
    if constexpr (Probabilities) return all;
    const X nll = math::negative_log_probability(x, m, log_sum);
    const X loss =
        sums_all ? math::smoothed_loss(nll, weight, all, X(smoothing.amount), X(smoothing.classes)) : weight * nll;
    return select(counts != X(0), loss, X(0));
  }

  FASTGRAD_INLINE void done(const RowTile& tile, bool in_tile) {
    const int64_t plane = args.operand[kStats].element_stride;
    store_rows<T>(tile, kStats, 0, max.value);
    store_rows<T>(tile, kStats, plane, sum.value);
    if constexpr (Probabilities) {
      store_rows<T>(tile, kStats, 2 * plane, sum_q.value);
      for (int lane = 0; lane < tile.rows; ++lane) classes.weight[lane] = 1;
    } else if (!in_tile) {
      this->load_logits(tile, logit.value);
    }
    const T *const weight = classes.weight, *const counts = classes.counts;
    if (tile.rows == 1)
      loss[0] =
          losses<T>(logit.value[0], weight[0], counts[0], max.value[0], sum.value[0], sum_q.value[0], sum_q_x.value[0]);
    else
      for (int i = 0; i < tile.rows; i += V::size)
        losses<V>(logit.get(i), V::load(weight + i), V::load(counts + i), max.get(i), sum.get(i), sum_q.get(i),
                  sum_q_x.get(i))
            .store(loss + i);
    this->add_losses(tile);
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
  RowState<T> own;  // what the row's class gets besides
  RowClasses<T> classes;

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
    load_rows<T>(tile, kStats, 0, max.value);
    load_rows<T>(tile, kStats, plane, log_sum.value);
    gradient.load(tile, share.value);
    if constexpr (Probabilities) {
      load_rows<T>(tile, kStats, 2 * plane, scale.value);
      for (int lane = 0; lane < tile.rows; ++lane) scale.value[lane] *= share.value[lane];
    } else {
      classes.read(tile, weights);
      const T each = smoothing.amount / smoothing.classes;
      for (int lane = 0; lane < tile.rows; ++lane) {
        const T g = share.value[lane], none = classes.counts[lane] != 0 ? T(__builtin_nan("")) : T(0);
        const bool valid = classes.index[lane] >= 0;
        own.value[lane] = valid ? g * (1 - smoothing.amount) * classes.weight[lane] : T(0);
        share.value[lane] = valid ? g * each : none;
        scale.value[lane] = valid ? own.value[lane] + share.value[lane] * sum_weights : none;
      }
    }
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
        const int64_t c = classes.index[b.lane + j], i = c - b.begin;
        if (c >= 0 && i >= 0 && i < b.n) b.at(out, i)[j] -= own.value[b.lane + j];
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
