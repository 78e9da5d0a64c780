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

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
