// The tensor cores' instructions for one warp (sm_80 and up), as functions.
#pragma once
#include "launch.cuh"
#ifndef __CUDACC__
#include <mma.h>
#endif

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Four 8 x 8 matrices of 16-bit elements from shared memory. Lane l gives the address of row l % 8 of matrix l / 8, and
// receives elements 2 (l % 4) and the next of row l / 4 of each; if Transposed, of column l / 4.
template <bool Transposed>
__device__ __forceinline__ void load_matrices(unsigned (&fragment)[4], const void* row) {
#ifdef __CUDACC__
  const unsigned at = unsigned(__cvta_generic_to_shared(row));
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(at)
                 : "memory");
#else
  cuda_emulator::load_matrices<Transposed>(fragment, row);
#endif
}

// d += a b: a 16 x 16, b 16 x 8 of T, d in float32. Lane l holds, with g = l / 4 and p = 2 (l % 4): of a, rows g and
// g + 8 at columns p, p + 1, then the same at columns p + 8, p + 9; of b, rows p, p + 1, then p + 8, p + 9, at column
// g; of d, columns p, p + 1 of row g, then of row g + 8.
template <class T>
__device__ __forceinline__ void multiply_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef __CUDACC__
  if constexpr (std::is_same_v<T, bf16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  const auto decode = [](uint16_t bits) { return convert<float>(T{bits}); };
  cuda_emulator::multiply_16816(d, a, b, decode);
#endif
}

// d += a b in float64: a 16 x 4 Q, b 4 Q x 8, for Q 1 or 2. Lane l holds, with g = l / 4 and k = l % 4: of a, rows g
// and g + 8 at column k, then at column k + 4; of b, rows k and k + 4 at column g; of d, columns 2 k, 2 k + 1 of row g,
// then of row g + 8.
template <int Q>
__device__ __forceinline__ void multiply_f64(double (&d)[4], const double (&a)[2 * Q], const double (&b)[Q]) {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 900
  if constexpr (Q == 1)
    asm volatile("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
                 : "d"(a[0]), "d"(a[1]), "d"(b[0]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
#pragma unroll
  for (int k = 0; k < Q; ++k)
#pragma unroll
    for (int h = 0; h < 2; ++h)
      asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+d"(d[2 * h]), "+d"(d[2 * h + 1])
                   : "d"(a[2 * k + h]), "d"(b[k]));
#endif
#else
  cuda_emulator::multiply_f64<Q>(d, a, b);
#endif
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
