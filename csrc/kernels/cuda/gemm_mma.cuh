// c = activation(a @ b + bias) on the tensor cores, by mma.sync: bfloat16 and float16, sm_80 and up.
//
// Layout: a block owns a tile of 32 MI x 32 NI elements of c; 8 warps, 2 x 4, own 16 MI x 8 NI each, as MI x NI
// fragments of 16 x 8 in registers. Slices of 32 along k come to shared memory by cp.async in kStages stages. A panel
// keeps the order it has in memory, k fastest or rows fastest: ldmatrix transposes on the way to the fragments.
// Elements outside the matrices arrive as 0. A panel that is not dense or not aligned to 16 bytes is copied element by
// element into the same places.
// Numerics: products are exact, sums in float32 as the tensor cores do them, k ascending; one rounding at the end.
// Parallel: one block per tile of c; nothing is combined across blocks.
#pragma once
#include "async_copy.cuh"
#include "gemm.cuh"
#include "mma.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kMmaThreads = 256, kMmaDepth = 32, kMmaStages = 4;

// Where element (row, k) of a slice lies, counted in elements: 16-byte chunks are permuted so that the 8 rows that an
// 8 x 8 matrix is read from lie in different banks.
template <int Rows, bool KFastest>
__host__ __device__ constexpr int slice_index(int row, int k) {
  if constexpr (KFastest)
    return row * kMmaDepth + ((k / 8) ^ (row / 2 % 4)) * 8 + k % 8;
  else
    return k * Rows + ((row / 8) ^ (k % 8)) * 8 + row % 8;
}

template <class T, int Rows, bool KFastest>
class SliceLoader {
 public:
  __device__ __forceinline__ SliceLoader(const Panel& p, bool packed, int64_t row, int64_t rows)
      : packed_(packed), base_(p.data), row_stride_(p.row), k_stride_(p.k) {
    rows_left_ = int(rows - row < Rows ? rows - row : Rows);
    const int t = int(threadIdx.x), per_chunk = packed ? 8 : 1;
    row_ = KFastest ? t / (kMmaDepth / per_chunk) : t % (Rows / per_chunk) * per_chunk;
    k_ = KFastest ? t % (kMmaDepth / per_chunk) * per_chunk : t / (Rows / per_chunk);
    from_ = p.data + (row + row_) * p.row + k_ * p.k;
  }
  // The next slice, of which `depth` elements along k exist.
  __device__ __forceinline__ void load(T* to, int depth) {
    if (packed_) {
      constexpr int kRowStep = KFastest ? kMmaThreads / (kMmaDepth / 8) : 0;
      constexpr int kKStep = KFastest ? 0 : kMmaThreads / (Rows / 8);
#pragma unroll
      for (int i = 0; i < Rows * kMmaDepth / 8 / kMmaThreads; ++i) {
        const int row = row_ + i * kRowStep, k = k_ + i * kKStep;
        const bool inside = row < rows_left_ && k < depth;
        const int left = KFastest ? depth - k : rows_left_ - row, bytes = !inside ? 0 : left < 8 ? 2 * left : 16;
        copy_async<16>(to + slice_index<Rows, KFastest>(row, k),
                       inside ? from_ + i * (kRowStep * row_stride_ + kKStep * k_stride_) : base_, bytes);
      }
    } else {
      constexpr int kRowStep = KFastest ? kMmaThreads / kMmaDepth : 0, kKStep = KFastest ? 0 : kMmaThreads / Rows;
#pragma unroll 4
      for (int i = 0; i < Rows * kMmaDepth / kMmaThreads; ++i) {
        const int row = row_ + i * kRowStep, k = k_ + i * kKStep;
        T x = convert<T>(0.f);
        if (row < rows_left_ && k < depth)
          x = *reinterpret_cast<const T*>(from_ + i * (kRowStep * row_stride_ + kKStep * k_stride_));
        to[slice_index<Rows, KFastest>(row, k)] = x;
      }
    }
    from_ += kMmaDepth * k_stride_;
  }

 private:
  bool packed_;
  const char *base_, *from_;
  int64_t row_stride_, k_stride_;
  int row_, k_, rows_left_;
};

// The four 8 x 8 matrices of rows [row, row + 16) and k [k, k + 16), k or rows counting first.
template <int Rows, bool KFastest, bool KFirst, class T>
__device__ __forceinline__ void load_fragment(unsigned (&fragment)[4], const T* slice, int row, int k) {
  const int lane = int(threadIdx.x) % 32, matrix = lane / 8;
  const int row_half = (KFirst ? matrix / 2 : matrix % 2) * 8, k_half = (KFirst ? matrix % 2 : matrix / 2) * 8;
  const int at = KFastest ? slice_index<Rows, KFastest>(row + row_half + lane % 8, k + k_half)
                          : slice_index<Rows, KFastest>(row + row_half, k + k_half + lane % 8);
  load_matrices<!KFastest>(fragment, slice + at);
}

template <class T, int MI, int NI, bool AKFastest, bool BKFastest>
__global__ void __launch_bounds__(kMmaThreads, 2)
    gemm_mma(const __grid_constant__ GemmArgs g, int64_t tiles_m, int64_t tiles_n, bool packed_a, bool packed_b,
             bool packed_c) {
  constexpr int kTileM = 32 * MI, kTileN = 32 * NI, kStage = (kTileM + kTileN) * kMmaDepth;
  T* const shared = reinterpret_cast<T*>(dynamic_shared());
  const Tile tile = tile_at(blockIdx.x, tiles_m, tiles_n);
  const Matrices at = matrices_of(g, tile.batch);
  const int64_t m0 = tile.m * kTileM, n0 = tile.n * kTileN;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int m = warp / 4 * (16 * MI), n = warp % 4 * (8 * NI);

  SliceLoader<T, kTileM, AKFastest> load_a({at.a, g.a_row, g.a_col}, packed_a, m0, g.m);
  SliceLoader<T, kTileN, BKFastest> load_b({at.b, g.b_col, g.b_row}, packed_b, n0, g.n);
  int64_t left = g.k;
  const auto load = [&](int stage) {
    if (left > 0) {
      const int depth = left < kMmaDepth ? int(left) : kMmaDepth;
      load_a.load(shared + stage * kStage, depth);
      load_b.load(shared + stage * kStage + kTileM * kMmaDepth, depth);
      left -= kMmaDepth;
    }
    copy_async_commit();  // an empty group too: waiting counts groups
  };
  for (int s = 0; s < kMmaStages - 1; ++s) load(s);

  float sum[MI][NI][4] = {};
  const int64_t slices = (g.k + kMmaDepth - 1) / kMmaDepth;
#pragma unroll 1
  for (int64_t slice = 0; slice < slices; ++slice) {
    copy_async_wait<kMmaStages - 2>();
    __syncthreads();  // the slice is there for all, and all have left the stage that is filled next
    const int stage = int(slice % kMmaStages);
    load((stage + kMmaStages - 1) % kMmaStages);
    const T *const a = shared + stage * kStage, *const b = a + kTileM * kMmaDepth;
#pragma unroll
    for (int k = 0; k < kMmaDepth; k += 16) {
      unsigned x[MI][4], y[NI / 2][4];
#pragma unroll
      for (int i = 0; i < MI; ++i) load_fragment<kTileM, AKFastest, false>(x[i], a, m + i * 16, k);
#pragma unroll
      for (int j = 0; j < NI / 2; ++j) load_fragment<kTileN, BKFastest, true>(y[j], b, n + j * 16, k);
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int j = 0; j < NI; ++j) {
          const unsigned pair[2] = {y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]};
          multiply_16816<T>(sum[i][j], x[i], pair);
        }
    }
  }
  copy_async_wait<0>();
  const int64_t row = m0 + m + lane / 4, column = n0 + n + lane % 4 * 2;
  add_bias<T>(g, column, sum);
#pragma unroll
  for (int i = 0; i < MI; ++i) activate(g.activation, sum[i]);  // in parts: all together would need more registers
  store_fragments<T>(g, at.c, row, column, sum, packed_c);
}

template <class T, int MI, int NI, bool AKFastest, bool BKFastest>
Status launch_mma_ordered(const GemmArgs& g) {
  const int64_t tiles_m = ceil_div(g.m, 32 * MI), tiles_n = ceil_div(g.n, 32 * NI);
  const auto packed = [&](const void* data, int64_t dense, int64_t other, const int64_t* batch) {
    return dense == 2 && is_packed_panel(data, other, batch, g.batch_dims, 16);
  };
  const bool packed_a = AKFastest ? packed(g.a, g.a_col, g.a_row, g.a_batch) : packed(g.a, g.a_row, g.a_col, g.a_batch);
  const bool packed_b = BKFastest ? packed(g.b, g.b_row, g.b_col, g.b_batch) : packed(g.b, g.b_col, g.b_row, g.b_batch);
  Launch how{tiles_m * tiles_n * g.batches, kMmaThreads, g.stream};
  how.shared_bytes = kMmaStages * 32 * (MI + NI) * kMmaDepth * int(sizeof(T));
  return launch(how, &gemm_mma<T, MI, NI, AKFastest, BKFastest>, g, tiles_m, tiles_n, packed_a, packed_b,
                is_packed_c(g, 2 * sizeof(T)));
}
// MI and NI: 4 for large tiles, 2 for small ones.
template <class T, int I>
Status launch_mma(const GemmArgs& g) {
  const bool a_rows = g.a_row == 2 && g.a_col != 2, b_columns = g.b_col == 2;
  if (a_rows)
    return b_columns ? launch_mma_ordered<T, I, I, false, false>(g) : launch_mma_ordered<T, I, I, false, true>(g);
  return b_columns ? launch_mma_ordered<T, I, I, true, false>(g) : launch_mma_ordered<T, I, I, true, true>(g);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
