// c = activation(a @ b + bias) by wgmma and the copy engine: bfloat16 and float16 on compute capability 9.0 (sm_90a).
//
// Layout: a block owns tiles of 128 x TileN elements of c, one after another. Slices of 64 along k come to shared
// memory in a ring of stages, in the 128-byte swizzle that wgmma reads; a panel keeps the order it has in memory, k
// fastest or rows fastest, for wgmma takes either. Elements outside the matrices arrive as 0. Sums stay in registers.
// At the end four lanes exchange their pairs, so that each writes 8 neighbours of a row, 16 bytes. Numerics: products
// are exact, sums in float32 as the tensor cores do them, k ascending; one rounding at the end. Parallel: one block per
// multiprocessor takes every gridDim-th tile, in bands (tile_at). One thread of the first warpgroup, the producer, has
// the copy engine fill stages; two warpgroups, the consumers, multiply 64 rows of the tile each. `full[s]` ends a phase
// when the bytes of a stage have arrived, `empty[s]` when the 8 consumer warps have read it. Both sides walk the same
// tiles and slices, so each waits only for phases that the other must end: there is no other wait in the kernel.
// Nothing is combined across blocks.
#pragma once
#include "gemm.cuh"
#include "tma.cuh"
#include "wgmma.cuh"
#include "wgmma_layout.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kWarpgroup = 128, kWgmmaThreads = 3 * kWarpgroup, kWgmmaTileM = 128, kConsumerWarps = 8;
// Of the 65536 registers 384 threads get 168 each; the producer gives most of its own to the consumers.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

template <int TileN>
struct WgmmaShape {
  static constexpr int kStages = TileN == 256 ? 4 : 6;
  static constexpr unsigned kPanelA = kWgmmaTileM * kLine, kPanelB = TileN * kLine, kStage = kPanelA + kPanelB;
  static constexpr int kBytes = kStages * int(kStage + 2 * sizeof(Barrier));
};

// The block's dynamic shared memory, where the swizzle's pattern begins.
__device__ __forceinline__ unsigned char* swizzled_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) unsigned char fastgrad_swizzled_shared[];
  return fastgrad_swizzled_shared;
#else
  return cuda_emulator::dynamic_shared();
#endif
}

template <bool KFastest, int Rows>
__device__ __forceinline__ void load_panel(unsigned char* to, const CUtensorMap& map, Barrier* full, int row, int k,
                                           const int (&batch)[3], bool several_dims) {
#pragma unroll
  for (int i = 0; i < (KFastest ? 1 : Rows / kChunkRows); ++i) {
    const int inner = KFastest ? k : row + i * kChunkRows, outer = KFastest ? row : k;
    const int near[3] = {inner, outer, batch[0]}, far[5] = {inner, outer, batch[0], batch[1], batch[2]};
    if (several_dims)
      load_box(to + i * kChunk, map, full, far);
    else
      load_box(to + i * kChunk, map, full, near);
  }
}

// Four lanes hold 4 x 4 values, lane q those of column q: afterwards it holds those of row q.
__device__ __forceinline__ void transpose_quad(unsigned (&v)[4]) {
  const unsigned q = threadIdx.x % 4;
#pragma unroll
  for (unsigned bit = 1; bit < 4; bit *= 2)
#pragma unroll
    for (unsigned r = 0; r < 4; ++r) {
      if (r & bit) continue;
      const unsigned got = __shfl_xor_sync(kFullWarp, q & bit ? v[r] : v[r | bit], int(bit));
      if (q & bit)
        v[r] = got;
      else
        v[r | bit] = got;
    }
}

template <class T>
__device__ __forceinline__ unsigned pack_pair(float low, float high) {
  union {
    Pack<T, 2> pair;
    unsigned bits;
  };
  pair = {convert<T>(low), convert<T>(high)};
  return bits;
}

// Adds the bias, applies the activation and writes the sums of a warp: rows row .. row + 15, N columns from `column`.
template <class T, int N>
__device__ __forceinline__ void store_sums(const GemmArgs& g, char* c, int64_t row, int64_t column, float (&sum)[N / 2],
                                           bool packed) {
  const int lane = int(threadIdx.x) % 32, quad = lane % 4;
  if (g.bias) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      if (i % 4 > 1) continue;  // i + 2 has the same column
      const float x = bias_at<T>(g, column + accumulator_at(lane, i).column);
      sum[i] += x;
      sum[i + 2] += x;
    }
  }
#pragma unroll
  for (int i = 0; i < N / 32; ++i) {
    if (column + i * 32 >= g.n) break;
    activate(g.activation, reinterpret_cast<float (&)[16]>(sum[i * 16]));  // all at once would need more registers
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      union {
        unsigned pairs[4];
        Pack<T, 8> out;
      };
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        const int at = (i * 4 + s) * 4 + half * 2;
        pairs[s] = pack_pair<T>(sum[at], sum[at + 1]);
      }
      transpose_quad(pairs);
      store_c(g, c, row + lane / 4 + half * 8, column + i * 32 + quad * 8, out, packed);
    }
  }
}

// For other architectures the body is empty, and the bounds say so to is_compiled_wgmma.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr int kWgmmaBounds = 32;
#else
constexpr int kWgmmaBounds = kWgmmaThreads;
#endif

template <class T, int TileN, bool AKFastest, bool BKFastest>
__global__ void __launch_bounds__(kWgmmaBounds, 1)
    gemm_wgmma(const __grid_constant__ GemmArgs g, const __grid_constant__ CUtensorMap map_a,
               const __grid_constant__ CUtensorMap map_b, int64_t tiles_m, int64_t tiles_n, bool packed_c) {
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __trap();
#else
  using S = WgmmaShape<TileN>;
  unsigned char* const shared = swizzled_shared();
  Barrier *const full = reinterpret_cast<Barrier*>(shared + S::kStages * S::kStage), *const empty = full + S::kStages;
  if (threadIdx.x == 0) {
    prefetch_map(map_a);
    prefetch_map(map_b);
    for (int s = 0; s < S::kStages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, kConsumerWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();

  const int64_t tiles = tiles_m * tiles_n * g.batches;
  const int slices = int((g.k + kSliceDepth - 1) / kSliceDepth);
  const int group = __shfl_sync(kFullWarp, int(threadIdx.x) / kWarpgroup, 0);  // the compiler sees: one for the warp
  Ring<S::kStages> ring;
  if (group == 0) {
    lower_registers<kProducerRegisters>();
    if (threadIdx.x != 0) return;
#pragma unroll 1
    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
      const Tile tile = tile_at(t, tiles_m, tiles_n);
      const int m = int(tile.m) * kWgmmaTileM, n = int(tile.n) * TileN;
      int batch_a[3] = {}, batch_b[3] = {};
      int64_t batch = tile.batch;
#pragma unroll
      for (int d = 0; d < 3; ++d) {
        if (d >= g.batch_dims) break;
        const int index = int(batch % g.batch_shape[d]);
        batch /= g.batch_shape[d];
        batch_a[d] = g.a_batch[d] ? index : 0;
        batch_b[d] = g.b_batch[d] ? index : 0;
      }
#pragma unroll 1
      for (int slice = 0; slice < slices; ++slice, ring.advance()) {
        unsigned char* const stage = shared + ring.stage * S::kStage;
        Barrier* const arrived = full + ring.stage;
        barrier_wait(empty + ring.stage, ring.empty_parity());
        barrier_arrive_expecting(arrived, S::kStage);
        const int k = slice * kSliceDepth;
        load_panel<AKFastest, kWgmmaTileM>(stage, map_a, arrived, m, k, batch_a, g.batch_dims > 1);
        load_panel<BKFastest, TileN>(stage + S::kPanelA, map_b, arrived, n, k, batch_b, g.batch_dims > 1);
      }
    }
  } else {
    raise_registers<kConsumerRegisters>();
    const int consumer = group - 1;
    const bool speaks = threadIdx.x % 32 == 0;  // for its warp
    const unsigned base = shared_address(shared);
    const uint64_t first_a = fragment_descriptor<AKFastest>(base + panel_offset<AKFastest>(consumer * 64, 0));
    const uint64_t first_b = fragment_descriptor<BKFastest>(base + S::kPanelA);
    float sum[TileN / 2];
#pragma unroll 1
    for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
      int previous = 0;
#pragma unroll 1
      for (int slice = 0; slice < slices; ++slice, ring.advance()) {
        barrier_wait(full + ring.stage, ring.full_parity());
        const uint64_t a = advance(first_a, ring.stage * S::kStage), b = advance(first_b, ring.stage * S::kStage);
        pin_registers(sum);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < kSliceDepth; k += kInstructionDepth)
          multiply_wgmma<T, TileN, !AKFastest, !BKFastest>(sum, advance(a, panel_offset<AKFastest>(0, k)),
                                                           advance(b, panel_offset<BKFastest>(0, k)),
                                                           slice > 0 || k > 0);
        wgmma_commit();
        pin_registers(sum);
        wgmma_wait<1>();  // this slice is being multiplied, the one before it has been read
        if (slice > 0 && speaks) barrier_arrive(empty + previous);
        previous = ring.stage;
      }
      wgmma_wait<0>();
      pin_registers(sum);
      if (speaks) barrier_arrive(empty + previous);
      const Tile tile = tile_at(t, tiles_m, tiles_n);
      const int64_t row = tile.m * kWgmmaTileM + consumer * 64 + int(threadIdx.x) / 32 % 4 * 16;
      store_sums<T, TileN>(g, matrices_of(g, tile.batch).c, row, tile.n * TileN, sum, packed_c);
    }
  }
#endif
}

// Whether the code that was loaded for this device holds the kernel's body. On devices of capability 9.0 alone, all of
// which take the same code.
template <class Kernel>
bool is_compiled_wgmma(Kernel* kernel) {
  static const bool compiled = [&] {
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.maxThreadsPerBlock >= kWgmmaThreads;
  }();
  return compiled;
}

template <class T, int TileN, bool AKFastest, bool BKFastest>
Status launch_wgmma_ordered(const GemmArgs& g, int multiprocessors) {
  using S = WgmmaShape<TileN>;
  const auto kernel = &gemm_wgmma<T, TileN, AKFastest, BKFastest>;
  const auto view = [&](const void* data, bool k_fastest, int64_t rows, int64_t row_stride, int64_t k_stride,
                        const int64_t* batch) {
    return k_fastest ? TensorView{data, g.k, rows, row_stride, g.batch_dims, g.batch_shape, batch}
                     : TensorView{data, rows, g.k, k_stride, g.batch_dims, g.batch_shape, batch};
  };
  CUtensorMap map_a, map_b;
  if (!is_compiled_wgmma(kernel) ||
      !encode_map(&map_a, g.dtype, view(g.a, AKFastest, g.m, g.a_row, g.a_col, g.a_batch),
                  AKFastest ? kWgmmaTileM : kSliceDepth) ||
      !encode_map(&map_b, g.dtype, view(g.b, BKFastest, g.n, g.b_col, g.b_row, g.b_batch),
                  BKFastest ? TileN : kSliceDepth))
    return kUnsupported;
  const int64_t tiles_m = ceil_div(g.m, kWgmmaTileM), tiles_n = ceil_div(g.n, TileN);
  const int64_t tiles = tiles_m * tiles_n * g.batches;
  Launch how{tiles < multiprocessors ? tiles : multiprocessors, kWgmmaThreads, g.stream};
  how.shared_bytes = S::kBytes;
  return launch(how, kernel, g, map_a, map_b, tiles_m, tiles_n, is_packed_c(g, 16));
}

// For devices of compute capability 9.0. kUnsupported where the copy engine cannot read an operand, or the kernel was
// not compiled for the device: nothing has been done then. k must not be 0.
template <class T, int TileN>
Status launch_wgmma(const GemmArgs& g, int multiprocessors) {
  const bool a_rows = g.a_row == 2 && g.a_col != 2, b_columns = g.b_col == 2;
  if ((!a_rows && g.a_col != 2) || (!b_columns && g.b_row != 2)) return kUnsupported;
  if (a_rows)
    return b_columns ? launch_wgmma_ordered<T, TileN, false, false>(g, multiprocessors)
                     : launch_wgmma_ordered<T, TileN, false, true>(g, multiprocessors);
  return b_columns ? launch_wgmma_ordered<T, TileN, true, false>(g, multiprocessors)
                   : launch_wgmma_ordered<T, TileN, true, true>(g, multiprocessors);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
