// c = activation(a @ b + bias) on the ordinary arithmetic units: float32.
//
// Layout: a warp owns 64 x 16 NJ elements of c, a lane 8 x 4 NJ of them in registers, as blocks of 4 x 4; a block of
// WM x WN warps owns a tile. Slices of kDepth along k come to shared memory in kStages stages (gemm_panel.cuh). What a
// lane needs for the next k is read while it multiplies for this one: 16 warps fit, too few to hide that alone.
// Numerics: one fused multiply-add per term in the type itself, k ascending: independent of tile and batch.
// Parallel: one block per tile of c; no block sums a part of k, so nothing is combined across blocks.
#pragma once
#include "gemm_panel.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Registers decide how many blocks of 128 threads there are on a multiprocessor: 128 are enough for 8 x 8 elements, but
// in the code for compute capability 8; 80 for 8 x 4.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kSimtBlocks = 3;
#else
constexpr int kSimtBlocks = 4;
#endif

template <int WM_, int WN_, int NJ_>
struct SimtShape {
  static constexpr int WM = WM_, WN = WN_, NJ = NJ_;
  static constexpr int kThreads = 32 * WM * WN, kTileM = 64 * WM, kTileN = 16 * NJ * WN;
  static constexpr int kDepth = 16, kStages = 3, kRowA = 1, kRowB = 1, kDepthA = kTileM + 4, kDepthB = kTileN + 4;
  static constexpr int kPanelA = kDepth * kDepthA, kStage = kPanelA + kDepth * kDepthB;
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::NJ == 1 ? 6 : kSimtBlocks)
    gemm_simt(const __grid_constant__ GemmArgs g, int64_t tiles_m, int64_t tiles_n, Reading read_a, Reading read_b,
              bool packed_c) {
  constexpr int NJ = S::NJ;
  using Four = Pack<float, 4>;
  const Tile tile = tile_at(blockIdx.x, tiles_m, tiles_n);
  const Matrices at = matrices_of(g, tile.batch);
  const int64_t m0 = tile_start(tile.m, S::kTileM, g.m), n0 = tile_start(tile.n, S::kTileN, g.n);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int m = warp / S::WN * 64 + lane / 4 * 4, n = warp % S::WN * (16 * NJ) + lane % 4 * 4;

  SliceRing<float, S> ring(g, at, read_a, read_b, m0, n0);
  float sum[8][NJ][4] = {};
  Four x[2][2], y[2][NJ];
  const auto fetch = [&](int buffer, const float* slice, int d) {
    const float *const a = slice + d * S::kDepthA + m, *const b = slice + S::kPanelA + d * S::kDepthB + n;
#pragma unroll
    for (int r = 0; r < 2; ++r) x[buffer][r] = *reinterpret_cast<const Four*>(a + r * 32);
#pragma unroll
    for (int r = 0; r < NJ; ++r) y[buffer][r] = *reinterpret_cast<const Four*>(b + r * 16);
  };
  const float* from = ring.slice();
  fetch(0, from, 0);
#pragma unroll 1
  while (ring.more()) {
    ring.load_ahead(g);
#pragma unroll
    for (int d = 0; d < S::kDepth; ++d) {
      if (d == S::kDepth - 1) {
        ring.arrive();
        from = ring.slice();
      }
      fetch((d + 1) % 2, from, (d + 1) % S::kDepth);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int r = 0; r < NJ; ++r)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            sum[i][r][j] = math::fma(x[d % 2][i / 4].v[i % 4], y[d % 2][r].v[j], sum[i][r][j]);
    }
  }
  copy_async_wait<0>();
  if (g.bias) {
#pragma unroll
    for (int r = 0; r < NJ; ++r)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float b = bias_at<float>(g, n0 + n + r * 16 + j);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i][r][j] += b;
      }
  }
  activate_in_turn(g.activation, sum);
  packed_c &= n0 % 4 == 0;
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int r = 0; r < NJ; ++r) {
      const Four four{sum[i][r][0], sum[i][r][1], sum[i][r][2], sum[i][r][3]};
      store_c(g, at.c, m0 + m + i / 4 * 32 + i % 4, n0 + n + r * 16, four, packed_c, store_from(m0, S::kTileM),
              store_from(n0, S::kTileN));
    }
}

template <class S>
Status launch_simt(const GemmArgs& g) {
  const int64_t tiles_m = ceil_div(g.m, S::kTileM), tiles_n = ceil_div(g.n, S::kTileN);
  Launch how{tiles_m * tiles_n * g.batches, S::kThreads, g.stream};
  how.shared_bytes = S::kStages * S::kStage * int(sizeof(float));
  return launch(how, &gemm_simt<S>, g, tiles_m, tiles_n,
                reading_of<float>(g.a, g.a_row, g.a_col, g.a_batch, g.batch_dims),
                reading_of<float>(g.b, g.b_col, g.b_row, g.b_batch, g.batch_dims), is_packed_c(g, 4 * sizeof(float)));
}

// The shape whose tiles, a whole number of them for the busiest multiprocessor, are soonest done. `rate` is what a
// multiprocessor does with tiles of that shape, in percent of the best, on an H200 (docs/optimizations.md).
inline Status gemm_float32(const GemmArgs& g, int multiprocessors) {
  struct Candidate {
    int rows, columns, rate;
    Status (*launch)(const GemmArgs&);
  };
  static constexpr Candidate kCandidates[] = {{64, 128, 100, &launch_simt<SimtShape<1, 4, 2>>},
                                              {128, 64, 100, &launch_simt<SimtShape<2, 2, 2>>},
                                              {64, 64, 91, &launch_simt<SimtShape<1, 4, 1>>}};
  const Candidate* best = nullptr;
  double least = 0;
  for (const Candidate& c : kCandidates) {
    const int64_t tiles = ceil_div(g.m, c.rows) * ceil_div(g.n, c.columns) * g.batches;
    const double time = double(ceil_div(tiles, multiprocessors)) * c.rows * c.columns / c.rate;
    if (!best || time < least) best = &c, least = time;
  }
  return best->launch(g);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
