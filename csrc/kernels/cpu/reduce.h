// The reduce engine: reduce<Reducer, Formula, Inputs>(args) on the CPU.
//
// Layout: only contiguous blocks in the compute type reach the code instantiated here. Two kinds: a run (elements of
// one result, a few thousand at most, in L1) and columns (rows of adjacent results, vectorized across the results, a
// few rows at a time). The driver (reduce.cpp, compiled once per ISA) chooses the kind, gathers what is strided or of
// another dtype, and cuts the work; so "full", "inner" and "outer" reductions are its business alone. Numerics: a block
// is reduced in the compute type with several accumulators; blocks are merged in double (int64 for integers), see
// math/reductions.h. Parallel: the index space is cut in pieces that depend on the shape only, and their results are
// merged in order.
#pragma once
#include "../math/reductions.h"
#include "map.h"
#include "transpose.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

template <class T>
using wide_t = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

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

// What the driver calls. A result is `fields` wide numbers, field f of result j at state[f * pitch + j].
// `before` elements are in the result already (0: it is not set yet), `first` is the index of the block's first one.
template <class T>
struct ReduceBlocks {
  using W = wide_t<T>;
  int fields, outputs;
  bool ordered;       // whether elements must come in ascending order
  bool gradient;      // whether a run has one
  int64_t short_row;  // elements of a result below which these are columns, however they lie
  // Of `results` adjacent results, each n elements, step[k] elements on in input k. If `apart` is not 0, the elements
  // are four equal parts, whole registers, so many elements from one to the next. `ahead` elements behind each input
  // lies what is wanted next; 0: nothing. Of several results it is the beginning (before = 0). The result is the same
  // with a gradient and without (null).
  void (*run)(const T* const* in, const int64_t* step, int64_t results, int64_t n, int64_t apart, int64_t ahead,
              const void* formula, const RunGradient<T>* gradient, W* state, int64_t pitch, int64_t before,
              int64_t first);
  // Element (row, column) of input k is in[k][row * row_stride[k] + column]. Reads whole registers if `padded`.
  void (*columns)(const T* const* in, const int64_t* row_stride, int64_t rows, int64_t columns, bool padded,
                  const void* formula, W* state, int64_t pitch, int64_t before, int64_t first);
  void (*merge)(W* state, const W* other, int64_t pitch, int64_t columns, int64_t count, int64_t other_count);
  void (*finish)(W* state, int64_t pitch, int64_t columns, int64_t count, const Number* parameter);
};

template <class T>
Status reduce_driver(const ReduceArgs& args, const ReduceBlocks<T>& blocks, const void* formula,
                     const void* gradient_formula);

template <class W, int N>
FASTGRAD_INLINE math::Tuple<Vec<W>, N> load_fields(const W* state, int64_t pitch) {
  math::Tuple<Vec<W>, N> r;
  for (int f = 0; f < N; ++f) r.item[f] = Vec<W>::load(state + f * pitch);
  return r;
}
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
template <class V, int N>
FASTGRAD_INLINE void store_fields(math::Tuple<V, N> x, math::scalar_t<V>* state, int64_t pitch) {
  for (int f = 0; f < N; ++f) {
    if constexpr (std::is_arithmetic_v<V>)
      state[f * pitch] = x.item[f];
    else
      x.item[f].store(state + f * pitch);
  }
}

// What RunSource does with the elements besides: nothing, or the gradient's formula, which shares with the loss what
// the compiler finds in both (a load, an exponential).
struct NoGradient {
  template <class... V>
  FASTGRAD_INLINE void operator()(int, int64_t, int64_t, V...) const {}
};
template <class T, class Formula, bool Streamed>
struct GradientOf {
  const Formula f;
  const Vec<T> incoming;
  T* const to;
  const int64_t apart;
  explicit GradientOf(const RunGradient<T>& g)
      : f(*static_cast<const Formula*>(g.formula)), incoming(g.incoming), to(g.to), apart(g.apart) {}
  template <class V>
  FASTGRAD_INLINE void operator()(int part, int64_t i, int64_t width, V x, auto... others) const {
    const V r = f(incoming, x, others...);
    T* const at = to + part * apart + i;
    if (width < V::size)
      r.store(at, width);
    else if (Streamed)
      r.stream(at);
    else
      r.store(at);
  }
};

struct Identity {
  template <class V>
  FASTGRAD_INLINE V operator()(V x) const {
    return x;
  }
};

constexpr int kFewRegisters = 8;
// Rows of columns reduced before the results are touched. Unrolled: what a load reads goes on along one row, as the
// hardware foresees.
constexpr int kColumnRows = 16;

// The elements of one result: the lanes hold different ones, and are combined at the end if they are `Combined`.
template <bool Combined, class Gradient, class T, class Formula, size_t... I>
struct RunSource {
  using Value = Vec<T>;
  using V = Value;
  static constexpr bool kLanesTogether = true;
  const T* const* in;
  int64_t n, apart, ahead;
  const Formula& f;
  const Gradient& gradient;

  FASTGRAD_INLINE int64_t count() const { return n; }
  FASTGRAD_INLINE V value(int part, int64_t i, int64_t width, auto... x) const {
    gradient(part, i, width, x...);
    return f(x...);
  }
  FASTGRAD_INLINE V at(int64_t i) const { return value(0, i, V::size, V::load(in[I] + i)...); }
  FASTGRAD_INLINE V at(int part, int64_t distance, int64_t i) const {
    return value(part, i, V::size, V::load(in[I] + part * distance + i)...);
  }
  FASTGRAD_INLINE void fetch(int64_t i) const { (__builtin_prefetch(in[I] + i + ahead, 0, 2), ...); }
  FASTGRAD_INLINE V tail(int64_t i, V fill) const {
    return select(V::iota() < V(T(n - i)), value(0, i, n - i, V::load(in[I] + i, n - i, T(1))...), fill);
  }

  template <int N, class Map, class Op>
  FASTGRAD_INLINE math::Tuple<V, N> reduce(V init, V fill, Map map, Op op) const {
    // Several accumulators hide the latency. Emptying them every few steps keeps the chains of roundings short.
    constexpr int kAccumulators = 4, kSteps = V::size > 8 ? 8 : 16;
    // Arithmetic keeps the loads waiting, so memory would idle; a bare sum or maximum does not.
    constexpr bool kFetches = !std::is_same_v<Formula, Identity> || !std::is_same_v<Map, math::Itself>;
    V total[N], sum[kAccumulators][N];
    const auto clear = [&] {
      for (auto& a : sum)
        for (V& x : a) x = init;
    };
    const auto add = [&](int a, V x) {
      const math::Tuple<V, N> y = map(x);
      for (int k = 0; k < N; ++k) sum[a][k] = op(sum[a][k], y.item[k]);
    };
    const auto empty = [&] {
      for (int k = 0; k < N; ++k) total[k] = op(total[k], op(op(sum[0][k], sum[1][k]), op(sum[2][k], sum[3][k])));
      clear();
    };
    for (V& x : total) x = init;
    if (n < kFewRegisters * V::size) {  // one accumulator will do
      const auto add_to_total = [&](V x) {
        const math::Tuple<V, N> y = map(x);
        for (int k = 0; k < N; ++k) total[k] = op(total[k], y.item[k]);
      };
      int64_t i = 0;
      for (; i + V::size <= n; i += V::size) add_to_total(at(i));
      if (i < n) add_to_total(tail(i, fill));
      return together(total, op);
    }
    clear();
    const int64_t even = n / (kAccumulators * V::size) * V::size;  // of each accumulator
    const int64_t part = apart ? apart : int64_t(V::size), stride = apart ? V::size : kAccumulators * V::size;
    const int64_t end = apart ? even : kAccumulators * even;
    for (int64_t i = 0; i < end;) {
      const int64_t stop = i + kSteps * stride < end ? i + kSteps * stride : end;
      for (; i < stop; i += stride) {
        if (kFetches && ahead)
          for (int a = 0; a < kAccumulators; ++a) fetch(a * part + i);
        for (int a = 0; a < kAccumulators; ++a) add(a, at(a, part, i));
      }
      empty();
    }
    if (apart) return together(total, op);
    int64_t i = kAccumulators * even;
    for (; i + V::size <= n; i += V::size) add(0, at(i));
    if (i < n) add(1, tail(i, fill));
    empty();
    return together(total, op);
  }
  template <int N, class Op>
  static FASTGRAD_INLINE math::Tuple<V, N> together(const V (&total)[N], Op op) {
    math::Tuple<V, N> result;
    for (int k = 0; k < N; ++k) result.item[k] = Combined ? V(reduce_lanes(total[k], op)) : total[k];
    return result;
  }

  // The index of the first element for which `matches` holds; there is one.
  template <class Matches>
  FASTGRAD_INLINE V find(V fill, Matches matches) const {
    for (int64_t i = 0; i < n; i += V::size) {
      const auto mask = matches(i + V::size <= n ? at(i) : tail(i, fill));
      if (!any(mask)) continue;
      for (int lane = 0; lane < V::size; ++lane)
        if (mask[lane]) return V(T(i + lane));
    }
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
    if (n == kColumnRows) {
#pragma GCC unroll kColumnRows
      for (int row = 0; row < kColumnRows; ++row) add(row % kAccumulators, row);
      i = n;
    }
    for (; i + kAccumulators <= n; i += kAccumulators)
      for (int way = 0; way < kAccumulators; ++way) add(way, i + way);
    for (int way = 0; i < n; ++i, ++way) add(way, i);
    math::Tuple<V, N> result;
    for (int k = 0; k < N; ++k) result.item[k] = op(op(sum[0][k], sum[1][k]), op(sum[2][k], sum[3][k]));
    return result;
  }
};

// Of a fold the lanes of as many results as a register has are combined at once.
template <class Reducer>
concept Folds = requires { typename Reducer::Operation; };
// Elements of a result from which on that is better than columns.
template <class Reducer, class T>
constexpr int64_t kShortRow = Folds<Reducer> && Vec<T>::size > 4 ? Vec<T>::size : 64;

template <class T, class Reducer, class Formula, class Gradient, size_t... I>
void reduce_results(const T* const* in, const int64_t* step, int64_t results, int64_t n, int64_t apart, int64_t ahead,
                    const void* formula, const Gradient& gradient, wide_t<T>* state, int64_t pitch, int64_t before,
                    int64_t first) {
  using W = wide_t<T>;
  using V = Vec<T>;
  const Formula f = *static_cast<const Formula*>(formula);
  int64_t j = 0;
  if constexpr (Folds<Reducer>)
    for (; n < kFewRegisters * V::size && j + V::size <= results; j += V::size) {
      V row[V::size];
      for (int r = 0; r < V::size; ++r) {
        const T* const at[] = {in[I] + (j + r) * step[I]...};
        row[r] = Reducer::block(RunSource<false, Gradient, T, Formula, I...>{at, n, apart, ahead, f, gradient}).item[0];
      }
      const V folded = reduce_each<V::size / 2>(row, typename Reducer::Operation());
      for (int h = 0; h < V::size; h += Vec<W>::size) widen_lanes<W>(folded, h).store(state + j + h);
    }
  for (; j < results; ++j) {
    const T* const at[] = {in[I] + j * step[I]...};
    const auto block = Reducer::block(RunSource<true, Gradient, T, Formula, I...>{at, n, apart, ahead, f, gradient});
    math::Tuple<W, Reducer::partials> partial;
    for (int k = 0; k < Reducer::partials; ++k) partial.item[k] = W(block.item[k].v[0]);
    auto result = Reducer::widen(partial, double(n), first);
    if (before > 0) {
      decltype(result) old;
      for (int k = 0; k < Reducer::fields; ++k) old.item[k] = state[k * pitch + j];
      result = Reducer::merge(old, result, double(before), double(n));
    }
    store_fields(result, state + j, pitch);
  }
}
template <class T, class Reducer, class Formula, class Gradient, size_t... I>
void reduce_run(const T* const* in, const int64_t* step, int64_t results, int64_t n, int64_t apart, int64_t ahead,
                const void* formula, const RunGradient<T>* gradient, wide_t<T>* state, int64_t pitch, int64_t before,
                int64_t first) {
  const auto run = [&](const auto& g) __attribute__((always_inline)) {
    reduce_results<T, Reducer, Formula, std::remove_cvref_t<decltype(g)>, I...>(
        in, step, results, n, apart, ahead, formula, g, state, pitch, before, first);
  };
  if constexpr (!std::is_same_v<Gradient, NoGradient>) {
    if (gradient && gradient->streamed) return run(GradientOf<T, Gradient, true>(*gradient));
    if (gradient) return run(GradientOf<T, Gradient, false>(*gradient));
  }
  run(NoGradient());
}

template <class T, class Reducer, class Formula, size_t... I>
void reduce_columns(const T* const* in, const int64_t* row_stride, int64_t rows, int64_t columns, bool padded,
                    const void* formula, wide_t<T>* state, int64_t pitch, int64_t before, int64_t first) {
  using V = Vec<T>;
  using W = wide_t<T>;
  const Formula f = *static_cast<const Formula*>(formula);
  const auto one = [&](int64_t c, int64_t width) __attribute__((always_inline)) {
    const auto block = Reducer::block(ColumnSource<T, Formula, I...>{in, row_stride, rows, c, width, f});
    for (int h = 0; h < V::size; h += Vec<W>::size) {
      math::Tuple<Vec<W>, Reducer::partials> partial;
      for (int k = 0; k < Reducer::partials; ++k) partial.item[k] = widen_lanes<W>(block.item[k], h);
      auto result = Reducer::widen(partial, double(rows), first);
      W* const s = state + c + h;
      if (before > 0)
        result = Reducer::merge(load_fields<W, Reducer::fields>(s, pitch), result, double(before), double(rows));
      store_fields(result, s, pitch);
    }
  };
  int64_t c = 0;
  for (; c + V::size <= columns; c += V::size) one(c, V::size);
  if (c < columns) one(c, padded ? V::size : columns - c);
}

template <class W, class Reducer>
void merge_results(W* state, const W* other, int64_t pitch, int64_t columns, int64_t count, int64_t other_count) {
  for (int64_t c = 0; c < columns; c += Vec<W>::size)
    store_fields(Reducer::merge(load_fields<W, Reducer::fields>(state + c, pitch),
                                load_fields<W, Reducer::fields>(other + c, pitch), double(count), double(other_count)),
                 state + c, pitch);
}
template <class W, class Reducer>
void finish_results(W* state, int64_t pitch, int64_t columns, int64_t count, const Number* parameter) {
  for (int64_t c = 0; c < columns; c += Vec<W>::size)
    store_fields(Reducer::finish(load_fields<W, Reducer::fields>(state + c, pitch), double(count), parameter),
                 state + c, pitch);
}

template <class T, class Reducer, class Formula, class Gradient, size_t... I>
Status reduce_typed(const ReduceArgs& args) {
  using W = wide_t<T>;
  static constexpr ReduceBlocks<T> blocks = {Reducer::fields,
                                             Reducer::outputs,
                                             Reducer::ordered,
                                             !std::is_same_v<Gradient, NoGradient>,
                                             kShortRow<Reducer, T>,
                                             &reduce_run<T, Reducer, Formula, Gradient, I...>,
                                             &reduce_columns<T, Reducer, Formula, I...>,
                                             &merge_results<W, Reducer>,
                                             &finish_results<W, Reducer>};
  const Formula f = make_formula<Formula>(args.parameter);
  const Gradient g = make_formula<Gradient>(args.gradient.parameter);
  return reduce_driver<T>(args, blocks, &f, &g);
}
template <bool Floats, bool Integers, class Reducer, class Formula, class Gradient, size_t... I>
Status reduce_indexed(const ReduceArgs& args, std::index_sequence<I...>) {
  if constexpr (Floats) {
    if (args.compute == Dtype::f32) return reduce_typed<float, Reducer, Formula, Gradient, I...>(args);
    if (args.compute == Dtype::f64) return reduce_typed<double, Reducer, Formula, Gradient, I...>(args);
  }
  if constexpr (Integers) {
    if (args.compute == Dtype::i32) return reduce_typed<int32_t, Reducer, Formula, Gradient, I...>(args);
    if (args.compute == Dtype::i64) return reduce_typed<int64_t, Reducer, Formula, Gradient, I...>(args);
  }
  return kUnsupported;
}

template <class Reducer, class Formula = Identity, int Inputs = 1, class Gradient = NoGradient>
Status reduce(const ReduceArgs& args) {
  return reduce_indexed<true, false, Reducer, Formula, Gradient>(args, std::make_index_sequence<Inputs>());
}
template <class Reducer, class Formula = Identity, int Inputs = 1>
Status reduce_with_integers(const ReduceArgs& args) {
  return reduce_indexed<true, true, Reducer, Formula, NoGradient>(args, std::make_index_sequence<Inputs>());
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
