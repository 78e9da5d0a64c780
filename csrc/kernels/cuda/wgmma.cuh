// The tensor cores' instructions for a warpgroup (sm_90a alone), as functions. All 128 threads call them together.
#pragma once
#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// How many registers each thread of the calling warpgroup keeps, of those the block was started with.
template <int Registers>
__device__ __forceinline__ void lower_registers() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}
template <int Registers>
__device__ __forceinline__ void raise_registers() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}

// Before the first product, and whenever other instructions have touched the accumulators.
__device__ __forceinline__ void wgmma_fence() {
#ifdef __CUDACC__
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  cuda_emulator::wgmma_fence();
#endif
}
// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() {
#ifdef __CUDACC__
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  cuda_emulator::wgmma_commit();
#endif
}
// Waits until all but the latest `Left` groups have read their operands and written their sums.
template <int Left>
__device__ __forceinline__ void wgmma_wait() {
#ifdef __CUDACC__
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
#else
  cuda_emulator::wgmma_wait(Left);
#endif
}
// The compiler knows nothing of when products write their sums: it may not move uses of them past this.
template <int N>
__device__ __forceinline__ void pin_registers(float (&d)[N]) {
#ifdef __CUDACC__
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
#else
  (void)d;
#endif
}

// d = a b, added to d if `accumulate`: a is 64 x 16, b 16 x N, both in shared memory as their descriptors say, with k
// or, where the flags say so, rows of a (columns of b) counting fastest. accumulator_at() says what a thread holds.
// It is done when wgmma_wait says so.
template <class T, int N, bool ARowsFastest, bool BColumnsFastest>
__device__ __forceinline__ void multiply_wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(N == 128 || N == 256);
#ifdef __CUDACC__
#define FASTGRAD_TEN(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define FASTGRAD_SIXTY FASTGRAD_TEN() FASTGRAD_TEN(1) FASTGRAD_TEN(2) FASTGRAD_TEN(3) FASTGRAD_TEN(4) FASTGRAD_TEN(5)
#define FASTGRAD_TO_128                                                                           \
  FASTGRAD_SIXTY FASTGRAD_TEN(6) FASTGRAD_TEN(7) FASTGRAD_TEN(8) FASTGRAD_TEN(9) FASTGRAD_TEN(10) \
      FASTGRAD_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define FASTGRAD_TO_64 FASTGRAD_SIXTY "%60, %61, %62, %63"
#define FASTGRAD_EIGHT(i)                                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define FASTGRAD_32(i) FASTGRAD_EIGHT(i), FASTGRAD_EIGHT(i + 8), FASTGRAD_EIGHT(i + 16), FASTGRAD_EIGHT(i + 24)
#define FASTGRAD_64(i) FASTGRAD_32(i), FASTGRAD_32(i + 32)
#define FASTGRAD_WGMMA(COLUMNS, TYPE, D, A, B, P, TA, TB, ...)                                        \
  asm volatile(                                                                                       \
      "{\n"                                                                                           \
      ".reg .pred p;\n"                                                                               \
      "setp.ne.b32 p, %" #P                                                                           \
      ", 0;\n"                                                                                        \
      "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." TYPE "." TYPE " {" D "}, %" #A ", %" #B \
      ", p, 1, 1, %" #TA ", %" #TB                                                                    \
      ";\n"                                                                                           \
      "}"                                                                                             \
      : __VA_ARGS__                                                                                   \
      : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(ARowsFastest)), "n"(int(BColumnsFastest)))
  if constexpr (N == 256 && std::is_same_v<T, bf16>)
    FASTGRAD_WGMMA(256, "bf16", FASTGRAD_TO_128, 128, 129, 130, 131, 132, FASTGRAD_64(0), FASTGRAD_64(64));
  else if constexpr (N == 256)
    FASTGRAD_WGMMA(256, "f16", FASTGRAD_TO_128, 128, 129, 130, 131, 132, FASTGRAD_64(0), FASTGRAD_64(64));
  else if constexpr (std::is_same_v<T, bf16>)
    FASTGRAD_WGMMA(128, "bf16", FASTGRAD_TO_64, 64, 65, 66, 67, 68, FASTGRAD_64(0));
  else
    FASTGRAD_WGMMA(128, "f16", FASTGRAD_TO_64, 64, 65, 66, 67, 68, FASTGRAD_64(0));
#undef FASTGRAD_TEN
#undef FASTGRAD_SIXTY
#undef FASTGRAD_TO_128
#undef FASTGRAD_TO_64
#undef FASTGRAD_EIGHT
#undef FASTGRAD_32
#undef FASTGRAD_64
#undef FASTGRAD_WGMMA
#else
  cuda_emulator::wgmma_multiply({.sum = d,
                                 .a = a,
                                 .b = b,
                                 .columns = N,
                                 .accumulate = accumulate,
                                 .a_rows_fastest = ARowsFastest,
                                 .b_columns_fastest = BColumnsFastest,
                                 .decode = [](uint16_t bits) { return convert<float>(T{bits}); }});
#endif
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
