// The elementwise engine: map<Inputs, Formula>(args) on the CPU.
//
// Layout: as in a packed GEMM, the formula only ever sees contiguous blocks in its compute type: map_block, the one
// part instantiated per formula. The driver (map.cpp, compiled once per ISA) cuts the work in blocks; an operand that
// is strided, broadcast, immediate or of another dtype is gathered into a block in L1 first, and scattered after. So a
// formula costs one small loop per compute type, however many dtypes and layouts exist; and one for operands that are
// all bfloat16, which it widens and narrows in registers.
// Numerics: every element goes through the same register arithmetic, tails included.
// Parallel: elements are independent; any cut of the index range gives the same bits.
#pragma once
#include <type_traits>
#include <utility>

#include "convert.h"
#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// operand[0..outputs) are the outputs, the rest inputs; n contiguous elements each. `streamed`: the outputs go past the
// cache (stream.h), and begin where a line does.
using MapBlock = void (*)(void* const* operand, int64_t n, const void* formula, bool streamed);

// `bf16_block`: the one of bfloat16, if there is one.
Status map_driver(const MapArgs& args, MapBlock block, MapBlock bf16_block, const void* formula);

// store(register, where) for each output, whose elements are of type S.
template <class S, class V, class Store>
FASTGRAD_INLINE void for_outputs(void* const* operand, int64_t i, V r, Store store) {
  store(r, static_cast<S*>(operand[0]) + i);
}
template <class S, class V, int N, class Store>
FASTGRAD_INLINE void for_outputs(void* const* operand, int64_t i, math::Tuple<V, N> r, Store store) {
  for (int k = 0; k < N; ++k) store(r.item[k], static_cast<S*>(operand[k]) + i);
}
template <class R>
inline constexpr int output_count = 1;
template <class V, int N>
inline constexpr int output_count<math::Tuple<V, N>> = N;

// Bytes that a loop which streams its registers fetches ahead. Not with AVX-512, of which it gained nothing.
template <class Formula>
constexpr int64_t kStreamAhead = math::kBoundByMemory<Formula> ? 1024 : 2048;
constexpr bool kStreamFetches = kVecBytes < 64;

template <class T, class S, class Formula, size_t... I>
void map_block(void* const* operand, int64_t n, const void* formula, bool streamed) {
  using V = Vec<T>;
  const Formula f = *static_cast<const Formula*>(formula);
  constexpr int outputs = output_count<decltype(f(((void)I, V())...))>;
  const S* in[] = {static_cast<const S*>(operand[I + outputs])...};
  void* out[outputs];  // a copy, or the compiler reads the addresses again after every store
  for (int k = 0; k < outputs; ++k) out[k] = operand[k];
  const bool in_place = ((out[0] == in[I]) || ...);
  int64_t i = 0;
  const auto registers = [&](auto halves, auto streams) __attribute__((always_inline)) {
    constexpr int64_t ahead = decltype(streams)::value && kStreamFetches ? kStreamAhead<Formula> : 0;
    const auto at = [&](int64_t e)
                        __attribute__((always_inline)) { return f(load_as<decltype(halves)::value, T>(in[I] + e)...); };
    const auto put = [&](int64_t e, auto r) __attribute__((always_inline)) {
      for_outputs<S>(out, e, r, [](auto v, S* to) { decltype(streams)::value ? stream_as(v, to) : store_as(v, to); });
    };
    // In place several registers are read before one is stored.
    if constexpr (math::kBoundByMemory<Formula> && !decltype(streams)::value)
      for (constexpr int kWays = 4; in_place && i + kWays * V::size <= n; i += kWays * V::size) {
        decltype(at(0)) r[kWays];
#pragma GCC unroll 4
        for (int way = 0; way < kWays; ++way) r[way] = at(i + way * V::size);
#pragma GCC unroll 4
        for (int way = 0; way < kWays; ++way) put(i + way * V::size, r[way]);
      }
    for (; i + V::size <= n; i += V::size) {
      if constexpr (ahead > 0) (__builtin_prefetch(reinterpret_cast<const char*>(in[I] + i) + ahead), ...);
      put(i, at(i));
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
  if (i < n)
    for_outputs<S>(out, i, f(load_as<T>(in[I] + i, n - i, T(1))...), [&](auto v, S* to) { store_as(v, to, n - i); });
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
