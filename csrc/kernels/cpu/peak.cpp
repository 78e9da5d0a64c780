// The most multiply-adds a second that this ISA allows: chains in registers, as a tile of a matrix product has.
//
// Formula: acc = acc * x + y, with x and y hidden from the compiler. bfloat16: pairs of products summed in float32
// (vdpbf16ps) where the CPU has the instruction, else the float32 arithmetic that the kernels do.
//
// Parallel scheme: every thread runs its share of the chains' steps.
#include "../peak.h"

#include <algorithm>

#include "parallel.h"
#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int kChains = 12;  // more than latency times throughput of any of these CPUs; fits SSE2's 16 registers
constexpr int64_t kMostPieces = 240, kPieceSteps = 2000;  // a piece's start must not count

template <class F>
double shared(double count, int64_t per_step, const F& run) {
  const int64_t pieces = std::clamp<int64_t>(int64_t(count / per_step) / kPieceSteps, 2, kMostPieces);
  const int64_t steps = int64_t(count / pieces / per_step) + 1;
  parallel_for(0, pieces, 1, [&](int64_t b, int64_t e) { run(steps * (e - b)); });
  return double(steps) * pieces * per_step;
}

template <class T>
__attribute__((noinline)) void chains(int64_t steps) {
  volatile T one = 1, zero = 0;
  const Vec<T> x(T{one}), y(T{zero});
  Vec<T> acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = Vec<T>(T(i));
  for (int64_t s = 0; s < steps; ++s)
    for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], x, y);
  Vec<T> sum = acc[0];
  for (int i = 1; i < kChains; ++i) sum = sum + acc[i];
  alignas(kVecBytes) T lanes[Vec<T>::size];
  sum.store(lanes);
  volatile T used = lanes[0];
  (void)used;
}

#if defined(__AVX512F__)
__attribute__((noinline, target("avx512bf16"))) void bf16_chains(int64_t steps) {
  volatile int zero = 0;
  const __m512bh x = (__m512bh)_mm512_set1_epi32(zero), y = x;
  __m512 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(float(i));
  for (int64_t s = 0; s < steps; ++s)
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], x, y);
  __m512 sum = acc[0];
  for (int i = 1; i < kChains; ++i) sum = _mm512_add_ps(sum, acc[i]);
  volatile float used = sum[0];
  (void)used;
}
#endif

}  // namespace

FASTGRAD_PEAK {
#if defined(__AVX512F__)
  if (dtype == Dtype::bf16 && __builtin_cpu_supports("avx512bf16")) return shared(count, kChains * 32, bf16_chains);
#endif
  if (dtype == Dtype::f64) return shared(count, kChains * Vec<double>::size, chains<double>);
  return shared(count, kChains * Vec<float>::size, chains<float>);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
