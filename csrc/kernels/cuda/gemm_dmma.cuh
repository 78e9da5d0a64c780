// c = activation(a @ b + bias) on the tensor cores of float64, sm_80 and up.
//
// Layout: a block owns 64 x 64 elements of c, its 2 x 2 warps 32 x 32 each, as 2 x 4 fragments of 16 x 8 in registers.
// Slices of kDepth along k come to shared memory in kStages stages (gemm_panel.cuh); each operand keeps the order it
// has in memory, k fastest or rows fastest, for a fragment's elements are read one by one. What a warp needs for the
// next step of k is read while the tensor cores work on this one. Numerics: sums in float64 as the tensor cores do
// them, k ascending: independent of tile and batch. Parallel: one block per tile of c; nothing is combined across
// blocks.
#pragma once
#include "gemm_panel.cuh"
#include "mma.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

template <int Tile_, bool AKFastest, bool BKFastest>
struct DmmaShape {
  static constexpr int kTile = Tile_, kTileM = kTile, kTileN = kTile, MI = kTile / 32, NI = 4, WN = kTile / 32,
                       kThreads = 64 * WN;
  static constexpr int kBlocks = kTile == 64 ? 3 : 1;  // a multiprocessor
  static constexpr int kStages = kTile == 64 ? 3 : 4, kDepth = 16;
  static constexpr int kStep = kTile == 64 ? 8 : 4;  // what one instruction multiplies: registers decide
  // A fragment's lanes read rows l / 4 at k l % 4: with these distances, from different banks.
  static constexpr int kRowA = AKFastest ? kDepth + 4 : 1, kDepthA = AKFastest ? 1 : kTile + 4;
  static constexpr int kRowB = BKFastest ? kDepth + 4 : 1, kDepthB = BKFastest ? 1 : kTile + 4;
  static constexpr int kPanelA = AKFastest ? kTile * kRowA : kDepth * kDepthA;
  static constexpr int kStage = kPanelA + (BKFastest ? kTile * kRowB : kDepth * kDepthB);
  static constexpr int kBytes = kStages * kStage * int(sizeof(double));
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    gemm_dmma(const __grid_constant__ GemmArgs g, int64_t tiles_m, int64_t tiles_n, Reading read_a, Reading read_b,
              bool packed_c) {
  constexpr int MI = S::MI, NI = S::NI, Q = S::kStep / 4, kSteps = S::kDepth / S::kStep;
  const Tile tile = tile_at(blockIdx.x, tiles_m, tiles_n);
  const Matrices at = matrices_of(g, tile.batch);
  const int64_t m0 = tile_start(tile.m, S::kTile, g.m), n0 = tile_start(tile.n, S::kTile, g.n);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int m = warp / S::WN * (16 * MI), n = warp % S::WN * (8 * NI);

  SliceRing<double, S> ring(g, at, read_a, read_b, m0, n0);
  double sum[MI][NI][4] = {};
  double x[2][MI][2 * Q], y[2][NI][Q];
  const int a_at = (m + lane / 4) * S::kRowA + lane % 4 * S::kDepthA;
  const int b_at = S::kPanelA + (n + lane / 4) * S::kRowB + lane % 4 * S::kDepthB;
  const auto fetch = [&](int buffer, const double* slice, int step) {
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int q = 0; q < 2 * Q; ++q)
        x[buffer][i][q] = slice[a_at + (i * 16 + q % 2 * 8) * S::kRowA + (step * S::kStep + q / 2 * 4) * S::kDepthA];
#pragma unroll
    for (int j = 0; j < NI; ++j)
#pragma unroll
      for (int q = 0; q < Q; ++q)
        y[buffer][j][q] = slice[b_at + j * 8 * S::kRowB + (step * S::kStep + q * 4) * S::kDepthB];
  };
  const double* from = ring.slice();
  fetch(0, from, 0);
#pragma unroll 1
  while (ring.more()) {
    ring.load_ahead(g);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step == kSteps - 1) {
        ring.arrive();
        from = ring.slice();
      }
      fetch((step + 1) % 2, from, (step + 1) % kSteps);
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int j = 0; j < NI; ++j) multiply_f64<Q>(sum[i][j], x[step % 2][i], y[step % 2][j]);
    }
  }
  copy_async_wait<0>();
  const int64_t row = m0 + m + lane / 4, column = n0 + n + lane % 4 * 2;
  add_bias<double>(g, column, sum);
  activate_in_turn(g.activation, sum);
  store_fragments<double>(g, at.c, row, column, sum, packed_c && n0 % 2 == 0, store_from(m0, S::kTile),
                          store_from(n0, S::kTile));
}

template <int Tile, bool AKFastest, bool BKFastest>
Status launch_dmma_ordered(const GemmArgs& g) {
  using S = DmmaShape<Tile, AKFastest, BKFastest>;
  const int64_t tiles_m = ceil_div(g.m, Tile), tiles_n = ceil_div(g.n, Tile);
  Launch how{tiles_m * tiles_n * g.batches, S::kThreads, g.stream};
  how.shared_bytes = S::kBytes;
  return launch(how, &gemm_dmma<S>, g, tiles_m, tiles_n,
                reading_of<double, AKFastest>(g.a, g.a_row, g.a_col, g.a_batch, g.batch_dims),
                reading_of<double, BKFastest>(g.b, g.b_col, g.b_row, g.b_batch, g.batch_dims),
                is_packed_c(g, 2 * sizeof(double)));
}
template <int Tile>
Status launch_dmma(const GemmArgs& g) {
  const bool a_rows = g.a_row == sizeof(double), b_columns = g.b_col == sizeof(double);
  if (a_rows) return b_columns ? launch_dmma_ordered<Tile, false, false>(g) : launch_dmma_ordered<Tile, false, true>(g);
  return b_columns ? launch_dmma_ordered<Tile, true, false>(g) : launch_dmma_ordered<Tile, true, true>(g);
}

// Large tiles are faster, by a seventh on an H200 (docs/optimizations.md), but where multiprocessors have few of them
// more are idle; and they need the shared memory of sm_80 or sm_90.
inline Status gemm_float64(const GemmArgs& g, int multiprocessors, int most_shared) {
  const int64_t large = ceil_div(g.m, 128) * ceil_div(g.n, 128), small = ceil_div(g.m, 64) * ceil_div(g.n, 64);
  const int64_t of_large = ceil_div(large * g.batches, multiprocessors);
  const int64_t of_small = ceil_div(small * g.batches, multiprocessors);
  return most_shared >= DmmaShape<128, true, true>::kBytes && 4 * 6 * of_large <= 7 * of_small ? launch_dmma<128>(g)
                                                                                               : launch_dmma<64>(g);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
