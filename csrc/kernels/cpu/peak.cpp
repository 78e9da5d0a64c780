// The most multiply-adds a second that this ISA allows: chains in registers, as a tile of a matrix product has. And a
// copy, for what is bound by memory.
//
// Formula: acc = acc * x + y, with x and y hidden from the compiler. bfloat16: pairs of products summed in float32
// where that is what the matrix product does (dot_pairs.h), else float32 arithmetic, which is what it does then.
//
// Parallel scheme: every thread runs its share of the chains' steps, or of the bytes.
#include "../peak.h"

#include <algorithm>

#include "dot_pairs.h"
#include "parallel.h"
#include "stream.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

FASTGRAD_PEAK;

namespace {

constexpr int kChains = 12;  // more than latency times throughput of any of these CPUs; fits SSE2's 16 registers
constexpr int64_t kMostPieces = 240, kPieceSteps = 2000;  // a piece's start must not count
constexpr int64_t kCopied = 4096;                         // bytes at a time; the next are fetched meanwhile
constexpr int64_t kCopyGrain = 32;                        // times kCopied

template <class F>
double shared(double count, int64_t per_step, const F& run) {
  const int64_t pieces = std::clamp<int64_t>(int64_t(count / per_step) / kPieceSteps, 2, kMostPieces);
  const int64_t steps = int64_t(count / pieces / per_step) + 1;
  parallel_for(0, pieces, 1, [&](int64_t b, int64_t e) { run(steps * (e - b)); });
  return double(steps) * pieces * per_step;
}

template <class E>
__attribute__((noinline)) void chains(int64_t steps) {
  using T = SumOf<E>;
  volatile E one = 1, zero = 0;
  const Vec<E> x(E{one}), y(E{zero});
  Vec<T> acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = Vec<T>(T(i));
  for (int64_t s = 0; s < steps; ++s)
    for (int i = 0; i < kChains; ++i) {
      if constexpr (kNumbers<E> == 2)
        acc[i] = dot_pairs(acc[i], x, y);
      else
        acc[i] = fma(acc[i], x, y);
    }
  Vec<T> sum = acc[0];
  for (int i = 1; i < kChains; ++i) sum = sum + acc[i];
  alignas(kVecBytes) T lanes[Vec<T>::size];
  sum.store(lanes);
  volatile T used = lanes[0];
  (void)used;
}

template <class E>
double run_chains(double count) {
  return shared(count, kChains * Vec<E>::size * kNumbers<E>, chains<E>);
}

}  // namespace

double multiply_adds(Dtype dtype, double count) {
#if FASTGRAD_DOT_PAIRS
  if (dtype == Dtype::bf16 && dot_pairs_are_fast()) return run_chains<Bf16Pair>(count);
#endif
  return dtype == Dtype::f64 ? run_chains<double>(count) : run_chains<float>(count);
}

void copy_bytes(char* to, const char* from, int64_t bytes) {
  if (bytes < kStreamFrom) return void(std::memcpy(to, from, bytes));
  parallel_for(0, (bytes + kCopied - 1) / kCopied, kCopyGrain, [&](int64_t begin, int64_t end) {
    StreamWriter writer;
    for (int64_t i = begin * kCopied; i < std::min(end * kCopied, bytes); i += kCopied) {
      const int64_t n = std::min(kCopied, bytes - i);
      for (int64_t line = 0; line < n; line += 64) __builtin_prefetch(from + i + kCopied + line);
      writer.write(to + i, from + i, n);
    }
  });
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
