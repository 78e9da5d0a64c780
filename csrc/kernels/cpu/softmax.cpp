// softmax and log_softmax over rows, and their derivatives (formulas: math/softmax.h).
//
// A row that fits the cache is read once: maximum, then exponentials (which softmax leaves in the output) and their
// sum, then the result. A longer row is read twice: its maximum and sum are found together block by block, rescaling
// the sum where the maximum rises, and the second pass computes the result from the input.
#include "../math/softmax.h"

#include "rows.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kRowInCache = 1 << 17;  // bytes

// Streams: x | y. State between the passes: the maximum, and the sum.
template <class T, bool Log>
struct SoftmaxRows : RowFormula<T> {
  using V = Vec<T>;
  static constexpr bool accumulates = true;
  static constexpr RowStreams streams = {1, 1, {0, 1}};
  static constexpr int64_t along_block = kRowInCache;
  RowState<T> max, sum;

  SoftmaxRows(const RowsArgs&, void*) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    for (int i = 0; i < tile.lanes(V::size); ++i) max.value[i] = T(-__builtin_inf()), sum.value[i] = 0;
  }
  // Of a row that is one block, 16-bit inputs are widened once: into the output's buffer.
  template <class B>
  static constexpr int kWidened = B::kStored > 0 ? 1 : 0;
  template <class B>
  FASTGRAD_INLINE void accumulate(const B& b, bool whole) {
    const auto x = [&](auto s) { return b.load(0, s, T(-__builtin_inf())); };
    if (whole) {
      const auto widened = [&](auto s) {
        const V v = x(s);
        if (kWidened<B>) b.store(1, s, v);
        return v;
      };
      const V row_max = B::lanes(b.reduce(V(T(-__builtin_inf())), widened, Max()), Max());
      max.set(b.lane, row_max);
      const auto term = [&](auto s) {
        b.prefetch_next(0, s);
        const V e = exp_nonpositive(b.load(kWidened<B>, s, T(-__builtin_inf())) - row_max);
        if constexpr (!Log) b.store(1, s, e);
        return e;
      };
      sum.set(b.lane, b.reduce(V(0), term, Sum()));
    } else {
      math::MaxSum<V> state{max.get(b.lane), sum.get(b.lane)};
      state.raise(b.reduce(V(T(-__builtin_inf())), x, Max()));
      const V reference = state.reference();
      state.sum = state.sum + b.reduce(V(0), [&](auto s) { return exp_nonpositive(x(s) - reference); }, Sum());
      max.set(b.lane, state.maximum);
      sum.set(b.lane, state.sum);
    }
  }
  template <class B>
  FASTGRAD_INLINE void finish(const B& b, bool whole) {
    math::MaxSum<V> state{max.get(b.lane), sum.get(b.lane)};
    if (!whole) state.raise(B::lanes(state.maximum, Max()));
    const V total = B::lanes(state.sum, Sum());
    max.set(b.lane, state.maximum);
    sum.set(b.lane, Log ? log(total) : V(1) / total);
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool whole) {
    const V m = max.get(b.lane), r = sum.get(b.lane);
    if (Log)
      b.each([&](auto s) { b.store(1, s, math::log_softmax(b.load(whole ? kWidened<B> : 0, s), m, r)); });
    else if (whole)
      b.each([&](auto s) { b.store(1, s, b.load(1, s) * r); });
    else
      b.each([&](auto s) { b.store(1, s, math::softmax(b.load(0, s), m, r)); });
  }
};

// Streams: gradient, y | gradient of x. State between the passes: sum(gradient y), or sum(gradient).
template <class T, bool Log>
struct SoftmaxBackwardRows : RowFormula<T> {
  using V = Vec<T>;
  static constexpr bool accumulates = true;
  static constexpr RowStreams streams = {2, 1, {0, 1, 2}};
  static constexpr int64_t along_block = kRowInCache;
  RowState<T> sum;

  SoftmaxBackwardRows(const RowsArgs&, void*) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    for (int i = 0; i < tile.lanes(V::size); ++i) sum.value[i] = 0;
  }
  template <class B>
  FASTGRAD_INLINE void accumulate(const B& b, bool) {
    const auto term = [&](auto s) { return Log ? b.load(0, s) : b.load(0, s) * b.load(1, s); };
    sum.set(b.lane, sum.get(b.lane) + b.reduce(V(0), term, Sum()));
  }
  template <class B>
  FASTGRAD_INLINE void finish(const B& b, bool) {
    sum.set(b.lane, B::lanes(sum.get(b.lane), Sum()));
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool) {
    const V total = sum.get(b.lane);
    b.each([&](auto s) {
      b.prefetch_next(0, s);
      b.prefetch_next(1, s);
      const V g = b.load(0, s), y = b.load(1, s);
      b.store(2, s, Log ? math::log_softmax_backward(g, y, total) : math::softmax_backward(g, y, total));
    });
  }
};

template <class T>
using Softmax = SoftmaxRows<T, false>;
template <class T>
using LogSoftmax = SoftmaxRows<T, true>;
template <class T>
using SoftmaxBackward = SoftmaxBackwardRows<T, false>;
template <class T>
using LogSoftmaxBackward = SoftmaxBackwardRows<T, true>;

}  // namespace

Status softmax(const RowsArgs& a) { return rows<Softmax>(a); }
Status softmax_backward(const RowsArgs& a) { return rows<SoftmaxBackward>(a); }
Status log_softmax(const RowsArgs& a) { return rows<LogSoftmax>(a); }
Status log_softmax_backward(const RowsArgs& a) { return rows<LogSoftmaxBackward>(a); }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
