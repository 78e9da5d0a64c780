// The elementwise engine: map<Inputs, Formula>(args) on the CPU.
//
// Layout: as in a packed GEMM, the formula only ever sees contiguous blocks in its compute type: map_block, the one
// part instantiated per formula. The driver (map.cpp, compiled once per ISA) cuts the work in blocks; an operand that
// is strided, broadcast, immediate or of another dtype is gathered into a block in L1 first, and scattered after. So a
// formula costs one small loop per compute type, however many dtypes and layouts exist; and one for operands that are
// all bfloat16, which it widens and narrows in registers. What is one number along a run is a register in L1.
// Numerics: every element goes through the same register arithmetic, tails included.
// Parallel: elements are independent; any cut of the index range gives the same bits.
#pragma once
#include <algorithm>
#include <type_traits>
#include <utility>

#include "convert.h"
#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Runs that a formula's loop goes along. operand[0..outputs) are the outputs, the rest inputs: n contiguous elements
// each, `stride` bytes after those of the run before; but one number a run of an input k in the set `held` (1 << k).
// `streamed`: the outputs go past the cache (stream.h), and each of their runs begins where a line does.
struct MapRuns {
  void* operand[kMaxOperands];
  int64_t stride[kMaxOperands];
  unsigned held;
  bool streamed;
  int64_t n, runs;
};
using MapBlock = void (*)(const MapRuns& runs, const void* formula);

// `bf16_block`: the one of bfloat16, if there is one.
Status map_driver(const MapArgs& args, MapBlock block, MapBlock bf16_block, const void* formula);

// store(register, where) for each output, whose elements are of type S.
template <class S, class V, class Store>
FASTGRAD_INLINE void for_outputs(S* const* out, int64_t i, V r, Store store) {
  store(r, out[0] + i);
}
template <class S, class V, int N, class Store>
FASTGRAD_INLINE void for_outputs(S* const* out, int64_t i, math::Tuple<V, N> r, Store store) {
  for (int k = 0; k < N; ++k) store(r.item[k], out[k] + i);
}
template <class R>
inline constexpr int output_count = 1;
template <class V, int N>
inline constexpr int output_count<math::Tuple<V, N>> = N;

// Bytes that a loop which streams its registers fetches ahead. Not with AVX-512, of which it gained nothing.
template <class Formula>
constexpr int64_t kStreamAhead = math::kBoundByMemory<Formula> ? 1024 : 2048;
constexpr bool kStreamFetches = kVecBytes < 64;

// One run of n elements. An input is `step` elements further after each register: its size, or 0 where the register is
// the same all along.
template <class T, class S, class Formula, size_t... I>
FASTGRAD_INLINE void map_run(S* const* to, const S* const* from, const int64_t* steps, int64_t n,
                             const Formula& formula, bool streamed) {
  using V = Vec<T>;
  const Formula f = formula;
  using Result = decltype(f(((void)I, V())...));
  const S* in[] = {from[I]...};
  const int64_t step[] = {steps[I]...};
  S* out[output_count<Result>];  // a copy, or the compiler reads the addresses again after every store
  for (int k = 0; k < output_count<Result>; ++k) out[k] = to[k];
  const bool in_place = ((out[0] == in[I]) || ...);
  int64_t i = 0;
  const auto registers = [&](auto halves, auto streams) __attribute__((always_inline)) {
    constexpr int64_t ahead = decltype(streams)::value && kStreamFetches ? kStreamAhead<Formula> : 0;
    const auto next = [&]() __attribute__((always_inline)) {
      const Result r = f(load_as<decltype(halves)::value, T>(in[I])...);
      ((in[I] += step[I]), ...);
      return r;
    };
    const auto put = [&](int64_t e, auto r) __attribute__((always_inline)) {
      for_outputs<S>(out, e, r, [](auto v, S* p) { decltype(streams)::value ? stream_as(v, p) : store_as(v, p); });
    };
    if constexpr (math::kBoundByMemory<Formula> && !decltype(streams)::value) {
      if (in_place)  // four are read before one is stored
        for (const int64_t last = n - 4 * V::size; i <= last; i += 4 * V::size) {
          const Result r[] = {next(), next(), next(), next()};
#pragma GCC unroll 4
          for (int k = 0; k < 4; ++k) put(i + k * V::size, r[k]);
        }
      else
        for (const int64_t last = n - 2 * V::size; i <= last; i += 2 * V::size)
          put(i, next()), put(i + V::size, next());
    }
    for (const int64_t last = n - V::size; i <= last; i += V::size) {
      if constexpr (ahead > 0) (__builtin_prefetch(reinterpret_cast<const char*>(in[I]) + ahead), ...);
      put(i, next());
    }
  };
  const auto loop = [&](auto halves) __attribute__((always_inline)) {
    streamed ? registers(halves, std::true_type()) : registers(halves, std::false_type());
  };
  constexpr bool may = kMayLoadHalves<T, S, Formula>;
  if (may && halves_are_fast())
    loop(std::bool_constant<may>());
  else
    loop(std::false_type());
  // The lanes past the end hold 1, which no formula traps on.
  if (i < n) for_outputs<S>(out, i, f(load_as<T>(in[I], n - i, T(1))...), [&](auto v, S* p) { store_as(v, p, n - i); });
}

// The same as a function of its own, in which the constants of a longer formula stay in registers.
template <class T, class S, class Formula, size_t... I>
[[gnu::noinline]] void map_run_apart(S* const* to, const S* const* from, const int64_t* steps, int64_t n,
                                     const Formula& formula, bool streamed) {
  map_run<T, S, Formula, I...>(to, from, steps, n, formula, streamed);
}

template <class T, class S, class Formula, size_t... I>
void map_block(const MapRuns& m, const void* formula) {
  using V = Vec<T>;
  const Formula& f = *static_cast<const Formula*>(formula);
  constexpr int inputs = sizeof...(I), outputs = output_count<decltype(f(((void)I, V())...))>;
  const int64_t step[] = {(m.held >> (I + outputs) & 1 ? 0 : V::size)...};
  alignas(kVecBytes) S number[inputs][V::size];
  for (int64_t run = 0; run < m.runs; ++run) {
    const auto place = [&](int k) __attribute__((always_inline)) {
      return reinterpret_cast<S*>(static_cast<char*>(m.operand[k]) + run * m.stride[k]);
    };
    const auto input = [&](int k) __attribute__((always_inline)) {
      S* const from = place(outputs + k);
      return step[k] == 0 ? std::fill_n(number[k], V::size, *from) - V::size : from;
    };
    const S* in[] = {input(I)...};
    S* out[outputs];
    for (int k = 0; k < outputs; ++k) out[k] = place(k);
    if constexpr (math::kBoundByMemory<Formula>)
      map_run<T, S, Formula, I...>(out, in, step, m.n, f, m.streamed);
    else
      map_run_apart<T, S, Formula, I...>(out, in, step, m.n, f, m.streamed);
  }
}

template <class Formula>
FASTGRAD_INLINE Formula make_formula(const Number* parameter) {
  if constexpr (std::is_constructible_v<Formula, const Number*>)
    return Formula(parameter);
  else
    return Formula{};
}

template <bool Integers, class Formula, size_t... I>
Status map_indexed(const MapArgs& args, std::index_sequence<I...>) {
  const Formula f = make_formula<Formula>(args.parameter);
  const auto run = [&]<class T>(T) { return map_driver(args, &map_block<T, T, Formula, I...>, nullptr, &f); };
  if (args.compute == Dtype::f32)
    return map_driver(args, &map_block<float, float, Formula, I...>, &map_block<float, bf16, Formula, I...>, &f);
  if (args.compute == Dtype::f64) return run(double());
  if constexpr (Integers) {
    if (args.compute == Dtype::i64) return run(int64_t());
    if (args.compute == Dtype::i32) return run(int32_t());
    if (args.compute == Dtype::i16) return run(int16_t());
    if (args.compute == Dtype::i8) return run(int8_t());
    if (args.compute == Dtype::u8) return run(uint8_t());
  }
  return kUnsupported;
}

template <int Inputs, class Formula>
Status map(const MapArgs& args) {
  return map_indexed<false, Formula>(args, std::make_index_sequence<Inputs>());
}
template <int Inputs, class Formula>
Status map_with_integers(const MapArgs& args) {
  return map_indexed<true, Formula>(args, std::make_index_sequence<Inputs>());
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
