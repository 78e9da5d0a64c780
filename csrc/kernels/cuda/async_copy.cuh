// Copies from global to shared memory that a thread starts and later waits for (sm_80 and up).
#pragma once
#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Bytes (4, 8 or 16) to `shared`, of which the first `valid_bytes` come from `global`, the others are 0.
template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid_bytes) {
#ifdef __CUDACC__
  const unsigned to = unsigned(__cvta_generic_to_shared(shared));
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid_bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(Bytes), "r"(valid_bytes)
                 : "memory");
#else
  cuda_emulator::copy_async(shared, global, Bytes, valid_bytes);
#endif
}
// Ends a group of copies.
__device__ __forceinline__ void copy_async_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  cuda_emulator::copy_async_commit();
#endif
}
// Waits for this thread's copies, but for those of the latest `Left` groups.
template <int Left>
__device__ __forceinline__ void copy_async_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
#else
  cuda_emulator::copy_async_wait(Left);
#endif
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
