// c = activation(a @ b + bias), batched: the loops around the register tile of gemm.h.
//
// Layout: columns of C in blocks of NC, k in blocks of KC, rows in blocks of MC; the block of B (KC x NC) and of A
// (MC x KC) are packed in panels, from any strides and any floating-point dtype. An operand of the type of the
// arithmetic is used in place instead where that is as good: the tile kernel takes strides. Heights of panels are
// evened out, so that no tile is nearly empty.
//
// Memory: a panel is packed just before its first use. While tiles are computed, they fetch the next panel of B, and
// the next block of A before it is packed or used; or, of small products, the operands of the next. Where all of B's
// block stays in L2, it is not fetched, and a block of A is two panels, so that A goes through L1. Rows of B and
// columns of A, each on a page of its own in a large matrix, are packed for all panels before the next ones are, if
// they are contiguous: a page is looked up once.
//
// Numerics: float16 and bfloat16 are widened while packing, summed in float32, rounded once. Where the CPU multiplies
// pairs of bfloat16 fast (dot_pairs.h), these are packed instead. Blocks of k depend on the product's sizes and strides
// alone, and are added in ascending order.
//
// Parallel scheme: the longer side of C is cut, in panels, over all products of the batch; each thread packs for itself
// and nothing is shared, so no element depends on the number of threads.
#include "gemm.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "gemm_ahead.h"
#include "gemm_finish.h"
#include "gemm_pack.h"
#include "parallel.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kGrain = 1 << 18;  // multiply-adds worth a piece of parallel work
constexpr int64_t kWideRows = 1120;  // rows of float32 sums kept for a 16-bit C
// Rows of A for which B is read where it lies; and where its rows, of that many k and more, are no multiple of a
// register, so that some of its registers cross lines.
constexpr int64_t kFewRows = kVecBytes == 64 ? 280 : 150, kCrossedRows = kVecBytes == 64 ? 280 : 60;
constexpr int64_t kCrossedDepth = 200;
// Panels of columns of C up to which rows of A are read where they lie. To pack them is a transposition, and how many
// registers a panel has decides what it costs beside the product.
constexpr int64_t kPanelsOfRows = kVecBytes == 64 ? 4 : 20;
constexpr int64_t kNear = 2048;  // bytes; rows further apart may compete for the same lines of L1
constexpr int64_t kHugePage = 1 << 21;
constexpr int64_t kHugeFrom = 1 << 16;    // bytes of a buffer worth a huge page: the packed operands are all over it
constexpr int64_t kFetchBytes = 1 << 16;  // of B's block: less is near anyway
constexpr int64_t kFarBytes = 1 << 20;    // of a batch: what is read and written is no longer near
constexpr int64_t kFlatDepth = 24;        // of k
constexpr int64_t kTurnedDepth = 192;     // of k, from which the columns of C may be stored as rows
constexpr int64_t kNearPanel = 40 << 10;  // bytes of a panel of B used in place, which then comes from L1 mostly
constexpr int64_t kConflict = 4096;       // bytes: lines of multiples of it share a set of L1, and few sets of L2

template <class E>
constexpr TileKernels<E> tile_kernels;

// Bytes of a block that is read again and again and stays in L2 beside what passes through.
int64_t most_in_l2() {
  static const int64_t most = std::max<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE), 1 << 18) / 8 * 5;
  return most;
}

// Rows of A for which B is not worth packing, if its own rows, k of them, are `stride` bytes apart.
template <class T>
int64_t rows_in_place(int64_t stride, int64_t k) {
  if (stride % kConflict == 0) return Blocking<T>::MR;
  if (stride % kVecBytes != 0 && k >= kCrossedDepth) return kCrossedRows;
  return stride % (kConflict / 2) == 0 ? std::min<int64_t>(kFewRows, 140) : kFewRows;
}

// The size of each of the fewest equal blocks, multiples of `unit`, no larger than `most`.
int64_t even_block(int64_t n, int64_t most, int64_t unit) { return round_up(ceil_div(n, ceil_div(n, most)), unit); }

// A buffer a thread keeps between calls. It grows to what the blocking constants allow, and no further.
struct Buffer {
  void* data = nullptr;
  int64_t bytes = 0;
  template <class T>
  T* reserve(int64_t elements) {
    const int64_t needed = elements * sizeof(T);
    if (needed > bytes) {
      const int64_t page = needed < kHugeFrom ? kPageBytes : kHugePage;
      std::free(data);
      bytes = round_up(needed, page);
      data = std::aligned_alloc(page, bytes);
      if (!data) std::abort();
      if (page == kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
    }
    return static_cast<T*>(data);
  }
  ~Buffer() { std::free(data); }
};
thread_local Buffer buffer_a, buffer_b, buffer_sums;

// `count` panels that share n rows as evenly as can be.
struct Panels {
  int64_t count, base, larger;
  Panels(int64_t n, int64_t most) : count(ceil_div(n, most)), base(n / count), larger(n % count) {}
  int64_t begin(int64_t p) const { return p * base + std::min(p, larger); }
  int64_t size(int64_t p) const { return base + (p < larger); }
};

// How a block of the product, m rows by n columns, is cut: at most mc rows of A by kc of k by nc columns of B at a
// time, panels of A of `height` rows. Which operands are read where they lie, and what is said of them in the loops.
template <class E, class S>
struct BlockPlan {
  using T = SumOf<E>;
  int64_t kc, nc, mc, height;
  bool b_in_place, a_in_place, strided;  // strided: A in place, with its rows apart
  bool b_in_l2, wide_sums;               // wide_sums: kept in T from one kc to the next, where C is narrower

  BlockPlan(const Product<S>& g, int64_t m, int64_t n) {
    using B = Blocking<T>;
    constexpr int64_t NR = B::NV * Vec<T>::size, MR = B::MR, U = kNumbers<E>;
    constexpr bool same = std::is_same_v<E, S>;
    const int64_t most_in_place = same && g.b.col == 1 ? rows_in_place<T>(g.b.row * int64_t(sizeof(T)), g.k) : 0;
    b_in_place = m <= most_in_place;
    const int64_t kc_in_place = std::min<int64_t>(kMostOfK<E>, kNearPanel / (NR * sizeof(T)));
    kc = even_block(g.k, g.m <= most_in_place ? kc_in_place : kMostOfK<E>, 4 * U);
    nc = even_block(n, B::NC, NR);
    wide_sums = !same && kc < g.k;
    b_in_l2 = !b_in_place && kc * nc * int64_t(sizeof(E)) / U <= most_in_l2();
    // With little to do for each of its elements C is what takes the time, and is written row by row.
    const bool flat = b_in_l2 && kc <= kFlatDepth && n > 8 * NR;
    mc = even_block(m, flat ? MR : b_in_l2 && g.a.row != 1 ? 2 * MR : B::MC, MR);
    // Packing A pays once its elements are far apart or are read for very many columns.
    a_in_place = same && n <= (g.a.col == 1 ? kPanelsOfRows * NR : g.a.row == 1 ? 8 * NR : 0);
    strided = a_in_place && g.a.row != 1;
    // Rows a multiple of 1 KiB apart fall into few sets of L1, whose 8 ways 7 rows and B just fit.
    const int64_t stride = g.a.row * int64_t(sizeof(T));
    height = strided && stride > kNear && (stride & -stride) > kNear / 4 ? std::min<int64_t>(MR, 7) : MR;
  }
};

// Rows [m0, m1), columns [n0, n1) of one product, over all of k.
template <class E, class S>
void product_block(const Product<S>& g, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
  using T = SumOf<E>;
  using B = Blocking<T>;
  constexpr int64_t W = Vec<T>::size, NR = B::NV * W, MR = B::MR, U = kNumbers<E>;
  constexpr bool same = std::is_same_v<E, S>;
  const BlockPlan<E, S> plan(g, m1 - m0, n1 - n0);
  const auto [kc_most, nc_most, mc_most, height, b_in_place, a_in_place, strided, b_in_l2, wide_sums] = plan;

  E* const packed_b = buffer_b.reserve<E>(kc_most / U * (b_in_place ? NR : nc_most) + W);
  E* const packed_a = a_in_place ? nullptr : buffer_a.reserve<E>(mc_most * (kc_most / U + W));
  T* const sums = wide_sums ? buffer_sums.reserve<T>((m1 - m0) * nc_most) : nullptr;
  constexpr int64_t square = round_up(MR, W);  // rows of whole squares of registers
  alignas(64) T tile[square * NR], across[NR * square], numbers[B::NC];
  const FinishTile<T, S> merge = finish_for<T, S>(Activation::none), finish = finish_for<T, S>(g.activation);
  const bool epilogue = !same || g.bias || g.activation != Activation::none;

  Ahead following_a, following_b;
  if (g.next_a) {
    following_a = {Matrix<S>{g.next_a, g.a.row, g.a.col}, g.m, g.k};
    following_b = {Matrix<S>{g.next_b, g.b.row, g.b.col}, g.k, g.n};
  }
  for (int64_t jc = n0; jc < n1; jc += nc_most) {
    const int64_t nc = std::min(nc_most, n1 - jc);
    for (int64_t pc = 0; pc < g.k; pc += kc_most) {
      const int64_t kc = std::min(kc_most, g.k - pc), steps = ceil_div(kc, U);
      const bool first = pc == 0, last = pc + kc == g.k;
      const Matrix<S> b = g.b.at(pc, jc);
      const T* const biases = last && g.c_col == 1 ? bias_at(g.bias, g.bias_stride, jc, nc, numbers) : nullptr;
      const auto pack_b = [&](int64_t p, int64_t rows, int64_t j) {
        const int64_t columns = std::min(NR, nc - j), width = round_up(columns, W);
        pack_panel(b.at(p, j).data, b.col, b.row, columns, width, rows,
                   packed_b + (b_in_place ? 0 : j * steps) + p / U * width);
      };
      const bool b_at_once = !b_in_place && b.col == 1, a_at_once = !a_in_place && g.a.row == 1;
      for (int64_t p = 0; b_at_once && p < kc; p += kLinesAtOnce)
        for (int64_t j = 0; j < nc; j += NR) pack_b(p, std::min(kLinesAtOnce, kc - p), j);
      // Tiles of a product that is turned, with rows of A in place, are written to L1, and those rows come in time.
      const bool fetch = !(strided && g.c_col != 1) && (g.far || steps * nc * int64_t(sizeof(E)) > kFetchBytes);
      for (int64_t ic = m0; ic < m1; ic += mc_most) {
        const int64_t mc = std::min(mc_most, m1 - ic);
        const Matrix<S> a = g.a.at(ic, pc);
        const Panels panels(mc, height);
        const auto packed_panel = [&](int64_t p) { return packed_a + panels.begin(p) * steps + p * W; };
        const auto pack_a = [&](int64_t k, int64_t columns, int64_t p) {
          const int64_t rows = panels.size(p);
          pack_panel(a.at(panels.begin(p), k).data, a.row, a.col, rows, rows, columns, packed_panel(p) + k / U * rows);
        };
        for (int64_t k = 0; a_at_once && k < kc; k += kLinesAtOnce)
          for (int64_t p = 0; p < panels.count; ++p) pack_a(k, std::min(kLinesAtOnce, kc - k), p);
        Ahead next_a, next_b;
        int64_t share_of_a = 0;
        if (fetch && ic + mc < m1) {
          next_a = {a.at(mc, 0), std::min(mc_most, m1 - ic - mc), kc};
          share_of_a = ceil_div(next_a.spots(), ceil_div(nc, NR) * panels.count);
        }
        for (int64_t j = 0; j < nc; j += NR) {
          const int64_t columns = std::min(NR, nc - j), width = round_up(columns, W);
          if (b_in_place ? columns < NR : !b_at_once && ic == m0) pack_b(0, kc, j);
          if (const int64_t next = std::min(NR, nc - j - NR); fetch && next > 0) {
            if (b_in_place || (!b_at_once && ic == m0))
              next_b = {b.at(0, j + NR), kc, next};
            else if (!b_in_l2)
              next_b = {Matrix<E>{packed_b + (j + NR) * steps, round_up(next, W), 1}, steps, next};
          }
          const bool b_packed = !b_in_place || columns < NR;
          const E* b_panel = packed_b + (b_in_place ? 0 : j * steps);
          int64_t b_row = width;
          if constexpr (same)
            if (!b_packed) b_panel = b.at(0, j).data, b_row = b.row;
          const Layout layout = strided ? Layout::rows : !a_in_place && b_packed ? Layout::packed : Layout::lines;
          const TileKernel<E>* const kernels = tile_kernels<E>.of[int(layout)][width / W - 1];
          for (int64_t p = 0; p < panels.count; ++p) {
            const int64_t i = panels.begin(p), rows = panels.size(p);
            S* const c = g.c + (ic + i) * g.c_row + (jc + j) * g.c_col;
            T* to = tile;
            int64_t to_row = NR;
            bool accumulate = false;
            if constexpr (same) {
              if (columns == width && g.c_col == 1) to = c, to_row = g.c_row, accumulate = !first;
            } else if (wide_sums) {
              to = sums + (ic - m0 + i) * nc_most + j, to_row = nc_most, accumulate = !first;
            }
            if (!a_in_place && !a_at_once && j == 0) pack_a(0, kc, p);
            const E* a_panel = packed_panel(p);
            int64_t a_row = 1, a_col = rows;
            if constexpr (same)
              if (a_in_place) a_panel = a.at(i, 0).data, a_row = a.row, a_col = a.col;
            AheadList ahead;
            if (g.next_a)
              ahead.fill(steps / kSteps - rows, following_b, following_a, INT64_MAX);
            else if (fetch)
              ahead.fill(steps / kSteps - rows, next_b, next_a, share_of_a);
            kernels[rows - 1](steps, a_panel, a_row, a_col, b_panel, b_row, to, to_row, accumulate,
                              fetch ? ahead.list : nullptr);
            if (g.c_col != 1) {
              transpose(tile, NR, across, square, square, width);
              const T* const bias = last ? bias_at(g.bias, g.bias_stride, ic + i, rows, numbers) : nullptr;
              (last && epilogue ? finish : merge)(columns, rows, across, square, !first, c, g.c_col, bias);
            } else if (last && epilogue)
              finish(rows, columns, to, to_row, same && to == tile && !first, c, g.c_row,
                     biases ? biases + j : nullptr);
            else if (same && to == tile)
              merge(rows, columns, to, to_row, !first, c, g.c_row, nullptr);
          }
        }
      }
    }
  }
}

// k = 0: c = activation(bias).
template <class T, class S>
void product_empty(const Product<S>& g, int64_t m0, int64_t m1) {
  constexpr int64_t W = Vec<T>::size;
  const FinishTile<T, S> finish = finish_for<T, S>(g.activation);
  const T zero[W] = {};
  for (int64_t j = 0; j < g.n; j += W) {
    const int64_t columns = std::min(W, g.n - j);
    T numbers[W];
    finish(m1 - m0, columns, zero, 0, false, g.c + m0 * g.c_row + j, g.c_row,
           bias_at(g.bias, g.bias_stride, j, columns, numbers));
  }
}

template <class E, class S>
void product_range(const Product<S>& g, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
  if (g.k == 0) return product_empty<SumOf<E>>(g, m0, m1);
  if (std::is_same_v<E, S> || g.k <= kMostOfK<E>) return product_block<E>(g, m0, m1, n0, n1);
  for (int64_t i = m0; i < m1; i += kWideRows)
    for (int64_t j = n0; j < n1; j += kWideRows)
      product_block<E>(g, i, std::min(m1, i + kWideRows), j, std::min(n1, j + kWideRows));
}

// The same product, transposed: c^T = b^T @ a^T. The rows of C become the lanes of registers.
GemmArgs transposed(const GemmArgs& args) {
  GemmArgs t = args;
  std::swap(t.m, t.n);
  std::swap(t.a, t.b);
  t.a_row = args.b_col, t.a_col = args.b_row;
  t.b_row = args.a_col, t.b_col = args.a_row;
  std::copy_n(args.b_batch, args.batch_dims, t.a_batch);
  std::copy_n(args.a_batch, args.batch_dims, t.b_batch);
  return t;
}

// Whether the transposed product is faster. Rows of A are the lanes of registers then: they fill them where columns are
// few and rows of A adjacent. And columns of B, if each is contiguous, are used in place, where to pack them, a
// transposition, would cost a tenth of a product of few rows: as many as fill one or two panels, or nearly.
template <class T>
bool is_better_turned(const GemmArgs& given, int64_t size) {
  constexpr int64_t W = Vec<T>::size, NR = Blocking<T>::NV * W;
  if (given.k == 0) return false;
  if (given.n > 1 && given.n < W && given.m > NR) return given.a_row == size && given.a_col != size;
  const int64_t idle = round_up(given.m, NR) - given.m;
  return kVecBytes == 64 && given.m <= 2 * NR && idle <= NR / 8 && given.n >= 2 * given.m && given.k >= kTurnedDepth &&
         given.b_row == size && given.b_col != size;
}

template <class E, class S>
void batched(const GemmArgs& given) {
  using T = SumOf<E>;
  constexpr int64_t size = sizeof(S), NR = Blocking<T>::NV * Vec<T>::size;
  const auto in_elements = [](int64_t bytes) { return bytes / size; };
  const bool turned = std::is_same_v<E, S> && is_better_turned<T>(given, size);
  const GemmArgs args = turned ? transposed(given) : given;
  const int64_t bytes = (args.m * args.k + args.k * args.n + args.m * args.n) * size;
  const bool far = args.batches * bytes > kFarBytes;
  const auto item = [&](int64_t index) {
    Product<S> g{args.m,
                 args.n,
                 args.k,
                 {static_cast<const S*>(args.a), in_elements(args.a_row), in_elements(args.a_col)},
                 {static_cast<const S*>(args.b), in_elements(args.b_row), in_elements(args.b_col)},
                 static_cast<S*>(args.c),
                 turned ? 1 : in_elements(args.c_row),
                 turned ? in_elements(args.c_row) : 1,
                 static_cast<const S*>(args.bias),
                 in_elements(args.bias_stride),
                 args.activation,
                 far};
    for (int d = 0; d < args.batch_dims; ++d) {
      const int64_t at = index % args.batch_shape[d];
      index /= args.batch_shape[d];
      g.a.data += at * in_elements(args.a_batch[d]);
      g.b.data += at * in_elements(args.b_batch[d]);
      g.c += at * in_elements(args.c_batch[d]);
    }
    return g;
  };
  if (!turned && is_skinny<T>(item(0))) {
    // A single product, or each thread's share of the batch; a nested parallel_for runs in place.
    const int64_t grain = std::max<int64_t>(1, kGrain / (args.m * args.n * args.k));
    return parallel_for(0, args.batches, grain, [&](int64_t begin, int64_t end) {
      for (; begin < end; ++begin) product_skinny<T>(item(begin));
    });
  }

  const bool by_rows = args.k == 0 || args.m >= args.n;
  const int64_t panel = by_rows ? Blocking<T>::MR : NR, extent = by_rows ? args.m : args.n;
  const int64_t panels = ceil_div(extent, panel);
  const int64_t cost = panel * (by_rows ? args.n : args.m) * std::max<int64_t>(args.k, 8);
  parallel_for(0, args.batches * panels, std::max<int64_t>(1, kGrain / cost), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t first = begin % panels, count = std::min(panels - first, end - begin);
      Product<S> g = item(begin / panels);
      if (far && bytes <= kFarBytes / 2 && begin / panels + 1 < args.batches) {
        const Product<S> next = item(begin / panels + 1);
        g.next_a = next.a.data, g.next_b = next.b.data;
      }
      const int64_t from = first * panel, to = std::min(extent, (first + count) * panel);
      if (by_rows)
        product_range<E>(g, from, to, 0, g.n);
      else
        product_range<E>(g, 0, g.m, from, to);
      begin += count;
    }
  });
}

}  // namespace

Status gemm_float(const GemmArgs& args) {
  switch (args.dtype) {
    case Dtype::f32:
      batched<float, float>(args);
      break;
    case Dtype::f64:
      batched<double, double>(args);
      break;
    case Dtype::bf16:
#if FASTGRAD_DOT_PAIRS
      if (dot_pairs_are_fast()) {
        batched<Bf16Pair, bf16>(args);
        break;
      }
#endif
      batched<float, bf16>(args);
      break;
    case Dtype::f16:
      batched<float, f16>(args);
      break;
    default:
      return 1;
  }
  return 0;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
