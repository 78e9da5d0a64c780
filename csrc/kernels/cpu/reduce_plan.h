// How the reduce engine cuts its work (reduce.cpp): pieces of adjacent results by a part of their elements, from shape
// and strides alone.
#pragma once
#include "reduce.h"
#include "sizes.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int64_t kLossRun = 2048;  // of a formula with a gradient, which reads several inputs and writes besides
// Long runs are read in windows, in four places at once: they are on different pages, and the hardware fetches ahead
// within a page only. Parts a power of two apart would lie in one set of L1, which has no room for those of two inputs
// and a gradient: they are a quarter of the sets further. What L2 holds is read as fast in one go; and with AVX-512 one
// input, on huge pages faster.
constexpr int64_t kParts = 4, kPartBytes = (1 << 16) + (1 << 10), kWindowBytes = kParts * kPartBytes;
constexpr int64_t kFarBytes = 1 << 20;
constexpr int kInputsInParts = kVecBytes == 64 ? 2 : 1;        // or more
constexpr int64_t kTileBytes = 2048;                           // of a row of columns that is gathered
constexpr int64_t kWideTile = kVecBytes == 64 ? 8192 : 16384;  // in place: enough that the hardware fetches ahead
constexpr int64_t kTileRows = kColumnRows, kFarRows = 8;
constexpr int64_t kNarrow = 4;             // where rows are a quarter of a tile's, or less, so many times as many,
constexpr int64_t kNarrowBytes = 1 << 14;  // of them, if a register is a part of a line
constexpr int64_t kShortTile = 128;        // columns where these are strided: at most so many short rows
constexpr int64_t kShortBytes = 6144;  // of them: L1 holds their transposition too, and fetches the next ones meanwhile
constexpr int64_t kMaxResults = kWideTile / 4, kMaxRunResults = 512;  // of a piece
constexpr int64_t kMaxFields = 2;
constexpr int64_t kGrain = 32768;  // elements worth a thread
constexpr int64_t kMaxRunPieces = 1024, kMaxColumnPieces = 64;

// Elements of a window.
FASTGRAD_INLINE int64_t window_of(Dtype stored) { return kWindowBytes / size_of(stored); }

// Some dimensions with one operand's strides over them.
struct Strided {
  int dims;
  const int64_t *shape, *strides;

  FASTGRAD_INLINE int64_t offset(int64_t linear) const {
    if (dims == 1) return linear * strides[0];
    int64_t at = 0;
    for (int d = 0; d < dims; ++d) {
      at += linear % shape[d] * strides[d];
      linear /= shape[d];
    }
    return at;
  }
  // How much of [begin, begin + n) lies along dimension 0.
  FASTGRAD_INLINE int64_t run(int64_t begin, int64_t n) const {
    if (dims == 0) return 1;
    return dims == 1 ? n : smaller(n, shape[0] - begin % shape[0]);
  }
  FASTGRAD_INLINE int64_t stride() const { return dims == 0 ? 0 : strides[0]; }
  // Calls f(done, offset, length) for the runs of [begin, begin + n).
  template <class F>
  FASTGRAD_INLINE void for_runs(int64_t begin, int64_t n, const F& f) const {
    for (int64_t done = 0; done < n;) {
      const int64_t length = run(begin + done, n - done);
      f(done, offset(begin + done), length);
      done += length;
    }
  }
};

FASTGRAD_INLINE Strided kept_of(const ReduceArgs& a, const int64_t* strides) {
  return {a.kept_dims, a.kept_shape, strides};
}
FASTGRAD_INLINE Strided reduced_of(const ReduceArgs& a, const int64_t* strides) {
  return {a.reduced_dims, a.reduced_shape, strides};
}

// How the index space is cut: pieces of `width` results by `depth` elements of each.
struct Plan {
  bool columns, results_inside;  // results_inside: blocks outermost, since adjacent results share cache lines
  int64_t width, depth, tiles, splits;
  int64_t pitch;  // between the fields of a piece's results: whole registers
};

// Whether runs of it are adjacent elements of that type.
FASTGRAD_INLINE bool direct(const ReduceArgs::Input& in, const Strided& s, Dtype dtype) {
  return in.data && in.dtype == dtype && s.stride() == size_of(dtype);
}

// Whether tiles of columns, wherever they begin and end, are in place.
template <class T>
bool all_in_place(const ReduceArgs& a) {
  bool all = a.kept_dims == 1 && a.reduced_dims == 1;
  for (int k = 0; k < a.inputs; ++k) all = all && direct(a.in[k], kept_of(a, a.in[k].kept_strides), dtype_of<T>);
  return all;
}

template <class T>
Plan make_plan(const ReduceArgs& a, int64_t short_row) {
  Plan p{};
  int64_t kept_stride = 0, reduced_stride = 0, run = a.kept_dims ? a.kept_shape[0] : 1;
  for (int k = 0; k < a.inputs && !kept_stride && !reduced_stride; ++k) {
    if (a.kept_dims) kept_stride = a.in[k].kept_strides[0];
    if (a.reduced_dims) reduced_stride = a.in[k].reduced_strides[0];
  }
  const bool inner = kept_stride == 0 || (reduced_stride != 0 && reduced_stride <= kept_stride);
  p.columns = a.kept > 1 && (inner ? a.reduced < short_row : run >= 8 || a.reduced < 16);
  p.results_inside = !p.columns && !inner;
  if (p.columns) {
    const int64_t tile = (all_in_place<T>(a) ? kWideTile : kTileBytes) / int64_t(sizeof(T));
    const int64_t short_rows = round_up(ceil_div(kShortBytes, larger(1, a.reduced) * int64_t(sizeof(T))), 16);
    p.width = smaller(a.kept, inner ? smaller(kShortTile, short_rows) : tile);
    if (!inner && run >= kTileRows) p.width = smaller(p.width, run);  // a tile of several runs would be gathered
    p.tiles = ceil_div(a.kept, p.width);
    const int64_t splits = larger(1, kMaxColumnPieces / p.tiles);
    p.depth = round_up(larger(ceil_div(a.reduced, splits), kGrain / p.width), kTileRows);
  } else {
    p.width = smaller(smaller(larger(kGrain / a.reduced, p.results_inside ? run : 1), a.kept), kMaxRunResults);
    p.tiles = ceil_div(a.kept, p.width);
    const int64_t splits = larger(1, kMaxRunPieces / p.tiles);
    const int64_t window = window_of(a.in[0].dtype);
    p.depth = round_up(larger(ceil_div(a.reduced, splits), window), a.inputs >= kInputsInParts ? window : kRun);
  }
  p.splits = ceil_div(a.reduced, p.depth);
  p.pitch = round_up(p.width, 16);
  return p;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
