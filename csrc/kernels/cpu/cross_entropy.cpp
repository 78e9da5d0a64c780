// Cross-entropy of logits with class indices or probabilities, and its gradient (formulas: math/cross_entropy.h).
//
// Forward reads the logits from memory once: the maximum, then the sum of exponentials, and where label smoothing or
// probabilities need them sum(q) and sum(q (x - maximum)). A row that no cache holds is read in blocks in L1, maximum
// and sums found together by rescaling. It saves per row the maximum and the sum apart: the maximum plus the log of the
// sum would round away what large logits differ in. Backward reads the logits once and writes the gradient. Neither
// needs a softmax. Row losses are summed in double, piece after piece.
//
// Where the gradient that will come in is known, forward writes that of the logits besides, row by row, while the row
// is in cache: from its exponentials, kept in the output, or again from the logits where the row is more than one
// block, as then they were relative to a maximum that has risen since. The bits are those of backward.
#include <atomic>

#include "../math/cross_entropy.h"
#include "../math/reductions.h"

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

// Whether only the row's own class counts in its loss: there is no label smoothing.
inline bool has_one_share(const RowsArgs& a) { return a.parameter[1].real == 0; }

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
        const T g = share.value[lane], none = classes.counts.value[lane] != 0 ? T(__builtin_nan("")) : T(0);
        const bool valid = classes.index[lane] >= 0;
        own.value[lane] = valid ? g * (1 - smoothing.amount) * classes.weight.value[lane] : T(0);
        share.value[lane] = valid ? g * each : none;
        scale.value[lane] = valid ? own.value[lane] + share.value[lane] * sum_weights : none;
      }
    }
    for (int lane = 0; lane < rows; ++lane) scale.value[lane] /= sum.value[lane];
  }

  // Of a block, from exponential(step).
  template <class B, class Exponential>
  FASTGRAD_INLINE void emit(const B& b, const RowClasses<T>& classes, const Exponential& exponential) const {
    const V row_scale = scale.of(b), row_share = share.of(b), row_own = own.of(b), number = classes.number.of(b);
    const bool compared = B::rows_in_lanes && !Probabilities && b.begin + b.n <= kFewClasses;
    const auto write = [&](const auto& term) __attribute__((always_inline)) {
      const auto of_step = [&](auto s) __attribute__((always_inline)) {
        return math::cross_entropy_backward(exponential(s), b.spread(row_scale, s), term(s));
      };
      if constexpr (!Probabilities && B::streamed)
        classes.stream(b, of_step, [&](V g) { return g - row_own; });
      else
        b.each([&](auto s) __attribute__((always_inline)) {
          const V g = of_step(s);
          b.result(s, compared ? select(number == V(kClassNumber<T>[b.begin + s.i]), g - row_own, g) : g);
        });
    };
    if (!B::flat && (Probabilities || smoothing.amount > 0))
      write([&](auto s) { return row_share * share_of<T, Probabilities>(b, s, weights, smoothing); });
    else
      write([](auto) { return V(0); });
    if (B::flat && classes.all_own)
      for (int j = 0; j < b.rows; ++j)
        *b.element(B::kStreams - 1, j, classes.index[b.lane + j]) -= own.value[b.lane + j];
    else if (!Probabilities && !compared && !B::streamed)
      for (int j = 0; j < b.rows; ++j) {
        const int64_t c = classes.index[b.lane + j], i = c - b.begin;
        if (c >= 0 && b.has(i)) *b.element(B::kStreams - 1, j, i) -= own.value[b.lane + j];
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
  static constexpr int64_t along_block = kRowInCache, flat_row = Probabilities ? 0 : 127;
  static bool may_be_flat(const RowsArgs& a) { return has_one_share(a); }
  Smoothing<T> smoothing;
  bool sums_all;  // whether sum(q) and sum(q (x - maximum)) are needed
  RowState<T> max, sum, sum_q, sum_q_x;
  RowState<T> logit;  // of the row's class

  CrossEntropy(const RowsArgs& a, ClassLossShared<T>* s)
      : Base(a, s), smoothing(a), sums_all(Probabilities || a.parameter[1].real > 0) {}

  FASTGRAD_INLINE void begin(const RowTile& tile) {
    for (int i = 0; i < tile.rows; i += V::size) {
      max.set(i, V(T(-__builtin_inf())));
      for (RowState<T>* s : {&sum, &sum_q, &sum_q_x}) s->set(i, V(0));
    }
    if constexpr (!Probabilities) this->read_classes(tile);
  }

  // Raises maxima, and refers what is relative to them to the new ones.
  FASTGRAD_INLINE void raise(int lane, V highest) {
    math::MaxSum<V> state{max.get(lane), sum.get(lane)};
    const V before = state.reference();
    state.raise(highest);
    max.set(lane, state.maximum);
    sum.set(lane, state.sum);
    sum_q_x.set(lane, sum_q_x.get(lane) + sum_q.get(lane) * (before - state.reference()));
  }
  template <class Blocks>
  FASTGRAD_INLINE void accumulate(const Blocks& blocks, auto whole) {
    accumulate<-1>(blocks, whole);
  }
  // Leaves the exponentials of a block that is the whole row in stream `Kept`, if that is one. It may be the logits'.
  template <int Kept, class Blocks>
  FASTGRAD_INLINE void accumulate(const Blocks& blocks, auto whole) {
    using B = typename Blocks::Block;
    constexpr T lowest = T(-__builtin_inf());
    constexpr std::bool_constant<decltype(whole)() && B::kWidens> widened;
    const auto reference = [&](const auto& b) { return math::MaxSum<V>{max.of(b), V(0)}.reference(); };
    const auto add = [&](int lane, V v) { sum.set(lane, sum.get(lane) + v); };
    blocks.maximum(widened, [&](int lane, V highest) { whole ? max.set(lane, highest) : raise(lane, highest); });
    if (!Blocks::flat && sums_all) {
      const auto share = [&](const auto& b, auto s) { return share_of<T, Probabilities>(b, s, weights, smoothing); };
      blocks.reduce([&](const auto& b) { return b.reduce(V(0), [&](auto s) { return share(b, s); }, math::Plus()); },
                    math::Plus(), [&](int lane, V v) { sum_q.set(lane, sum_q.get(lane) + v); });
      blocks.reduce(
          [&](const auto& b) {
            const V from = reference(b);
            return b.reduce(V(0), [&](auto s) { return share(b, s) * (b.load(0, s) - from); }, math::Plus());
          },
          math::Plus(), [&](int lane, V v) { sum_q_x.set(lane, sum_q_x.get(lane) + v); });
    }
    constexpr bool picks = B::kRows > 1 && !Probabilities && decltype(whole)();
    const bool compares = B::rows_in_lanes && picks && blocks.n <= kFewClasses;
    if (picks && !compares)
      blocks.each([&](const B& b) {
        for (int j = 0; j < b.rows; ++j) {
          const int64_t c = classes.index[b.lane + j];
          const T x = *b.element(0, j, c < 0 ? 0 : c);
          logit.value[b.lane + j] = c < 0 ? T(__builtin_nan("")) : x;
        }
      });
    if constexpr (Blocks::flat)
      return blocks.template sum_exponentials<Kept>(reference, add);
    else {
      const auto add_exponentials = [&](auto comparing) __attribute__((always_inline)) {
        blocks.reduce(
            [&](const B& b) __attribute__((always_inline)) {
              const V from = reference(b), number = classes.number.of(b);
              V picked = T(__builtin_nan(""));
              const V total = b.sum_exponentials(
                  from, [&](auto s) __attribute__((always_inline)) { return b.load(widened ? 1 : 0, s, lowest); },
                  [&](auto s, V x, V e) __attribute__((always_inline)) {
                    if (comparing) picked = select(number == V(kClassNumber<T>[s.i]), x, picked);
                    if (Kept >= 0 && whole) b.store(Kept, s, e);
                  },
                  [&](auto s, auto steps) __attribute__((always_inline)) {
                    b.template prefetch_next<steps>(s, 0);
                    // Of a longer row, emit() is far away.
                    if (whole && B::kStreams > 1) b.template prefetch_next<steps>(s, 1);
                  });
              if (comparing) logit.set(b.lane, picked);
              return total;
            },
            math::Plus(), add);
      };
      if constexpr (B::rows_in_lanes && picks)
        if (compares) return add_exponentials(std::true_type());
      add_exponentials(std::false_type());
    }
  }

  // The losses of a register of rows.
  FASTGRAD_INLINE V losses(V x, V weight, V counts, V m, V log_sum, V q, V q_x) const {
    const V all = math::weighted_negative_log_probability(q, q_x, log_sum);
    if constexpr (Probabilities) return all;
    const V nll = math::negative_log_probability(x, m, log_sum);
    const V loss =
        sums_all ? math::smoothed_loss(nll, weight, all, V(smoothing.amount), V(smoothing.classes)) : weight * nll;
    return select(counts != V(0), loss, V(0));
  }

  FASTGRAD_INLINE void finish(const RowTile& tile, bool in_tile, bool split) {
    if (split) {
      raise(0, V(reduce_lanes(max.get(0), Max())));
      for (RowState<T>* s : {&sum, &sum_q, &sum_q_x}) s->set(0, V(reduce_lanes(s->get(0), math::Plus())));
    }
    const int64_t plane = args.operand[kStats].element_stride;
    store_rows<T>(tile, kStats, 0, max.value);
    store_rows<T>(tile, kStats, plane, sum.value);
    if constexpr (Probabilities) {
      store_rows<T>(tile, kStats, 2 * plane, sum_q.value);
      for (int lane = 0; lane < tile.rows; ++lane) classes.weight.value[lane] = 1;
    } else if (!in_tile) {
      this->load_logits(tile, logit.value);
    }
    for (int i = 0; i < tile.rows; i += V::size)
      losses(logit.get(i), classes.weight.get(i), classes.counts.get(i), max.get(i), log(sum.get(i)), sum_q.get(i),
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

  FASTGRAD_INLINE void finish(const RowTile& tile, bool in_tile, bool split) {
    Base::finish(tile, in_tile, split);
    for (int lane = 0; lane < tile.rows; ++lane) gradient.share.value[lane] = this->shared->incoming;
    gradient.set(tile.rows, this->classes, this->sum);
  }
  template <class Blocks>
  FASTGRAD_INLINE void accumulate(const Blocks& blocks, auto whole) {
    Base::template accumulate<1>(blocks, whole);
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool whole) {
    const V max = this->max.of(b);
    if (whole)
      gradient.emit(b, this->classes, [&](auto s) { return b.load(1, s); });
    else
      gradient.emit(b, this->classes, [&](auto s) { return exp_nonpositive(b.load(0, s) - b.spread(max, s)); });
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
  static constexpr int64_t along_block = 1 << 14, flat_row = Probabilities ? 0 : 63;
  static constexpr int short_row = 2;
  static bool may_be_flat(const RowsArgs& a) { return has_one_share(a); }
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
    const Vec<T> row_max = max.of(b);
    gradient.emit(b, classes, [&](auto s) {
      b.prefetch_next(s, 0, 1);
      if constexpr (Probabilities) b.prefetch_next(s, 2);
      return exp_nonpositive(b.load(0, s) - b.spread(row_max, s));
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
