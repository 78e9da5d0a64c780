// Cross-entropy of logits with class indices or probabilities, and its gradient (formulas: math/cross_entropy.h).
//
// Forward reads the logits once, block by block in L1: maximum and sum of exponentials, found together by rescaling,
// and where label smoothing or probabilities need them sum(q) and sum(q (x - maximum)). It saves per row the maximum
// and the sum apart: the maximum plus the log of the sum would round away what large logits differ in. Backward reads
// the logits once and writes the gradient. Neither needs a softmax. Row losses are summed in double, piece after piece.
//
// Where the gradient that will come in is known, forward writes that of the logits besides, row by row, while the row
// is in cache: from its exponentials, kept in the output, or again from the logits where the row is more than one
// block, as then they were relative to a maximum that has risen since. The bits are those of backward.
#include <atomic>

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

// What a formula keeps a row, in the lanes where `b` has the rows: along a row, the first holds what every lane needs.
template <class T, class B>
FASTGRAD_INLINE Vec<T> of_rows(const B& b, const RowState<T>& s) {
  return B::rows_in_lanes ? s.get(b.lane) : Vec<T>(s.value[0]);
}

// The gradient of rows: per row the factor of the exponentials, that of the shares, and what the row's own class gets
// besides.
template <class T, bool Probabilities>
struct LogitGradient {
  using V = Vec<T>;
  const T* weights;
  Smoothing<T> smoothing;
  T sum_weights;  // over all classes
  RowState<T> scale, share, own;

  LogitGradient(const RowsArgs& a, const T* w) : weights(w), smoothing(a), sum_weights(T(a.n)) {
    if (weights && !Probabilities) {
      double sum = 0;
      for (int64_t c = 0; c < a.n; ++c) sum += double(weights[c]);
      sum_weights = T(sum);
    }
  }

  // From the gradients of the rows' losses, which are in `share`, and with probabilities the sums of q, in `scale`.
  FASTGRAD_INLINE void set(int rows, const RowClasses<T>& classes, const RowState<T>& sum) {
    if constexpr (Probabilities) {
      for (int lane = 0; lane < rows; ++lane) scale.value[lane] *= share.value[lane];
    } else {
      const T each = smoothing.amount / smoothing.classes;
      for (int lane = 0; lane < rows; ++lane) {
        const T g = share.value[lane], none = classes.counts[lane] != 0 ? T(__builtin_nan("")) : T(0);
        const bool valid = classes.index[lane] >= 0;
        own.value[lane] = valid ? g * (1 - smoothing.amount) * classes.weight[lane] : T(0);
        share.value[lane] = valid ? g * each : none;
        scale.value[lane] = valid ? own.value[lane] + share.value[lane] * sum_weights : none;
      }
    }
    for (int lane = 0; lane < rows; ++lane) scale.value[lane] /= sum.value[lane];
  }

  // Writes a block of stream `out`, from exponential(step).
  template <class B, class Exponential>
  FASTGRAD_INLINE void emit(const B& b, int out, const RowClasses<T>& classes, const Exponential& exponential) const {
    const V row_scale = of_rows(b, scale), row_share = of_rows(b, share);
    if (Probabilities || smoothing.amount > 0) {
      b.each([&](auto s) {
        const V q = row_share * share_of<T, Probabilities>(b, s, weights, smoothing);
        b.store(out, s, math::cross_entropy_backward(exponential(s), row_scale, q));
      });
    } else {
      b.each([&](auto s) { b.store(out, s, math::cross_entropy_backward(exponential(s), row_scale, V(0))); });
    }
    if constexpr (!Probabilities)
      for (int j = 0; j < b.rows; ++j) {
        const int64_t c = classes.index[b.lane + j], i = c - b.begin;
        if (c >= 0 && i >= 0 && i < b.n) b.at(out, i)[j] -= own.value[b.lane + j];
      }
  }
};

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
  RowState<T> max, sum, log_sum, sum_q, sum_q_x;
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
    accumulate(b, whole, [](auto, V) {});
  }
  // Calls keep(step, exponential); that may be stored in the place of the logit.
  template <class B, class Keep>
  FASTGRAD_INLINE void accumulate(const B& b, bool whole, const Keep& keep) {
    const auto x = [&](auto s) { return b.load(0, s, T(-__builtin_inf())); };
    math::MaxSum<V> state{max.get(b.lane), sum.get(b.lane)};
    const V before = state.reference(), highest = b.reduce(V(T(-__builtin_inf())), x, Max());
    if (whole)
      state.maximum = B::lanes(highest, Max());
    else
      state.raise(highest);
    const V reference = state.reference();
    if (sums_all) {
      const V q = sum_q.get(b.lane);
      const V moved = sum_q_x.get(b.lane) + q * (before - reference);
      const auto share = [&](auto s) { return share_of<T, Probabilities>(b, s, weights, smoothing); };
      sum_q.set(b.lane, q + b.reduce(V(0), share, Sum()));
      const auto term = [&](auto s) { return share(s) * (b.load(0, s) - reference); };
      sum_q_x.set(b.lane, moved + b.reduce(V(0), term, Sum()));
    }
    if constexpr (B::rows_in_lanes && !Probabilities)
      if (whole)
        for (int j = 0; j < b.rows; ++j) {
          const int64_t c = classes.index[b.lane + j];
          logit.value[b.lane + j] = c < 0 ? T(__builtin_nan("")) : b.at(0, c)[j];
        }
    const auto exponential = [&](auto s) {
      b.prefetch_next(0, s);
      const V e = exp_nonpositive(x(s) - reference);
      keep(s, e);
      return e;
    };
    state.sum = state.sum + b.reduce(V(0), exponential, Sum());
    max.set(b.lane, state.maximum);
    sum.set(b.lane, state.sum);
  }

  template <class B>
  FASTGRAD_INLINE void finish(const B& b, bool whole) {
    math::MaxSum<V> state{max.get(b.lane), sum.get(b.lane)};
    const V before = state.reference();
    if (!whole) state.raise(B::lanes(state.maximum, Max()));
    max.set(b.lane, state.maximum);
    const V total = B::lanes(state.sum, Sum());
    sum.set(b.lane, total);
    log_sum.set(b.lane, log(total));
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
      loss[0] = losses<T>(logit.value[0], weight[0], counts[0], max.value[0], log_sum.value[0], sum_q.value[0],
                          sum_q_x.value[0]);
    else
      for (int i = 0; i < tile.rows; i += V::size)
        losses<V>(logit.get(i), V::load(weight + i), V::load(counts + i), max.get(i), log_sum.get(i), sum_q.get(i),
                  sum_q_x.get(i))
            .store(loss + i);
    this->add_losses(tile);
  }
};

// Forward of class indices with the gradient. Streams: logits | gradient.
template <class T>
struct CrossEntropyWithGradient : CrossEntropy<T, false> {
  using V = Vec<T>;
  using Base = CrossEntropy<T, false>;
  static constexpr RowStreams streams = {1, 1, {kLogits, kGradInput}};
  LogitGradient<T, false> gradient;

  CrossEntropyWithGradient(const RowsArgs& a, ClassLossShared<T>* s) : Base(a, s), gradient(a, s->weights) {}

  FASTGRAD_INLINE void done(const RowTile& tile, bool in_tile) {
    Base::done(tile, in_tile);
    for (int lane = 0; lane < tile.rows; ++lane) gradient.share.value[lane] = this->shared->incoming;
    gradient.set(tile.rows, this->classes, this->sum);
  }
  template <class B>
  FASTGRAD_INLINE void accumulate(const B& b, bool whole) {
    Base::accumulate(b, whole, [&](auto s, V e) {
      if (whole) b.store(1, s, e);
    });
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool whole) {
    const V max = of_rows(b, this->max);
    if (whole)
      gradient.emit(b, 1, this->classes, [&](auto s) { return b.load(1, s); });
    else
      gradient.emit(b, 1, this->classes, [&](auto s) { return exp_nonpositive(b.load(0, s) - max); });
  }
};

// What the gradient of each row's loss will be. A mean is over the rows that are not ignored; a sum of ones needs no
// fixed order.
template <class T>
T incoming_gradient(const RowsArgs& a) {
  const T g = T(a.parameter[2].real);
  if (!(a.flags & kReduceMean)) return g;
  const auto& target = a.operand[kTarget];
  std::atomic<int64_t> counted = 0;
  const auto count = [&](const auto* classes) {
    parallel_for(0, a.rows, 1 << 16, [&](int64_t begin, int64_t end) {
      int64_t n = 0;
      for (int64_t row = begin; row < end; ++row) n += int64_t(classes[row]) != a.parameter[0].integer;
      counted += n;
    });
  };
  if (target.dtype == Dtype::u8)
    count(static_cast<const uint8_t*>(target.data));
  else
    count(static_cast<const int64_t*>(target.data));
  return g * (T(1) / T(double(counted)));
}

// Streams: logits (and probabilities) | gradient.
template <class T, bool Probabilities>
struct CrossEntropyBackward : RowFormula<T> {
  static constexpr RowStreams streams =
      Probabilities ? RowStreams{2, 1, {kLogits, kTarget, kGradInput}} : RowStreams{1, 1, {kLogits, kGradInput}};
  static constexpr int64_t along_block = 1 << 14;
  const RowsArgs& args;
  RowGradient<T> incoming;
  LogitGradient<T, Probabilities> gradient;
  RowState<T> max, sum;
  RowClasses<T> classes;

  CrossEntropyBackward(const RowsArgs& a, const T* weights) : args(a), incoming(a), gradient(a, weights) {}

  FASTGRAD_INLINE void begin(const RowTile& tile) {
    const int64_t plane = args.operand[kStats].element_stride;
    load_rows<T>(tile, kStats, 0, max.value);
    load_rows<T>(tile, kStats, plane, sum.value);
    incoming.load(tile, gradient.share.value);
    if constexpr (Probabilities)
      load_rows<T>(tile, kStats, 2 * plane, gradient.scale.value);
    else
      classes.read(tile, gradient.weights);
    gradient.set(tile.rows, classes, sum);
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool) {
    const Vec<T> row_max = of_rows(b, max);
    gradient.emit(b, streams.inputs, classes, [&](auto s) {
      b.prefetch_next(0, s);
      return exp_nonpositive(b.load(0, s) - row_max);
    });
  }
};

template <class T>
Status cross_entropy_of(const RowsArgs& a) {
  if (a.flags & kProbabilities) return class_loss<T, CrossEntropy<T, true>>(a);
  if (!a.operand[kGradInput].data) return class_loss<T, CrossEntropy<T, false>>(a);
  return class_loss<T, CrossEntropyWithGradient<T>>(a, incoming_gradient<T>(a));
}

}  // namespace

Status cross_entropy(const RowsArgs& a) {
  return a.compute == Dtype::f32 ? cross_entropy_of<float>(a) : cross_entropy_of<double>(a);
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
