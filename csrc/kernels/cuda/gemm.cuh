// What the matrix products share: which tile a block works on, where a matrix of the batch lies, the epilogue.
#pragma once
#include "../math/activations.h"
#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

struct Tile {
  int64_t m, n, batch;  // tile indices
};
// Tiles of one product follow each other in bands of kBand rows of tiles, down the band first: blocks that run together
// share rows of a and columns of b in the L2 cache.
__host__ __device__ inline Tile tile_at(int64_t block, int64_t tiles_m, int64_t tiles_n) {
  constexpr int64_t kBand = 8;
  const int64_t batch = block / (tiles_m * tiles_n), at = block - batch * tiles_m * tiles_n;
  const int64_t band = at / (kBand * tiles_n), within = at - band * kBand * tiles_n;
  const int64_t height = tiles_m - band * kBand < kBand ? tiles_m - band * kBand : kBand;
  return {band * kBand + within % height, within / height, batch};
}

// The row where a tile of `size` rows begins. The last tile begins early, so that all of its rows exist (if the matrix
// has as many), for whole tiles are loaded faster; what the tile before it has too is not stored again (store_from).
__device__ __forceinline__ int64_t tile_start(int64_t tile, int size, int64_t rows) {
  const int64_t share = tile * size, last = rows - size;
  return share <= last ? share : last > 0 ? last : 0;
}
__device__ __forceinline__ int64_t store_from(int64_t start, int size) { return (start + size - 1) / size * size; }

struct Matrices {
  const char *a, *b;
  char* c;
};
__host__ __device__ inline Matrices matrices_of(const GemmArgs& g, int64_t batch) {
  Matrices at{static_cast<const char*>(g.a), static_cast<const char*>(g.b), static_cast<char*>(g.c)};
  for (int d = 0; d < g.batch_dims; ++d) {
    const int64_t index = batch % g.batch_shape[d];
    batch /= g.batch_shape[d];
    at.a += index * g.a_batch[d];
    at.b += index * g.b_batch[d];
    at.c += index * g.c_batch[d];
  }
  return at;
}

// The bias of a column, 0 beyond the matrix.
template <class T>
__device__ __forceinline__ arithmetic_t<T> bias_at(const GemmArgs& g, int64_t column) {
  if (column >= g.n) return 0;
  return convert<arithmetic_t<T>>(
      *reinterpret_cast<const T*>(static_cast<const char*>(g.bias) + column * g.bias_stride));
}

// x = f(x) for each element of an array of arrays in registers.
template <class A, class F>
__device__ __forceinline__ void apply(A& x, const F& f) {
  if constexpr (std::is_array_v<A>) {
#pragma unroll
    for (int i = 0; i < int(std::extent_v<A>); ++i) apply(x[i], f);
  } else {
    x = f(x);
  }
}
template <class A>
__device__ __forceinline__ void activate(Activation activation, A& sums) {
  switch (activation) {
    case Activation::relu:
      return apply(sums, math::Relu());
    case Activation::sigmoid:
      return apply(sums, math::Sigmoid());
    case Activation::tanh:
      return apply(sums, math::Tanh());
    default:
      return;
  }
}

// The same where the sums are many: rows take turns as sum[0], so that the code of exp and tanh is there for one row.
template <class A, int Rows, int Columns, int Items>
__device__ __forceinline__ void activate_in_turn(Activation activation, A (&sum)[Rows][Columns][Items]) {
  if (activation == Activation::none) return;
  if (activation == Activation::relu) return apply(sum, math::Relu());
#pragma unroll 1
  for (int turn = 0; turn < Rows; ++turn) {
    activate(activation, sum[0]);
#pragma unroll
    for (int c = 0; c < Columns; ++c)
#pragma unroll
      for (int e = 0; e < Items; ++e) {
        const A first = sum[0][c][e];
#pragma unroll
        for (int r = 0; r + 1 < Rows; ++r) sum[r][c][e] = sum[r + 1][c][e];
        sum[Rows - 1][c][e] = first;
      }
  }
}

// Elements (row, column .. column + N) of c, of which those inside the matrix, from row `first_row` and column
// `first_column` on, are written: one store if they all are and `packed` promises its alignment.
template <class T, int N>
__device__ __forceinline__ void store_c(const GemmArgs& g, char* c, int64_t row, int64_t column, const Pack<T, N>& out,
                                        bool packed, int64_t first_row = 0, int64_t first_column = 0) {
  if (row < first_row || row >= g.m || column >= g.n) return;
  T* const to = reinterpret_cast<T*>(c + row * g.c_row) + column;
  if (packed && column >= first_column && column + N <= g.n) {
    *reinterpret_cast<Pack<T, N>*>(to) = out;
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (column + j >= first_column && column + j < g.n) to[j] = out.v[j];
  }
}
inline bool is_packed_c(const GemmArgs& g, int64_t bytes) {
  bool packed = is_aligned(g.c, bytes) && g.c_row % bytes == 0;
  for (int d = 0; d < g.batch_dims; ++d) packed &= g.c_batch[d] % bytes == 0;
  return packed;
}

// Sums that the tensor cores left in fragments of 16 x 8, of which a lane has the columns `column` and its neighbour of
// the rows `row` and row + 8: the bias is added to them, and they are written.
template <class T, class A, int MI, int NI>
__device__ __forceinline__ void add_bias(const GemmArgs& g, int64_t column, A (&sum)[MI][NI][4]) {
  if (!g.bias) return;
#pragma unroll
  for (int j = 0; j < NI; ++j) {
    const A low = bias_at<T>(g, column + j * 8), high = bias_at<T>(g, column + j * 8 + 1);
#pragma unroll
    for (int i = 0; i < MI; ++i) {
      sum[i][j][0] += low, sum[i][j][1] += high;
      sum[i][j][2] += low, sum[i][j][3] += high;
    }
  }
}
template <class T, class A, int MI, int NI>
__device__ __forceinline__ void store_fragments(const GemmArgs& g, char* c, int64_t row, int64_t column,
                                                const A (&sum)[MI][NI][4], bool packed, int64_t first_row = 0,
                                                int64_t first_column = 0) {
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NI; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const Pack<T, 2> pair{convert<T>(sum[i][j][2 * h]), convert<T>(sum[i][j][2 * h + 1])};
        store_c(g, c, row + i * 16 + h * 8, column + j * 8, pair, packed, first_row, first_column);
      }
}

// An operand as a tile loader sees it: `rows` are those of a, or the columns of b; `row` and `k` are byte strides.
struct Panel {
  const char* data;
  int64_t row, k;
};
// Packs of `bytes` along the contiguous dimension are aligned everywhere.
inline bool is_packed_panel(const void* data, int64_t other_stride, const int64_t* batch, int batch_dims,
                            int64_t bytes) {
  bool packed = is_aligned(data, bytes) && other_stride % bytes == 0;
  for (int d = 0; d < batch_dims; ++d) packed &= batch[d] % bytes == 0;
  return packed;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
