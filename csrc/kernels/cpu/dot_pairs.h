// sum += a[2l] * b[2l] + a[2l + 1] * b[2l + 1] for every lane l of float32: products of bfloat16, in pairs (vdpbf16ps).
//
// Layout: a lane of an operand is a pair of neighbours along k in one 32-bit word, the earlier one in the low half. A
// matrix product thus takes two steps of k at once, and is otherwise the one of float32.
//
// Numerics, as Intel documents the instruction: products are exact, each is added in float32, that of the high halves
// first; subnormal operands and results are 0. A number without a neighbour is paired with 0, in both operands: 0 in
// one times infinity in the other would be NaN.
#pragma once
#include "simd.h"

// FASTGRAD_EMULATE_DOT_PAIRS, for tests: the same arithmetic on widened values, on any CPU and in any register.
#if defined(__AVX512F__) || defined(FASTGRAD_EMULATE_DOT_PAIRS)
#define FASTGRAD_DOT_PAIRS 1
#endif

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

using Bf16Pair = uint32_t;

// Of an element of an operand: the type of the sums of its products, and how many numbers it is.
template <class E>
using SumOf = std::conditional_t<std::is_same_v<E, Bf16Pair>, float, E>;
template <class E>
constexpr int64_t kNumbers = std::is_same_v<E, Bf16Pair> ? 2 : 1;

#if defined(FASTGRAD_EMULATE_DOT_PAIRS)
FASTGRAD_INLINE Vec<float> flush_subnormal(Vec<float> x) {
  return select(abs(x) < Vec<float>(0x1p-126f), copysign(Vec<float>(0.f), x), x);
}
FASTGRAD_INLINE Vec<float> dot_pairs(Vec<float> sum, Vec<Bf16Pair> a, Vec<Bf16Pair> b) {
  using V = Vec<float>;
  const auto low = [](Vec<Bf16Pair> x) { return flush_subnormal(V(V::Register(x.v << 16))); };
  const auto high = [](Vec<Bf16Pair> x) { return flush_subnormal(V(V::Register(x.v & 0xffff0000u))); };
  sum = flush_subnormal(fma(high(a), high(b), flush_subnormal(sum)));
  return flush_subnormal(fma(low(a), low(b), sum));
}
FASTGRAD_INLINE Vec<float> dot_pairs(Vec<float> sum, const Bf16Pair* a, Vec<Bf16Pair> b) {
  return dot_pairs(sum, Vec<Bf16Pair>(*a), b);
}
inline bool dot_pairs_are_fast() { return true; }
#elif defined(__AVX512F__)
// By its name, as the backend is compiled for CPUs that lack it, too.
FASTGRAD_INLINE Vec<float> dot_pairs(Vec<float> sum, Vec<Bf16Pair> a, Vec<Bf16Pair> b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
  return sum;
}
// One pair in memory, for all lanes.
FASTGRAD_INLINE Vec<float> dot_pairs(Vec<float> sum, const Bf16Pair* a, Vec<Bf16Pair> b) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum.v) : "v"(b.v), "m"(*a));
  return sum;
}
// On a Zen 4 it takes the time of a multiply-add of float32, and so does twice as many products a second. On a Xeon
// with AMX it took four times that, which is half as many as widening allows (the limits in benchmarks/results).
inline bool dot_pairs_are_fast() { return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd"); }
#endif

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
