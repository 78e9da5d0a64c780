// c = activation(x @ b + bias) for a few rows of x, or a few columns of b: the products in which packing would cost
// more than using the operands, or a register of c would be nearly empty. An m x 1 product is 1 x m, transposed.
//
// Two loops, by the layout of b. Columns adjacent along k: register-wide dot products of up to 4 rows with several
// columns at once, whose lanes are then summed as a balanced tree, a register of results at a time. Rows adjacent:
// one row of x, and the sums of a run of columns, in L1, take 8 rows of b at a pass, so that b is read in sequence.
// A few columns for many rows are dot products too, of columns that are copied if they are not adjacent along k.
//
// Numerics: sums in float32 or float64. The order of a sum depends on the shape and the layout only.
// Parallel scheme: k is cut in pieces of kPiece, columns in units; the sums of the pieces are added in ascending order.
// Of many rows and few columns the rows are cut, in units.
#include "gemm.h"

#include <algorithm>
#include <cstdlib>

#include "gemm_finish.h"
#include "gemm_pack.h"
#include "parallel.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kPiece = 16384;  // of k; fixes the order of summation
// Rows of x; more than kFewRows only if k is kRowDepth times as much. At least kUnit sums of each fit kSums.
constexpr int64_t kMaxRows = kVecBytes == 32 ? 16 : 48, kFewRows = 8, kRowDepth = 12;
constexpr int64_t kSums = 4096;            // sums that stay in L1
constexpr int64_t kUnit = 64;              // columns: a multiple of a register and of a cache line
constexpr int64_t kNearBytes = 1 << 20;    // of columns that are read for every few rows
constexpr int64_t kBlockBytes = 24 << 10;  // of columns that stay in L1 while the rows pass
constexpr int64_t kGrain = 1 << 16;        // multiply-adds worth a piece of parallel work

template <class S>
struct Skinny {
  int64_t rows, n, k;
  Matrix<S> x, b;
  S* c;
  int64_t c_row, c_col;
  const S* bias;
  int64_t bias_stride;
  Activation activation;
};

constexpr int kRowsAtOnce = kVecBytes == 64 ? 4 : 2, kColumnsAtOnce = 4;  // of dot products

template <int Step, class V, size_t... I>
FASTGRAD_INLINE V fold(V a, V b, std::index_sequence<I...>) {
  constexpr int W = V::size;
  return V(__builtin_shufflevector(a.v, b.v, (int(I) & Step ? W + int(I) - Step : int(I))...)) +
         V(__builtin_shufflevector(a.v, b.v, (int(I) & Step ? W + int(I) : int(I) + Step)...));
}
// Lane i of the result is the sum of the lanes of r[i].
template <int Step, class V>
FASTGRAD_INLINE V sum_each(V (&r)[V::size]) {
  if constexpr (Step == V::size) {
    return r[0];
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < V::size; i += 2 * Step)
      r[i] = fold<Step>(r[i], r[i + Step], std::make_index_sequence<V::size>());
    return sum_each<2 * Step>(r);
  }
}

// The dot products of R rows of x with G columns of b, by U accumulators each: sum[r * G + g].
template <int R, int G, int U, bool Fetch, class T, class S>
FASTGRAD_INLINE void dots(int64_t k, const T* const* x, const S* const* b, int64_t b_next, Vec<T>* sum) {
  using V = Vec<T>;
  constexpr int64_t W = V::size;
  V acc[U][R * G];
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u)
#pragma GCC unroll 16
    for (int i = 0; i < R * G; ++i) acc[u][i] = V(T(0));
  int64_t p = 0;
  for (; p + U * W <= k; p += U * W) {
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      V row[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) row[r] = V::load(x[r] + p + u * W);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const V column = load_as<T>(b[g] + p + u * W);
        if (Fetch) __builtin_prefetch(b[g] + b_next + p + u * W);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) acc[u][r * G + g] = fma(row[r], column, acc[u][r * G + g]);
      }
    }
  }
  for (; p < k; p += W) {
    const int64_t n = std::min(W, k - p);
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      const V column = load_as<T>(b[g] + p, n);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[0][r * G + g] = fma(V::load(x[r] + p, n), column, acc[0][r * G + g]);
    }
  }
#pragma GCC unroll 4
  for (int step = 1; step < U; step *= 2)
#pragma GCC unroll 8
    for (int u = 0; u < U; u += 2 * step)
#pragma GCC unroll 16
      for (int i = 0; i < R * G; ++i) acc[u][i] = acc[u][i] + acc[u + step][i];
#pragma GCC unroll 16
  for (int i = 0; i < R * G; ++i) sum[i] = acc[0][i];
}

// The sums of `rows` <= R rows of x and `columns` columns: sums[r * row + j], or, if Transposed, sums[j * row + r].
template <int R, int G, int U, bool Transposed = false, bool Fetch = false, class T, class S>
void dot_columns(int64_t rows, int64_t columns, int64_t k, const T* x, int64_t x_row, const S* b, int64_t b_col,
                 T* sums, int64_t row) {
  using V = Vec<T>;
  constexpr int W = V::size, batch = W > R * G ? W / (R * G) : 1;  // calls of dots() that fill a register
  const T* x_rows[R];
  for (int r = 0; r < R; ++r) x_rows[r] = x + std::min<int64_t>(r, rows - 1) * x_row;
  for (int64_t j = 0; j < columns; j += batch * G) {
    V sum[batch * R * G];
#pragma GCC unroll 16
    for (int c = 0; c < batch; ++c) {
      const S* b_columns[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) b_columns[g] = b + std::min(j + c * G + g, columns - 1) * b_col;
      V dot[R * G];
      if (j + c * G < columns)
        dots<R, G, U, Fetch>(k, x_rows, b_columns, G * b_col, dot);
      else
#pragma GCC unroll 16
        for (int i = 0; i < R * G; ++i) dot[i] = V(T(0));
#pragma GCC unroll 16
      for (int i = 0; i < R * G; ++i) sum[c * R * G + (Transposed ? i % G * R + i / G : i)] = dot[i];
    }
    T lanes[batch * R * G];
#pragma GCC unroll 16
    for (int i = 0; i < batch * R * G; i += W) {
      const V results = sum_each<1>(reinterpret_cast<V(&)[W]>(sum[i]));
      if (R > 1 || G < 8)
        results.store(lanes + i);
      else if (columns - j - i >= W)
        results.store(sums + j + i);
      else if (columns - j - i > 0)
        results.store(sums + j + i, columns - j - i);
    }
    if (R == 1 && G >= 8) continue;
    const int64_t some_rows = std::min<int64_t>(R, rows), some_columns = std::min<int64_t>(batch * G, columns - j);
    if (Transposed && some_rows == R)
      for (int64_t g = 0; g < some_columns; ++g) std::memcpy(sums + (j + g) * row, lanes + g * R, R * sizeof(T));
    else if (Transposed)
      for (int64_t g = 0; g < some_columns; ++g)
        for (int64_t r = 0; r < some_rows; ++r) sums[(j + g) * row + r] = lanes[g * R + r];
    else
      for (int64_t r = 0; r < some_rows; ++r)
        for (int64_t g = 0; g < some_columns; ++g) sums[r * row + j + g] = lanes[(g / G * R + r) * G + g % G];
  }
}

// The one of them for the next of `rows` rows, with kColumnsAtOnce columns.
template <bool Transposed, bool Fetch, class T, class S>
auto dot_rows(int64_t rows) {
  return rows <= 2 ? dot_columns<2, kColumnsAtOnce, 1, Transposed, Fetch, T, S>
                   : dot_columns<kRowsAtOnce, kColumnsAtOnce, 1, Transposed, Fetch, T, S>;
}

// sums[j] += the sum over R rows of b, in ascending order, of x[r] * b[r][j].
template <int R, class T, class S>
FASTGRAD_INLINE void add_rows(int64_t columns, const T* x, const S* b, int64_t b_row, T* sums) {
  using V = Vec<T>;
  int64_t j = 0;
  for (; j + V::size <= columns; j += V::size) {
    V sum = V::load(sums + j);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum = fma(V(x[r]), load_as<T>(b + r * b_row + j), sum);
    sum.store(sums + j);
  }
  if (const int64_t n = columns - j) {
    V sum = V::load(sums + j, n);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum = fma(V(x[r]), load_as<T>(b + r * b_row + j, n), sum);
    sum.store(sums + j, n);
  }
}

// The same for all rows of a b no wider than a register: every 8th row goes to the same of 8 accumulators.
template <class T, class S>
void add_narrow_rows(int64_t columns, int64_t k, const T* x, const S* b, int64_t b_row, T* sums) {
  using V = Vec<T>;
  V acc[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) acc[r] = V(T(0));
  int64_t p = 0;
  for (; p + 8 <= k; p += 8, b += 8 * b_row) {
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) acc[r] = fma(V(x[p + r]), load_as<T>(b + r * b_row, columns), acc[r]);
  }
  for (; p < k; ++p, b += b_row) acc[0] = fma(V(x[p]), load_as<T>(b, columns), acc[0]);
  // Not a loop over halves: acc would lie in memory.
  const V low = (acc[0] + acc[1]) + (acc[2] + acc[3]), high = (acc[4] + acc[5]) + (acc[6] + acc[7]);
  (low + high).store(sums, columns);
}

// The sums of columns [j0, j0 + columns) over a piece of k.
template <class T, class S>
void piece_sums(const Skinny<S>& g, int64_t k0, int64_t k, int64_t j0, int64_t columns, const T* x, int64_t x_row,
                T* sums, int64_t row) {
  const S* const b = g.b.at(k0, j0).data;
  if (g.b.row == 1) {
    constexpr int R = kRowsAtOnce;
    if (g.n == 1 && g.rows == 1) return dot_columns<1, 1, 8>(1, 1, k, x, x_row, b, 0, sums, row);
    if (g.rows == 1) return dot_columns<1, 8, 1>(1, columns, k, x, x_row, b, g.b.col, sums, row);
    const int64_t block = std::max<int64_t>(1, kBlockBytes / (kColumnsAtOnce * k * sizeof(S))) * kColumnsAtOnce;
    for (int64_t j = 0; j < columns; j += block)
      for (int64_t r = 0; r < g.rows; r += R) {
        const auto dot = dot_rows<false, false, T, S>(g.rows - r);
        dot(g.rows - r, std::min(block, columns - j), k, x + r * x_row, x_row, b + j * g.b.col, g.b.col,
            sums + r * row + j, row);
      }
  } else if (g.n <= Vec<T>::size) {
    add_narrow_rows(columns, k, x, b, g.b.row, sums);
  } else {
    std::memset(sums, 0, columns * sizeof(T));
    int64_t p = 0;
    for (; p + 8 <= k; p += 8) add_rows<8>(columns, x + p, b + p * g.b.row, g.b.row, sums);
    for (; p < k; ++p) add_rows<1>(columns, x + p, b + p * g.b.row, g.b.row, sums);
  }
}

template <class T, class S>
void finish_columns(const Skinny<S>& g, int64_t j0, int64_t columns, const T* sums, int64_t row) {
  const FinishTile<T, S> finish = finish_for<T, S>(g.activation);
  constexpr int64_t chunk = 256;
  T numbers[chunk];
  for (int64_t j = 0; j < columns; j += chunk) {
    const int64_t n = std::min(chunk, columns - j);
    const T* const b = bias_at(g.bias, g.bias_stride, j0 + j, n, numbers);
    S* const c = g.c + (j0 + j) * g.c_col;
    if (g.c_col == 1)
      finish(g.rows, n, sums + j, row, false, c, g.c_row, b);
    else
      for (int64_t l = 0; l < n; ++l) finish(1, 1, sums + j + l, 1, false, c + l * g.c_col, 1, b ? b + l : nullptr);
  }
}

template <class T, class S>
void skinny(const Skinny<S>& g) {
  constexpr int64_t W = Vec<T>::size;
  const int64_t pieces = ceil_div(g.k, kPiece), units = ceil_div(g.n, kUnit);
  const int64_t cost = kUnit * g.rows * std::min(g.k, kPiece), most = kSums / g.rows / kUnit * kUnit;
  T* const partial = pieces > 1 ? static_cast<T*>(std::malloc(pieces * g.rows * g.n * sizeof(T))) : nullptr;
  if (pieces > 1 && !partial) std::abort();
  const bool x_in_place = std::is_same_v<T, S> && g.x.col == 1;
  parallel_for(0, pieces * units, std::max<int64_t>(1, kGrain / cost), [&](int64_t begin, int64_t end) {
    T sums[kSums];
    const int64_t pitch = round_up(std::min(g.k, kPiece), W);  // packing writes whole registers
    T* const x_copy = x_in_place ? nullptr : static_cast<T*>(std::malloc(g.rows * pitch * sizeof(T)));
    if (!x_in_place && !x_copy) std::abort();
    while (begin < end) {
      const int64_t piece = begin / units, first = begin % units, count = std::min(units - first, end - begin);
      const int64_t k0 = piece * kPiece, k = std::min(kPiece, g.k - k0);
      const T* x = x_copy;
      int64_t x_row = pitch;
      if constexpr (std::is_same_v<T, S>)
        if (x_in_place) x = g.x.at(0, k0).data, x_row = g.x.row;
      if (!x_in_place)
        for (int64_t r = 0; r < g.rows; ++r)
          pack_panel(g.x.at(r, k0).data, g.x.col, int64_t(0), k, k, int64_t(1), x_copy + r * pitch);
      const int64_t j1 = std::min(g.n, (first + count) * kUnit);
      for (int64_t j = first * kUnit; j < j1; j += most) {
        const int64_t columns = std::min(most, j1 - j);
        if (partial) {
          piece_sums(g, k0, k, j, columns, x, x_row, partial + piece * g.rows * g.n + j, g.n);
        } else {
          piece_sums(g, k0, k, j, columns, x, x_row, sums, columns);
          finish_columns(g, j, columns, sums, columns);
        }
      }
      begin += count;
    }
    std::free(x_copy);
  });
  if (!partial) return;
  for (int64_t piece = 1; piece < pieces; ++piece)
    for (int64_t i = 0; i < g.rows * g.n; ++i) partial[i] += partial[piece * g.rows * g.n + i];
  finish_columns(g, 0, g.n, partial, g.n);
  std::free(partial);
}

// Whether the product is of this form; `s` describes it then.
template <class T, class S>
bool to_skinny(const Product<S>& g, Skinny<S>& s) {
  s = {g.m, g.n, g.k, g.a, g.b, g.c, g.c_row, 1, g.bias, g.bias_stride, g.activation};
  if (g.n == 1 && g.m > 1) {
    s.rows = 1, s.n = g.m;
    s.x = {g.b.data, g.b.col, g.b.row};
    s.b = {g.a.data, g.a.col, g.a.row};
    s.c_row = 1, s.c_col = g.c_row;
    s.bias_stride = 0;
  }
  if (s.k == 0 || s.rows > (s.k < kRowDepth * s.rows ? kFewRows : kMaxRows)) return false;
  if (s.rows > 1 && (s.b.row != 1 || s.x.col != 1 || s.n < 8 || s.k < 4 * Vec<T>::size)) return false;
  if (s.n == 1 && s.b.row != 1) s.b.col = 1;
  if (s.k == 1) s.b.row = s.b.col == 1 ? 0 : 1;
  return s.b.row == 1 || s.b.col == 1;
}

// Columns that leave so much of the engine's tile empty, one register wide, that sums in lanes are faster; and the k
// from which on the lanes of a sum of that many are worth adding up.
template <class T>
constexpr int64_t kNarrow = kVecBytes == 64 ? Vec<T>::size / 4 * 3 : Vec<T>::size / 2;
constexpr int64_t kDepth = kVecBytes == 64 ? 8 : 16;  // times the number of columns

// Many rows of A, which are the columns here, and few columns of B, which are the rows.
template <class T, class S>
bool is_narrow(const Product<S>& g) {
  return g.n > 1 && g.n <= kNarrow<T> && g.m > 1 && g.a.col == 1 && g.k >= 2 * Vec<T>::size && g.k >= kDepth * g.n &&
         g.n * g.k * int64_t(sizeof(T)) <= kNearBytes;
}
template <class T, class S>
void narrow(const Product<S>& g) {
  constexpr int64_t W = Vec<T>::size, R = kRowsAtOnce;
  const FinishTile<T, S> finish = finish_for<T, S>(g.activation);
  const bool in_place = std::is_same_v<T, S> && g.b.row == 1;
  T numbers[kNarrow<T>];
  const T* const bias = bias_at(g.bias, g.bias_stride, 0, g.n, numbers);
  const int64_t units = ceil_div(g.m, kUnit), cost = kUnit * g.n * g.k;
  parallel_for(0, units, std::max<int64_t>(1, kGrain / cost), [&](int64_t begin, int64_t end) {
    const int64_t pitch = round_up(g.k, W);  // packing writes whole registers
    T* const copy = in_place ? nullptr : static_cast<T*>(std::malloc((g.n * pitch + W) * sizeof(T)));
    if (!in_place && !copy) std::abort();
    const T* x = copy;
    int64_t x_row = pitch;
    if constexpr (std::is_same_v<T, S>)
      if (in_place) x = g.b.data, x_row = g.b.col;
    if (!in_place) pack_panel(g.b.data, g.b.row, g.b.col, g.k, pitch, g.n, copy);
    T sums[kUnit * kNarrow<T>];
    for (int64_t i = begin * kUnit; i < std::min(g.m, end * kUnit); i += kUnit) {
      const int64_t rows = std::min(kUnit, g.m - i);
      constexpr int G = kColumnsAtOnce;
      for (int64_t r = 0; r < rows; r += G)
        for (int64_t j = 0; j < g.n; j += R) {
          const bool fetch = g.far && j == 0;
          const auto dot = fetch ? dot_rows<true, true, T, S>(g.n - j) : dot_rows<true, false, T, S>(g.n - j);
          dot(g.n - j, std::min<int64_t>(G, rows - r), g.k, x + j * x_row, x_row, g.a.at(i + r, 0).data, g.a.row,
              sums + r * g.n + j, g.n);
        }
      finish(rows, g.n, sums, g.n, false, g.c + i * g.c_row, g.c_row, bias);
    }
    std::free(copy);
  });
}

}  // namespace

template <class T, class S>
bool is_skinny(const Product<S>& g) {
  Skinny<S> s;
  return to_skinny<T>(g, s) || is_narrow<T>(g);
}
template <class T, class S>
void product_skinny(const Product<S>& g) {
  Skinny<S> s;
  if (to_skinny<T>(g, s))
    skinny<T>(s);
  else
    narrow<T>(g);
}
#define FASTGRAD_INSTANTIATE(T, S)               \
  template bool is_skinny<T>(const Product<S>&); \
  template void product_skinny<T>(const Product<S>&);
FASTGRAD_INSTANTIATE(float, float)
FASTGRAD_INSTANTIATE(double, double)
FASTGRAD_INSTANTIATE(float, bf16)
FASTGRAD_INSTANTIATE(float, f16)
#undef FASTGRAD_INSTANTIATE

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
