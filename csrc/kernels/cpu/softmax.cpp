// softmax and log_softmax over rows, and their derivatives (formulas: math/softmax.h).
//
// A row that fits the cache is read once: maximum, then exponentials (which softmax leaves in the output) and their
// sum, then the result. A longer row is read twice: its maximum and sum are found together block by block, rescaling
// the sum where the maximum rises, and the second pass computes the result from the input.
#include "../math/softmax.h"
#include "../math/reductions.h"

#include "rows.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

// Streams: x | y. State between the passes: the maximum, and the sum.
template <class T, bool Log>
struct SoftmaxRows : RowFormula<T> {
  using V = Vec<T>;
  static constexpr bool accumulates = true;
  static constexpr RowStreams streams = {1, 1, {0, 1}};
  static constexpr int64_t along_block = kRowInCache, flat_row = 127;
  RowState<T> max, sum;

  SoftmaxRows(const RowsArgs&, void*) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    for (int i = 0; i < tile.rows; i += V::size) max.set(i, V(T(-__builtin_inf()))), sum.set(i, V(0));
  }
  // Raises maxima, and refers the sums to the new ones.
  FASTGRAD_INLINE void raise(int lane, V highest) {
    math::MaxSum<V> state{max.get(lane), sum.get(lane)};
    state.raise(highest);
    max.set(lane, state.maximum);
    sum.set(lane, state.sum);
  }
  template <class Blocks>
  FASTGRAD_INLINE void accumulate(const Blocks& blocks, auto whole) {
    using B = typename Blocks::Block;
    constexpr T lowest = T(-__builtin_inf());
    constexpr std::bool_constant<decltype(whole)() && B::kWidens> widened;
    blocks.maximum(widened, [&](int lane, V highest) { whole ? max.set(lane, highest) : raise(lane, highest); });
    const auto reference = [&](const auto& b) { return math::MaxSum<V>{max.of(b), V(0)}.reference(); };
    const auto add = [&](int lane, V v) { sum.set(lane, sum.get(lane) + v); };
    if constexpr (Blocks::flat)
      blocks.template sum_exponentials<Log ? -1 : 1>(reference, add);
    else
      blocks.reduce(
          [&](const B& b) __attribute__((always_inline)) {
            return b.sum_exponentials(
                reference(b), [&](auto s) __attribute__((always_inline)) { return b.load(widened ? 1 : 0, s, lowest); },
                [&](auto s, V, V e) __attribute__((always_inline)) {
                  if (!Log && whole) b.store(1, s, e);
                },
                [&](auto s, auto steps) __attribute__((always_inline)) {
                  b.template prefetch_next<steps>(s, 0);
                  if (whole) b.template prefetch_next<steps>(s, 1);  // of a longer row, emit() is far away
                });
          },
          math::Plus(), add);
  }
  FASTGRAD_INLINE void finish(const RowTile& tile, bool, bool split) {
    if (split) {
      raise(0, V(reduce_lanes(max.get(0), Max())));
      sum.set(0, V(reduce_lanes(sum.get(0), math::Plus())));
    }
    for (int lane = 0; lane < tile.rows; lane += V::size) {
      const V total = sum.get(lane);
      sum.set(lane, Log ? log(total) : V(1) / total);
    }
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool whole) {
    const V m = max.of(b), r = sum.of(b);
    if (Log)
      b.each([&](auto s) {
        b.result(s, math::log_softmax(b.load(whole && B::kWidens ? 1 : 0, s), b.spread(m, s), b.spread(r, s)));
      });
    else if (whole)
      b.each([&](auto s) { b.result(s, b.load(1, s) * b.spread(r, s)); });
    else
      b.each([&](auto s) { b.result(s, math::softmax(b.load(0, s), b.spread(m, s), b.spread(r, s))); });
  }
};

// Streams: gradient, y | gradient of x. State between the passes: sum(gradient y), or sum(gradient).
template <class T, bool Log>
struct SoftmaxBackwardRows : RowFormula<T> {
  using V = Vec<T>;
  static constexpr bool accumulates = true;
  static constexpr RowStreams streams = {2, 1, {0, 1, 2}};
  static constexpr int short_row = 1;
  static constexpr bool by_row = true,
                        by_row_16 = !Log || kVecBytes == 64;  // 16 registers are too few for the exponential
  static constexpr int64_t along_block = kRowInCache, flat_row = Log ? 31 : 23;
  RowState<T> sum;

  SoftmaxBackwardRows(const RowsArgs&, void*) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    for (int i = 0; i < tile.rows; i += V::size) sum.set(i, V(0));
  }
  template <class B>
  static FASTGRAD_INLINE V term(const B& b, auto s) {
    b.prefetch_next(s, 0);  // both passes fetch, so that memory idles in neither
    return Log ? b.first(0, s) : b.load(0, s) * b.first(1, s);
  }
  template <class B>
  static FASTGRAD_INLINE V partial(const B& b) {
    return b.reduce(V(0), [&](auto s) __attribute__((always_inline)) { return term(b, s); }, math::Plus());
  }
  template <class B>
  static FASTGRAD_INLINE void derive(const B& b, V total) {
    b.each([&](auto s) __attribute__((always_inline)) {
      b.prefetch_next(s, 1, 2);
      const V g = b.load(0, s), y = b.load(1, s), of_row = b.spread(total, s);
      b.result(s, Log ? math::log_softmax_backward(g, y, of_row) : math::softmax_backward(g, y, of_row));
    });
  }
  template <class B>
  FASTGRAD_INLINE void row(const B& b) {
    derive(b, V(reduce_lanes(partial(b), math::Plus())));
  }
  template <class Blocks>
  FASTGRAD_INLINE void accumulate(const Blocks& blocks, bool) {
    const auto add = [&](int lane, V v) { sum.set(lane, sum.get(lane) + v); };
    if constexpr (Blocks::flat)
      blocks.fold([](const auto& b, auto s) __attribute__((always_inline)) { return term(b, s); }, V(0), math::Plus(),
                  add);
    else
      blocks.reduce([](const auto& b) { return partial(b); }, math::Plus(), add);
  }
  FASTGRAD_INLINE void finish(const RowTile&, bool, bool split) {
    if (split) sum.set(0, V(reduce_lanes(sum.get(0), math::Plus())));
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool) {
    derive(b, sum.of(b));
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
