// Barriers in shared memory that also count bytes (mbarrier), and the tensor memory accelerator, which copies boxes of
// a tensor to shared memory by itself: sm_90's instructions as functions, and on the host the maps that describe
// tensors.
#pragma once
#include <cudaTypedefs.h>

#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

using Barrier = uint64_t;  // in shared memory

__device__ __forceinline__ unsigned shared_address(const void* p) {
#ifdef __CUDACC__
  return unsigned(__cvta_generic_to_shared(p));
#else
  return cuda_emulator::shared_address(p);
#endif
}

// A phase of the barrier ends when it has seen `arrivals` and all bytes that were expected; then the next one begins.
__device__ __forceinline__ void barrier_init(Barrier* barrier, unsigned arrivals) {
#ifdef __CUDACC__
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
  cuda_emulator::barrier_init(barrier, arrivals);
#endif
}
// Makes initialized barriers visible to the copy engine; __syncthreads then makes them so to the block's threads.
__device__ __forceinline__ void barrier_init_fence() {
#ifdef __CUDACC__
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void barrier_arrive(Barrier* barrier) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
  cuda_emulator::barrier_arrive(barrier, 0);
#endif
}
// Arrives, and has the current phase wait for `bytes` of copies.
__device__ __forceinline__ void barrier_arrive_expecting(Barrier* barrier, unsigned bytes) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#else
  cuda_emulator::barrier_arrive(barrier, bytes);
#endif
}
// Returns once the phase of this parity has ended: at once if the phase in hand has the other parity.
__device__ __forceinline__ void barrier_wait(Barrier* barrier, unsigned parity) {
#ifdef __CUDACC__
  const unsigned at = shared_address(barrier);
  unsigned done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(at), "r"(parity)
        : "memory");
  } while (!done);
#else
  cuda_emulator::barrier_wait(barrier, parity);
#endif
}

// Has the copy engine bring the box at these coordinates, innermost first, to shared memory; elements outside the
// tensor arrive as 0. The barrier is told of the bytes of the whole box.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, Barrier* barrier, const int (&at)[3]) {
#ifdef __CUDACC__
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(shared_address(to)),
      "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(shared_address(barrier))
      : "memory");
#else
  cuda_emulator::load_box(to, map, barrier, at, 3);
#endif
}
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, Barrier* barrier, const int (&at)[5]) {
#ifdef __CUDACC__
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, "
      "%6}], [%7];" ::"r"(shared_address(to)),
      "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "r"(shared_address(barrier))
      : "memory");
#else
  cuda_emulator::load_box(to, map, barrier, at, 5);
#endif
}
// Fetches a map, a kernel parameter, ahead of its first use.
__device__ __forceinline__ void prefetch_map([[maybe_unused]] const CUtensorMap& map) {
#ifdef __CUDACC__
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

// A stack of matrices of 16-bit elements: `inner` of them contiguous, `outer` such lines, up to 3 batch dimensions.
// A batch stride of 0 is an expanded dimension: it gets the extent 1 and is always read at coordinate 0.
struct TensorView {
  const void* data;
  int64_t inner, outer, outer_stride;
  int batch_dims;
  const int64_t *batch_shape, *batch_strides;
};

// The driver's cuTensorMapEncodeTiled, found at run time: nothing is linked against libcuda. Null if there is none.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

// The map of a view, to be read in boxes of 64 x box_outer elements with the 128-byte swizzle. Rank 3, or 5 where
// there is more than one batch dimension. False where the copy engine cannot read the view.
inline bool encode_map(CUtensorMap* map, Dtype dtype, const TensorView& view, int box_outer) {
  const auto encoder = tensor_map_encoder();
  constexpr int64_t kMost = (int64_t(1) << 31) - 512;  // coordinates are int32, also those a tile beyond the edge
  constexpr int64_t kFarthest = int64_t(1) << 40;
  const auto fits = [](int64_t stride) { return stride > 0 && stride % 16 == 0 && stride < kFarthest; };
  if (!encoder || view.batch_dims > 3 || !is_aligned(view.data, 16) || view.inner >= kMost || view.outer >= kMost ||
      !fits(view.outer_stride))
    return false;
  const unsigned rank = view.batch_dims > 1 ? 5 : 3;
  cuuint64_t shape[5] = {cuuint64_t(view.inner), cuuint64_t(view.outer), 1, 1, 1};
  cuuint64_t strides[4] = {cuuint64_t(view.outer_stride), 16, 16, 16};
  const cuuint32_t box[5] = {64, cuuint32_t(box_outer), 1, 1, 1}, element_strides[5] = {1, 1, 1, 1, 1};
  for (int d = 0; d < view.batch_dims; ++d) {
    if (view.batch_strides[d] == 0) continue;
    if (!fits(view.batch_strides[d]) || view.batch_shape[d] >= kMost) return false;
    shape[2 + d] = cuuint64_t(view.batch_shape[d]);
    strides[1 + d] = cuuint64_t(view.batch_strides[d]);
  }
  return encoder(map, dtype == Dtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, rank,
                 const_cast<void*>(view.data), shape, strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
                 CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
