// The reduce engine: reduce<Reducer, Formula, Inputs>(args) on the CPU.
//
// Layout: only contiguous blocks in the compute type reach the code instantiated here, or of 16-bit floats, which are
// widened in registers. Two kinds: a run (elements of one result, a few thousand at most, in L1) and columns (rows of
// adjacent results, vectorized across the results, a few rows at a time); reducers see them as sources
// (reduce_sources.h). The driver (reduce.cpp, compiled once per ISA) chooses the kind, gathers what is strided or of
// another dtype, and cuts the work (reduce_plan.h); so "full", "inner" and "outer" reductions are its business alone.
// Numerics: a block is reduced in the compute type with several accumulators; blocks are merged in double (int64 for
// integers), see math/reductions.h. A long run that is folded is one block, whose accumulators go to lanes of double.
// Parallel: the index space is cut in pieces that depend on the shape only, and their results are merged in order.
#pragma once
#include "map.h"
#include "reduce_sources.h"
#include "transpose.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// What the driver calls. A result is `fields` wide numbers, field f of result j at state[f * pitch + j].
// `before` elements are in the result already (0: it is not set yet), `first` is the index of the block's first one.
template <class T>
struct ReduceBlocks {
  using W = wide_t<T>;
  int fields, outputs;
  bool ordered;       // whether elements must come in ascending order
  bool gradient;      // whether a run has one
  bool folds;         // whether a run in place may be of any length
  int64_t short_row;  // elements of a result below which these are columns, however they lie
  // Of `results` adjacent results, each n elements, step[k] elements on in input k. If `apart` is not 0, the elements
  // are four equal parts, whole registers, so many elements from one to the next. `ahead` elements behind each input
  // lies what is wanted next; 0: nothing. Of several results it is the beginning (before = 0). The result is the same
  // with a gradient and without (null). The inputs are T; those of run_bf16 and run_f16, which may be null, are widened
  // in registers.
  using Run = void (*)(const void* const* in, const int64_t* step, int64_t results, int64_t n, int64_t apart,
                       int64_t ahead, const void* formula, const RunGradient<T>* gradient, W* state, int64_t pitch,
                       int64_t before, int64_t first);
  Run run, run_bf16, run_f16;
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
template <class V, int N>
FASTGRAD_INLINE void store_fields(math::Tuple<V, N> x, math::scalar_t<V>* state, int64_t pitch) {
  for (int f = 0; f < N; ++f) {
    if constexpr (std::is_arithmetic_v<V>)
      state[f * pitch] = x.item[f];
    else
      x.item[f].store(state + f * pitch);
  }
}

// Of a fold the lanes of as many results as a register has are combined at once.
template <class Reducer>
concept Folds = requires { typename Reducer::Operation; };
// Elements of a result from which on that is better than columns.
template <class Reducer, class T>
constexpr int64_t kShortRow = Folds<Reducer> && Vec<T>::size > 4 ? Vec<T>::size : 64;

// Whether runs in place may be longer than a block.
template <class Reducer, class Formula>
constexpr bool kMayBeLong = Folds<Reducer> && std::is_same_v<Formula, math::Identity>;

template <class T, class S, class Reducer, class Formula, class Gradient, size_t... I>
void reduce_results(const void* const* in, const int64_t* step, int64_t results, int64_t n, int64_t apart,
                    int64_t ahead, const void* formula, const Gradient& gradient, wide_t<T>* state, int64_t pitch,
                    int64_t before, int64_t first) {
  using W = wide_t<T>;
  using V = Vec<T>;
  const Formula f = *static_cast<const Formula*>(formula);
  int64_t j = 0;
  if constexpr (Folds<Reducer>) {
    const auto fold = [&](auto length) __attribute__((always_inline)) {
      for (; j + V::size <= results; j += V::size) {
        V row[V::size];
#pragma GCC unroll 16
        for (int r = 0; r < V::size; ++r) {
          const S* const at[] = {static_cast<const S*>(in[I]) + (j + r) * step[I]...};
          row[r] = Reducer::block(
                       RunSource<Lanes::apart, S, Gradient, T, Formula, I...>{at, length, apart, ahead, f, gradient})
                       .item[0];
        }
        const V folded = reduce_each<V::size / 2>(row, typename Reducer::Operation());
        for (int h = 0; h < V::size; h += Vec<W>::size) widen_lanes<W>(folded, h).store(state + j + h);
      }
    };
    if (n == V::size)  // a register each, which need not go through memory
      fold(std::integral_constant<int64_t, V::size>());
    else if (n < kFewRegisters * V::size)
      fold(n);
  }
  for (; j < results; ++j) {
    const S* const at[] = {static_cast<const S*>(in[I]) + j * step[I]...};
    math::Tuple<W, Reducer::partials> partial;
    const auto reduce = [&]<Lanes L>(std::integral_constant<Lanes, L>) __attribute__((always_inline)) {
      const auto block = Reducer::block(RunSource<L, S, Gradient, T, Formula, I...>{at, n, apart, ahead, f, gradient});
      for (int k = 0; k < Reducer::partials; ++k) partial.item[k] = W(block.item[k].v[0]);
    };
    constexpr Lanes of_long = kMayBeLong<Reducer, Formula> ? Lanes::widened : Lanes::combined;
    if (of_long != Lanes::combined && n > kRun)
      reduce(std::integral_constant<Lanes, of_long>());
    else
      reduce(std::integral_constant<Lanes, Lanes::combined>());
    auto result = Reducer::widen(partial, double(n), first);
    if (before > 0) {
      decltype(result) old;
      for (int k = 0; k < Reducer::fields; ++k) old.item[k] = state[k * pitch + j];
      result = Reducer::merge(old, result, double(before), double(n));
    }
    store_fields(result, state + j, pitch);
  }
}
template <class T, class S, class Reducer, class Formula, class Gradient, size_t... I>
void reduce_run(const void* const* in, const int64_t* step, int64_t results, int64_t n, int64_t apart, int64_t ahead,
                const void* formula, const RunGradient<T>* gradient, wide_t<T>* state, int64_t pitch, int64_t before,
                int64_t first) {
  const auto run = [&](const auto& g) __attribute__((always_inline)) {
    reduce_results<T, S, Reducer, Formula, std::remove_cvref_t<decltype(g)>, I...>(
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

// For elements themselves; what a formula makes of several inputs is worth a conversion of them in blocks.
template <class T, class S, class Reducer, class Formula, size_t... I>
constexpr typename ReduceBlocks<T>::Run widening_run() {
  if constexpr (std::is_same_v<T, float> && std::is_same_v<Formula, math::Identity>)
    return &reduce_run<T, S, Reducer, Formula, NoGradient, I...>;
  else
    return nullptr;
}
template <class T, class Reducer, class Formula, class Gradient, size_t... I>
Status reduce_typed(const ReduceArgs& args) {
  using W = wide_t<T>;
  static constexpr ReduceBlocks<T> blocks = {Reducer::fields,
                                             Reducer::outputs,
                                             Reducer::ordered,
                                             !std::is_same_v<Gradient, NoGradient>,
                                             kMayBeLong<Reducer, Formula>,
                                             kShortRow<Reducer, T>,
                                             &reduce_run<T, T, Reducer, Formula, Gradient, I...>,
                                             widening_run<T, bf16, Reducer, Formula, I...>(),
                                             widening_run<T, f16, Reducer, Formula, I...>(),
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

template <class Reducer, class Formula = math::Identity, int Inputs = 1, class Gradient = NoGradient>
Status reduce(const ReduceArgs& args) {
  return reduce_indexed<true, false, Reducer, Formula, Gradient>(args, std::make_index_sequence<Inputs>());
}
template <class Reducer, class Formula = math::Identity, int Inputs = 1>
Status reduce_with_integers(const ReduceArgs& args) {
  return reduce_indexed<true, true, Reducer, Formula, NoGradient>(args, std::make_index_sequence<Inputs>());
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
