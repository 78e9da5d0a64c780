// What a reducer reads (math/reductions.h): the blocks of the reduce engine (reduce.h), as a source with reduce() over
// its elements. A run leaves the gradient besides, if there is one.
#pragma once
#include "../math/reductions.h"
#include "convert.h"
#include "simd.h"
#include "stream.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Where a run leaves the gradient of in[0]: that of element i of part p at to[p * apart + i]. In a run without parts
// the registers are these, in turn.
template <class T>
struct RunGradient {
  const void* formula;
  T incoming;
  T* to;
  int64_t apart;
  bool streamed;  // past the cache (stream.h); then lines begin at `to`
};

// What RunSource does with the elements besides: nothing, or the gradient's formula, which shares with the loss what
// the compiler finds in both (a load, an exponential).
struct NoGradient {
  struct Result {};
  FASTGRAD_INLINE Result of(auto...) const { return {}; }
  FASTGRAD_INLINE void store(Result, int, int64_t, int64_t) const {}
};
template <class T, class Formula, bool Streamed>
struct GradientOf {
  using Result = Vec<T>;
  const Formula f;
  const Vec<T> incoming;
  T* const to;
  const int64_t apart;
  explicit GradientOf(const RunGradient<T>& g)
      : f(*static_cast<const Formula*>(g.formula)), incoming(g.incoming), to(g.to), apart(g.apart) {}
  FASTGRAD_INLINE Result of(auto... x) const { return f(incoming, x...); }
  FASTGRAD_INLINE void store(Result r, int part, int64_t i, int64_t width) const {
    T* const at = to + part * apart + i;
    if (width < Result::size)
      r.store(at, width);
    else if (Streamed)
      r.stream(at);
    else
      r.store(at);
  }
};

template <class T>
using wide_t = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

// Lanes [h, h + Vec<W>::size) of x.
template <class W, class T>
FASTGRAD_INLINE Vec<W> widen_lanes(Vec<T> x, int h) {
  if constexpr (std::is_same_v<T, W>) {
    return x;
  } else {
    typedef T Half __attribute__((vector_size(kVecBytes / 2)));
    Half half;
    std::memcpy(&half, reinterpret_cast<const char*>(&x) + h * sizeof(T), sizeof half);
    return __builtin_convertvector(half, typename Vec<W>::Register);
  }
}
constexpr int64_t kRun = 4096;  // elements of a run that is a block: it stays in L1 for a second pass
constexpr int kFewRegisters = 8, kSampledRegisters = 5;
constexpr int64_t kLongBytes = 8192;     // of a run that hardly lies in L1
constexpr int64_t kFetchedBytes = 2048;  // of a run whose search takes so long that memory would idle
// Rows of columns reduced before the results are touched. Unrolled where a register is a line: what a load reads goes
// on along one row, as the hardware foresees.
constexpr int kColumnRows = 16;

// What becomes of the lanes of a run: they stay apart (the runs of several results are combined together), they are
// combined, or every few steps widened, and combined at the end: then a run may be of any length.
enum class Lanes { apart, combined, widened };

// The elements of one result: the lanes hold different ones.
template <Lanes L, class S, class Gradient, class T, class Formula, size_t... I>
struct RunSource {
  using Value = Vec<T>;
  using V = Value;
  using W = std::conditional_t<L == Lanes::widened, wide_t<T>, T>;
  struct Total {
    static constexpr int kRegisters = V::size / Vec<W>::size;
    Vec<W> wide[kRegisters];
    FASTGRAD_INLINE void set(V x) {
      for (int h = 0; h < kRegisters; ++h) wide[h] = widen_lanes<W>(x, h * Vec<W>::size);
    }
    FASTGRAD_INLINE void add(V x, auto op) {
      for (int h = 0; h < kRegisters; ++h) wide[h] = op(wide[h], widen_lanes<W>(x, h * Vec<W>::size));
    }
    FASTGRAD_INLINE Vec<W> together(auto op) const {
      Vec<W> all = wide[0];
      for (int h = 1; h < kRegisters; ++h) all = op(all, wide[h]);
      return L == Lanes::apart ? all : Vec<W>(reduce_lanes(all, op));
    }
  };
  static constexpr bool kLanesTogether = true;
  const S* const* in;
  int64_t n, apart, ahead;
  const Formula& f;
  const Gradient& gradient;

  FASTGRAD_INLINE int64_t count() const { return n; }
  FASTGRAD_INLINE V value(typename Gradient::Result& kept, auto... x) const {
    kept = gradient.of(x...);
    return f(x...);
  }
  // Its gradient is left to store.
  template <bool Halves = false>
  FASTGRAD_INLINE V at(int64_t i, typename Gradient::Result& kept) const {
    return value(kept, load_as<Halves, T>(in[I] + i)...);
  }
  FASTGRAD_INLINE V at(int64_t i) const {
    typename Gradient::Result kept;
    const V x = at(i, kept);
    gradient.store(kept, 0, i, V::size);
    return x;
  }
  // Of a long one, a number near the mean of the elements.
  FASTGRAD_INLINE bool is_long() const { return n >= kSampledRegisters * V::size; }
  FASTGRAD_INLINE V sample() const { return V(reduce_lanes(at(0), math::Plus()) / T(V::size)); }
  static FASTGRAD_INLINE bool holds_anywhere(auto mask) { return any(mask); }
  FASTGRAD_INLINE void fetch(int64_t i) const { (__builtin_prefetch(in[I] + i + ahead, 0, 2), ...); }
  FASTGRAD_INLINE V tail(int64_t i, V fill) const {
    typename Gradient::Result kept;
    const V x = value(kept, load_as<T>(in[I] + i, n - i, T(1))...);
    gradient.store(kept, 0, i, n - i);
    return select(V::iota() < V(T(n - i)), x, fill);
  }

  template <int N, class Map, class Op>
  FASTGRAD_INLINE math::Tuple<Vec<W>, N> reduce(V init, V fill, Map map, Op op) const {
    // Several accumulators hide the latency. Emptying them every few steps keeps the chains of roundings short.
    constexpr int kAccumulators = 4, kSteps = V::size > 8 && L != Lanes::widened ? 8 : 16;
    // Arithmetic keeps the loads waiting, so memory would idle; a bare sum or maximum does not.
    constexpr bool kFetches = !std::is_same_v<Formula, math::Identity> || !requires { Map::light; };
    constexpr bool kHalves = kMayLoadHalves<T, S, Formula>;
    Total total[N];
    V sum[kAccumulators][N];
    const auto clear = [&] {
      for (auto& a : sum)
        for (V& x : a) x = init;
    };
    const auto add = [&](V(&to)[N], V x) {
      const math::Tuple<V, N> y = map(x);
      for (int k = 0; k < N; ++k) to[k] = op(to[k], y.item[k]);
    };
    const auto empty = [&] {
      for (int k = 0; k < N; ++k) total[k].add(op(op(sum[0][k], sum[1][k]), op(sum[2][k], sum[3][k])), op);
      clear();
    };
    const auto together = [&] {
      math::Tuple<Vec<W>, N> result;
      for (int k = 0; k < N; ++k) result.item[k] = total[k].together(op);
      return result;
    };
    if (n < kFewRegisters * V::size) {  // one accumulator will do
      V one[N];
      for (V& x : one) x = init;
      int64_t i = 0;
      for (; i + V::size <= n; i += V::size) add(one, at(i));
      if (i < n) add(one, tail(i, fill));
      for (int k = 0; k < N; ++k) total[k].set(one[k]);
      return together();
    }
    for (Total& x : total) x.set(init);
    clear();
    const int64_t even = n / (kAccumulators * V::size) * V::size;  // of each accumulator
    const int64_t part = apart ? apart : int64_t(V::size), stride = apart ? V::size : kAccumulators * V::size;
    const int64_t end = apart ? even : kAccumulators * even;
    const auto loop = [&]<bool Halves>(std::bool_constant<Halves>) __attribute__((always_inline)) {
      for (int64_t i = 0; i < end;) {
        const int64_t stop = i + kSteps * stride < end ? i + kSteps * stride : end;
        for (; i < stop; i += stride) {
          if (kFetches && ahead)
            for (int a = 0; a < kAccumulators; ++a) fetch(a * part + i);
          // All are read before one is stored: where addresses agree in their last 12 bits, a load waits for the store.
          typename Gradient::Result kept[kAccumulators];
          for (int a = 0; a < kAccumulators; ++a) add(sum[a], at<Halves>(a * part + i, kept[a]));
          for (int a = 0; a < kAccumulators; ++a) gradient.store(kept[a], a, i, V::size);
        }
        empty();
      }
    };
    if (kHalves && n * int64_t(sizeof(S)) >= kLongBytes && halves_are_fast())
      loop(std::bool_constant<kHalves>());
    else
      loop(std::false_type());
    if (apart) return together();
    int64_t i = kAccumulators * even;
    for (; i + V::size <= n; i += V::size) add(sum[0], at(i));
    if (i < n) add(sum[1], tail(i, fill));
    empty();
    return together();
  }

  // The index of the first element that is `best`, or NaN if that is; there is one, and `fill` is not beyond it.
  FASTGRAD_INLINE V find(V best, V fill) const {
    if (any(best != best)) return first_of([](V x) { return x != x; }, fill);
    return first_of([best](V x) { return x == best; }, fill);
  }

 private:
  template <class Matches>
  FASTGRAD_INLINE V first_of(Matches matches, V fill) const {
    constexpr int kTogether = 4;  // registers, to branch once
    const bool fetches = ahead && n * int64_t(sizeof(S)) >= kFetchedBytes;
    int64_t i = 0;
    for (; i + kTogether * V::size <= n; i += kTogether * V::size) {
      uint64_t found = 0;
      if (fetches)
        for (int64_t r = 0; r < kTogether * V::size; r += kLine / int64_t(sizeof(S))) fetch(i + r);
      for (int r = 0; r < kTogether; ++r) found |= lane_bits(matches(at(i + r * V::size))) << (r * V::size);
      if (found) return V(T(i + __builtin_ctzll(found)));
    }
    for (; i < n; i += V::size)
      if (const uint64_t found = lane_bits(matches(i + V::size <= n ? at(i) : tail(i, fill))))
        return V(T(i + __builtin_ctzll(found)));
    return V(0);
  }
};

// The n rows of one register of adjacent results.
template <class T, class Formula, size_t... I>
struct ColumnSource {
  using Value = Vec<T>;
  using V = Value;
  static constexpr bool kLanesTogether = false;
  const T* const* in;
  const int64_t* row_stride;
  int64_t n, column, width;  // width < V::size: a register of which only that many lanes exist
  const Formula& f;

  FASTGRAD_INLINE int64_t count() const { return n; }
  FASTGRAD_INLINE V at(int64_t row) const {
    if (width == V::size) return f(V::load(in[I] + row * row_stride[I] + column)...);
    return f(V::load(in[I] + row * row_stride[I] + column, width, T(1))...);
  }
  template <int N, class Map, class Op>
  FASTGRAD_INLINE math::Tuple<V, N> reduce(V init, V, Map map, Op op) const {
    constexpr int kAccumulators = 4;
    V sum[kAccumulators][N];
    for (auto& x : sum)
      for (V& y : x) y = init;
    const auto add = [&](int way, int64_t row) {
      const math::Tuple<V, N> x = map(at(row));
      for (int k = 0; k < N; ++k) sum[way][k] = op(sum[way][k], x.item[k]);
    };
    int64_t i = 0;
    if (kVecBytes == 64 && n == kColumnRows) {
#pragma GCC unroll kColumnRows
      for (int row = 0; row < kColumnRows; ++row) add(row % kAccumulators, row);
      i = n;
    }
    for (; i + kAccumulators <= n; i += kAccumulators)
      for (int way = 0; way < kAccumulators; ++way) add(way, i + way);
    // One by one: of a loop over the rest the sums would lie in memory, in the loop before it, too.
    if (i < n) add(0, i);
    if (i + 1 < n) add(1, i + 1);
    if (i + 2 < n) add(2, i + 2);
    math::Tuple<V, N> result;
    for (int k = 0; k < N; ++k) result.item[k] = op(op(sum[0][k], sum[1][k]), op(sum[2][k], sum[3][k]));
    return result;
  }
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
