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

// What one thread copies of a panel's slices: a few packs or elements, at regular distances.
template <class T, int Rows, int Depth, int Pitch>
class PanelLoader {
 public:
  __device__ __forceinline__ PanelLoader(const Panel& p, Reading reading, int64_t row, int64_t rows)
      : packs_(reading == Reading::row_packs), base_(p.data) {
    const int t = int(threadIdx.x);
    if (packs_)
      row_ = t % (Rows / kPack) * kPack, depth_ = t / (Rows / kPack);
    else if (reading == Reading::k)
      row_ = t / Depth, depth_ = t % Depth;
    else
      row_ = t % Rows, depth_ = t / Rows;
    row_step_ = reading == Reading::k ? kSimtThreads / Depth : 0;
    depth_step_ = reading == Reading::k ? 0 : kSimtThreads / (packs_ ? Rows / kPack : Rows);
    rows_left_ = int(rows - row < Rows ? rows - row : Rows);
    from_ = p.data + (row + row_) * p.row + depth_ * p.k;
    step_ = row_step_ * p.row + depth_step_ * p.k;
    slice_step_ = Depth * p.k;
  }
  // Starts the copies of the next slice, of which `depth` elements along k exist.
  __device__ __forceinline__ void load(T* to, int depth) {
    const char* from = from_;
    if (packs_) {
#pragma unroll
      for (int i = 0; i < kPackCount; ++i, from += step_) {
        const int d = depth_ + i * depth_step_;
        if (Rows / kPack * Depth % kSimtThreads != 0 && d >= Depth) break;
        const int left = d < depth ? rows_left_ - row_ : 0;
        const int valid = left <= 0 ? 0 : left < kPack ? left * int(sizeof(T)) : 16;
        copy_async<16>(to + d * Pitch + row_, valid ? from : base_, valid);
      }
    } else {
#pragma unroll
      for (int i = 0; i < Rows * Depth / kSimtThreads; ++i, from += step_) {
        const int r = row_ + i * row_step_, d = depth_ + i * depth_step_;
        const bool valid = r < rows_left_ && d < depth;
        copy_async<sizeof(T)>(to + d * Pitch + r, valid ? from : base_, valid ? int(sizeof(T)) : 0);
      }
    }
    from_ += slice_step_;
  }

 private:
  static constexpr int kPack = 16 / sizeof(T);
  static constexpr int kPackCount = (Rows / kPack * Depth + kSimtThreads - 1) / kSimtThreads;
  bool packs_;
  const char *base_, *from_;
  int64_t step_, slice_step_;
  int row_, depth_, row_step_, depth_step_, rows_left_;
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
  int64_t left = g.k;  // of k, to be loaded
  const auto load = [&](int stage) {
    if (left > 0) {
      const int depth = left < S::kDepth ? int(left) : S::kDepth;
      load_a.load(&shared_a[stage][0][0], depth);
      load_b.load(&shared_b[stage][0][0], depth);
      left -= S::kDepth;
    }
    copy_async_commit();  // an empty group too: waiting counts groups
  };
  for (int s = 0; s < S::kStages - 1; ++s) load(s);

  T sum[4 * R][R][4] = {};
  const int64_t slices = (g.k + S::kDepth - 1) / S::kDepth;
#pragma unroll 1
  for (int64_t slice = 0; slice < slices; ++slice) {
    copy_async_wait<S::kStages - 2>();
    __syncthreads();  // the slice is there for all, and all have left the stage that is filled next
    const int stage = int(slice % S::kStages);
    load((stage + S::kStages - 1) % S::kStages);
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
#pragma unroll
  for (int i = 0; i < 4 * R; ++i)
#pragma unroll
    for (int r = 0; r < R; ++r) store_c<T>(g, at.c, m0 + m + i / 4 * 32 + i % 4, n0 + n + r * 16, sum[i][r], packed_c);
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
