// c = activation(a @ b + bias) on the ordinary arithmetic units: float32 and float64.
//
// Layout: a block owns a tile of 64 R x 64 R elements of c; 8 warps, 2 x 4, own 32 R x 16 R each; a lane owns R x R
// blocks of 4 x 4, in registers. Slices of kDepth along k are copied to shared memory, k slowest, by cp.async in
// kStages stages, whatever the operands' strides; elements outside the matrices arrive as 0.
// Numerics: one fused multiply-add per term in the type itself, k ascending: independent of tile and batch.
// Parallel: one block per tile of c; no block sums a part of k, so nothing is combined across blocks.
#pragma once
#include "async_copy.cuh"
#include "gemm.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kSimtThreads = 256;

// How a panel's elements lie: packs of 16 bytes along its rows, or single elements, read along rows or along k.
enum class Reading { row_packs, rows, k };

// What one thread copies of a panel's slices: a few packs or elements, at distances that the reading decides.
template <class T, int Rows, int Depth, int Pitch>
class PanelLoader {
 public:
  __device__ __forceinline__ PanelLoader(const Panel& p, Reading reading, int64_t row, int64_t rows)
      : reading_(reading) {
    const int t = int(threadIdx.x), wide = reading == Reading::row_packs ? Rows / kPack : Rows;
    const int r = reading == Reading::k ? t / Depth : t % wide * (Rows / wide);
    depth_ = reading == Reading::k ? t % Depth : t / wide;
    rows_left_ = int(rows - row < Rows ? rows - row : Rows) - r;
    to_ = depth_ * Pitch + r;
    from_ = p.data + (row + r) * p.row + depth_ * p.k;
  }
  // Starts the copies of the next slice, of which `depth` elements along k exist. The panel with its strides is a
  // kernel parameter: passed anew, it takes no registers. Its data must be readable, no more.
  __device__ __forceinline__ void load(T* to, int depth, const Panel& p) {
    if (reading_ == Reading::row_packs)
      copy<kPack, 0, kSimtThreads / (Rows / kPack)>(to + to_, depth, p);
    else if (reading_ == Reading::rows)
      copy<1, 0, kSimtThreads / Rows>(to + to_, depth, p);
    else
      copy<1, kSimtThreads / Depth, 0>(to + to_, depth, p);
    from_ += Depth * p.k;
  }

 private:
  static constexpr int kPack = 16 / sizeof(T);

  template <int Elements, int RowStep, int DepthStep>
  __device__ __forceinline__ void copy(T* to, int depth, const Panel& p) const {
    constexpr int kAll = Rows / Elements * Depth;
#pragma unroll
    for (int i = 0; i < (kAll + kSimtThreads - 1) / kSimtThreads; ++i) {
      const int d = depth_ + i * DepthStep;
      if (kAll % kSimtThreads != 0 && d >= Depth) break;
      const int left = d < depth ? rows_left_ - i * RowStep : 0;
      const int valid = left <= 0 ? 0 : (left < Elements ? left : Elements) * int(sizeof(T));
      copy_async<Elements * sizeof(T)>(to + i * (DepthStep * Pitch + RowStep),
                                       valid ? from_ + i * (RowStep * p.row + DepthStep * p.k) : p.data, valid);
    }
  }

  Reading reading_;
  const char* from_;
  int to_, depth_, rows_left_;
};

template <class T, int R>
struct SimtShape {
  static constexpr int kTile = 64 * R, kDepth = 8, kStages = 4, kPitch = kTile + 4;
};

template <class T, int R>
__global__ void __launch_bounds__(kSimtThreads, R == 2 || sizeof(T) == 8 ? 2 : 3)
    gemm_simt(const __grid_constant__ GemmArgs g, int64_t tiles_m, int64_t tiles_n, Reading read_a, Reading read_b,
              bool packed_c) {
  using S = SimtShape<T, R>;
  __shared__ __align__(16) T shared_a[S::kStages][S::kDepth][S::kPitch];
  __shared__ __align__(16) T shared_b[S::kStages][S::kDepth][S::kPitch];
  const Tile tile = tile_at(blockIdx.x, tiles_m, tiles_n);
  const Matrices at = matrices_of(g, tile.batch);
  const int64_t m0 = tile.m * S::kTile, n0 = tile.n * S::kTile;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int m = warp / 4 * (32 * R) + lane / 4 * 4, n = warp % 4 * (16 * R) + lane % 4 * 4;

  PanelLoader<T, S::kTile, S::kDepth, S::kPitch> load_a({at.a, g.a_row, g.a_col}, read_a, m0, g.m);
  PanelLoader<T, S::kTile, S::kDepth, S::kPitch> load_b({at.b, g.b_col, g.b_row}, read_b, n0, g.n);
  const auto load = [&](int stage, int64_t k) {
    if (k < g.k) {
      const int depth = g.k - k < S::kDepth ? int(g.k - k) : S::kDepth;
      load_a.load(&shared_a[stage][0][0], depth, {static_cast<const char*>(g.a), g.a_row, g.a_col});
      load_b.load(&shared_b[stage][0][0], depth, {static_cast<const char*>(g.b), g.b_col, g.b_row});
    }
    copy_async_commit();  // an empty group too: waiting counts groups
  };
  for (int s = 0; s < S::kStages - 1; ++s) load(s, s * S::kDepth);

  T sum[4 * R][R][4] = {};
  int stage = 0;
#pragma unroll 1
  for (int64_t k = 0; k < g.k; k += S::kDepth, stage = (stage + 1) % S::kStages) {
    copy_async_wait<S::kStages - 2>();
    __syncthreads();  // the slice is there for all, and all have left the stage that is filled next
    load((stage + S::kStages - 1) % S::kStages, k + (S::kStages - 1) * S::kDepth);
#pragma unroll
    for (int d = 0; d < S::kDepth; ++d) {
      Pack<T, 4> x[R], y[R];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        x[r] = *reinterpret_cast<const Pack<T, 4>*>(&shared_a[stage][d][m + r * 32]);
        y[r] = *reinterpret_cast<const Pack<T, 4>*>(&shared_b[stage][d][n + r * 16]);
      }
#pragma unroll
      for (int i = 0; i < 4 * R; ++i)
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][r][j] = math::fma(x[i / 4].v[i % 4], y[r].v[j], sum[i][r][j]);
    }
  }
  copy_async_wait<0>();
  if (g.bias) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T x = bias_at<T>(g, n0 + n + r * 16 + j);
#pragma unroll
        for (int i = 0; i < 4 * R; ++i) sum[i][r][j] += x;
      }
  }
  activate(g.activation, sum);
#pragma unroll
  for (int i = 0; i < 4 * R; ++i)
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Pack<T, 4> four{sum[i][r][0], sum[i][r][1], sum[i][r][2], sum[i][r][3]};
      store_c(g, at.c, m0 + m + i / 4 * 32 + i % 4, n0 + n + r * 16, four, packed_c);
    }
}

template <class T>
Reading reading_of(const void* data, int64_t row, int64_t k, const int64_t* batch, int batch_dims) {
  if (row != int64_t(sizeof(T))) return Reading::k;
  return is_packed_panel(data, k, batch, batch_dims, 16) ? Reading::row_packs : Reading::rows;
}

template <class T, int R>
Status launch_simt(const GemmArgs& g) {
  const int64_t tiles_m = ceil_div(g.m, SimtShape<T, R>::kTile), tiles_n = ceil_div(g.n, SimtShape<T, R>::kTile);
  return launch({tiles_m * tiles_n * g.batches, kSimtThreads, g.stream}, &gemm_simt<T, R>, g, tiles_m, tiles_n,
                reading_of<T>(g.a, g.a_row, g.a_col, g.a_batch, g.batch_dims),
                reading_of<T>(g.b, g.b_col, g.b_row, g.b_batch, g.batch_dims), is_packed_c(g, 4 * sizeof(T)));
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
