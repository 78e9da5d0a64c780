// The part of the row engine that no formula instantiates: planning, gathering and scattering; see rows.h.
#include "rows.h"

#include <algorithm>
#include <cstdlib>

#include "convert.h"
#include "sizes.h"
#include "stream.h"
#include "transpose.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kTileBytes = 1 << 20;   // whole rows across, of one operand: they stay in L2, or fall to L3
constexpr int64_t kBlockBytes = 1 << 18;  // a block of them where they do not: a few fit L2
constexpr int64_t kShortestRun = 256;     // bytes of rows side by side
constexpr int64_t kRunsAhead = 8;         // fetched, unless they are long
constexpr int64_t kLongRun = 1024;
constexpr int64_t kLongBlock = 4096;       // elements of a row that is read twice anyway: stays in L1
constexpr int64_t kPieceElements = 32768;  // worth a thread
constexpr int64_t kLead = 8192;            // bytes from a block to what is fetched meanwhile, at least
// Bytes of an operand's rows in a tile, along: they are passed over thrice. Of narrow registers more is computed a
// byte, and a tile is worth some reads from L2.
constexpr int64_t kRowsInCache = kVecBytes < 64 ? 1 << 14 : 1 << 13;
constexpr int kShortTile = 64;            // rows
constexpr int64_t kFetchedRow = 1 << 13;  // bytes of a row that is passed over alone: the next one is too far away

FASTGRAD_INLINE int64_t magnitude(int64_t a) { return a < 0 ? -a : a; }

// Whether an output goes past the cache: it is large, in long runs, and no input lies there.
bool is_streamed(const RowsArgs& a, const RowStreams& streams, const RowsPlan& plan, int s) {
  const auto& o = a.operand[streams.index[s]];
  const int64_t item = size_of(o.dtype), row = o.row_strides[0];
  if (s < streams.inputs || a.rows * a.n * item < kStreamFrom) return false;
  for (int in = 0; in < streams.inputs; ++in)
    if (a.operand[streams.index[in]].data == o.data) return false;
  if (!plan.across) return o.element_stride == item && (row == a.n * item || a.n * item >= kStreamRun);
  if (o.element_stride == item) return row == a.n * item && a.row_shape[0] >= plan.tile_rows;
  return row == item && smaller(a.row_shape[0], plan.tile_rows) * item >= kShortestRun;
}

// Whether rows of n elements lie one after the other, along dimension 0.
bool are_adjacent(const RowsArgs::Operand& o, int64_t n) {
  return o.element_stride == size_of(o.dtype) && o.row_strides[0] == n * o.element_stride;
}

// Whether the rows of every stream are adjacent, and so short that they are computed flat.
bool is_flat(const RowsArgs& a, const RowStreams& streams, int64_t longest) {
  bool flat = a.n > 0 && a.n <= longest && a.rows > 1 && (a.ndim == 1 || a.row_shape[0] >= kShortTile);
  for (int s = 0; s < streams.inputs + streams.outputs; ++s) flat &= are_adjacent(a.operand[streams.index[s]], a.n);
  return flat;
}

bool is_row_of(const RowsArgs::Operand& o, Dtype dtype) {
  return o.dtype == dtype && o.element_stride == size_of(dtype);
}

// Whether rows are used in place, one at a time: then those past the cache consist of whole lines.
bool is_by_row(const RowsArgs& a, const RowStreams& streams, const RowsPlan& plan) {
  if (plan.across || plan.flat || !plan.single || a.n == 0) return false;
  for (int s = 0; s < streams.inputs + streams.outputs; ++s)
    if (!is_row_of(a.operand[streams.index[s]], plan.stored)) return false;
  const auto& out = a.operand[streams.index[streams.inputs]];
  int64_t lines = place_in_line(out.data) | a.n * size_of(out.dtype);
  for (int d = 0; d < a.ndim; ++d) lines |= out.row_strides[d];
  return lines % kLine == 0 || !is_streamed(a, streams, plan, streams.inputs);
}

}  // namespace

RowsPlan plan_rows(const RowsArgs& a, const RowStreams& streams, RowTraits traits) {
  RowsPlan plan;
  const int64_t item = size_of(a.compute);
  plan.flat = is_flat(a, streams, traits.flat_row);
  const bool short_rows = !plan.flat && a.n * item < traits.short_row * kVecBytes && a.rows > 1;
  plan.across = short_rows;
  for (int s = 0; s < streams.inputs + streams.outputs; ++s) {
    const auto& o = a.operand[streams.index[s]];
    if (!o.data || a.row_shape[0] < 4 || o.element_stride == size_of(o.dtype) || o.element_stride == 0) continue;
    plan.across |= magnitude(o.row_strides[0]) < magnitude(o.element_stride);
  }
  const bool no_streams = streams.inputs + streams.outputs == 0;
  plan.across &= !no_streams;
  plan.tile_rows = kTileRows;
  if (plan.across) {
    // Rows side by side make long runs in memory; short rows fit the cache in smaller tiles. Not to read rows twice is
    // worth runs that are shorter.
    plan.tile_rows = short_rows ? kShortTile : kTileRows;
    const int64_t run = plan.tile_rows * size_of(a.operand[streams.index[0]].dtype);
    int fewer = 1;
    while (run / (2 * fewer) >= kShortestRun && plan.tile_rows / fewer * a.n * item * streams.inputs > kTileBytes)
      fewer *= 2;
    const bool once = traits.again && plan.tile_rows / fewer * a.n * item <= kTileBytes;
    if (once) plan.tile_rows /= fewer;
    plan.block = (once ? kTileBytes : kBlockBytes) / (plan.tile_rows * item);
  } else {
    plan.block = a.n * item <= traits.along_block ? larger(a.n, 1) : kLongBlock;
  }
  plan.block = smaller(plan.block, larger(a.n, 1));
  plan.single = plan.block >= a.n;
  plan.stored = a.compute;
  if (!plan.across && !plan.flat && a.compute == Dtype::f32 && streams.inputs > 0) {
    const Dtype dtype = a.operand[streams.index[0]].dtype;
    bool all = dtype == Dtype::bf16 || dtype == Dtype::f16;
    for (int s = 0; s < streams.inputs; ++s) all &= is_row_of(a.operand[streams.index[s]], dtype);
    if (all) plan.stored = dtype;
  }
  if (!plan.across && !no_streams) {
    const int64_t most = plan.flat ? kTileRows : plan.single ? kShortTile : 1;
    plan.tile_rows = int(larger(smaller(kRowsInCache / (plan.block * item), most), 1));
  }
  plan.piece_rows = larger(larger(kPieceElements / larger(a.n, 1), ceil_div(a.rows, kMaxPieces)), 1);
  plan.by_row = (plan.stored == a.compute ? traits.by_row : traits.by_row_16) && is_by_row(a, streams, plan);
  if (plan.by_row) {
    const int64_t row = a.n * size_of(plan.stored);
    plan.streamed = is_streamed(a, streams, plan, streams.inputs);
    plan.fetches = plan.streamed || !halves_are_fast() || row >= kFetchedRow;
    plan.ahead = ceil_div(kLead, row);
    plan.tile_rows = int(smaller(plan.piece_rows, kTileRows));
  }
  plan.piece_rows = round_up(plan.piece_rows, plan.tile_rows);
  plan.pieces = (a.rows + plan.piece_rows - 1) / plan.piece_rows;
  return plan;
}

void RowTile::locate(const RowsArgs& a, int64_t first_row, int row_count, bool one_run) {
  args = &a;
  first = first_row;
  rows = runs = 0;
  while (rows < row_count && !(one_run && runs == 1)) {
    int64_t index[kMaxDims], linear = first_row + rows;
    for (int d = 0; d < a.ndim - 1; ++d) {
      index[d] = linear % a.row_shape[d];
      linear /= a.row_shape[d];
    }
    index[a.ndim - 1] = linear;
    Run& r = run[runs++];
    r.lane = rows;
    r.count = int(smaller(row_count - rows, a.row_shape[0] - index[0]));
    for (int k = 0; k < kRowOperands; ++k) {
      r.base[k] = static_cast<char*>(a.operand[k].data);
      if (!r.base[k]) continue;
      for (int d = 0; d < a.ndim; ++d) r.base[k] += index[d] * a.operand[k].row_strides[d];
    }
    rows += r.count;
  }
}

template <class T>
RowBuffers<T>::RowBuffers(const RowsArgs& a, const RowStreams& streams, const RowsPlan& plan)
    : args_(a), streams_(streams), plan_(plan) {
  const int count = streams.inputs + streams.outputs;
  const int64_t elements = round_up(plan.block * plan.tile_rows + Vec<T>::size, 64);
  bool in_place[kMaxStreams];
  int buffers = plan.flat ? 2 : plan.across ? 1 : 0;  // for scratch_, and row_of_
  for (int s = 0; s < count; ++s) {
    const auto& o = a.operand[streams.index[s]];
    streamed_[s] = is_streamed(a, streams, plan, s);
    const Dtype wanted = s < streams.inputs ? plan.stored : dtype_of<T>;
    in_place[s] = !plan.across && o.dtype == wanted && o.element_stride == size_of(wanted) && !streamed_[s];
    stores_ |= s >= streams.inputs && !in_place[s];
    // Across, the output takes the place of the first input, element by element.
    if (!in_place[s] && !(plan.across && s >= streams.inputs && streams.inputs > 0)) ++buffers;
  }
  // In rows that share lines their parts cost as much as that saves, where little is computed.
  const int out = streams.inputs;
  through_ = count > out && streamed_[out] && !plan.across && plan.stored == dtype_of<T> &&
             a.operand[streams.index[out]].dtype == dtype_of<T> && a.n >= kStreamedAtOnce &&
             (streams.inputs <= 1 || a.n * sizeof(T) % kLine == 0);
  at_most_ = count > out && streamed_[out] ? kStreamedAtOnce : a.n;
  bool adjacent = plan.single && !through_;
  for (int s = streams.inputs; s < count; ++s) adjacent &= are_adjacent(a.operand[streams.index[s]], a.n);
  if (plan.flat)
    at_once_ = kTileRows;
  else if (adjacent && a.n > 0)
    while (2 * at_once_ * a.n <= kStreamedAtOnce) at_once_ *= 2;
  memory_ = buffers ? static_cast<T*>(std::aligned_alloc(64, buffers * elements * sizeof(T))) : nullptr;
  if (buffers && !memory_) std::abort();
  T* next = memory_;
  for (int s = 0; s < count; ++s) {
    const bool shared = plan.across && s >= streams.inputs && streams.inputs > 0;
    buffer_[s] = in_place[s] ? nullptr : shared ? buffer_[0] : next;
    if (!in_place[s] && !shared) next += elements;
  }
  scratch_ = next;
  if (!plan.flat) return;
  row_of_ = reinterpret_cast<int32_t*>(next + elements);
  for (int row = 0; row < Vec<T>::size; ++row) std::fill_n(row_of_ + row * a.n, a.n, row);
}
template <class T>
RowBuffers<T>::~RowBuffers() {
  std::free(memory_);
}

template <class T>
void RowBuffers<T>::put(int s, const T* from, char* to, int64_t n) {
  const Dtype dtype = args_.operand[streams_.index[s]].dtype;
  if (streamed_[s])
    stream_run<T>(dtype, from, to, n, writer_[s]);
  else
    store_run<T>(dtype, from, to, size_of(dtype), n);
}

template <class T>
void RowBuffers<T>::load(const RowTile& tile, int64_t begin, int64_t n, RowView* view) {
  for (int s = 0; s < streams_.inputs + streams_.outputs; ++s) {
    const int k = streams_.index[s];
    const auto& o = args_.operand[k];
    if (!plan_.across) {
      const int64_t row = o.row_strides[0];
      char* const from = tile.run[0].base[k] + begin * o.element_stride;
      const int64_t to_next = plan_.single ? plan_.tile_rows * row : n * o.element_stride;
      view[s] = {from, row, larger(to_next, kLead)};
      if (!buffer_[s]) continue;
      view[s] = {reinterpret_cast<char*>(buffer_[s]), plan_.block * int64_t(sizeof(T)), 0};
      if (s < streams_.inputs && plan_.flat)
        load_run<T>(o.dtype, buffer_[s], from, o.element_stride, tile.rows * n);
      else if (s < streams_.inputs)
        for (int j = 0; j < tile.rows; ++j)
          load_run<T>(o.dtype, buffer_[s] + j * plan_.block, from + j * row, o.element_stride, n);
      continue;
    }
    view[s] = {reinterpret_cast<char*>(buffer_[s]), sizeof(T), 0};
    if (s >= streams_.inputs) continue;
    // Lanes past the last row are computed too, and must not be slow.
    if (const int64_t past = round_up(tile.rows, Vec<T>::size) - tile.rows; past > 0)
      for (int64_t i = 0; i < n; ++i) std::memset(buffer_[s] + i * plan_.tile_rows + tile.rows, 0, past * sizeof(T));
    for (int r = 0; r < tile.runs; ++r) {
      const auto& run = tile.run[r];
      const char* from = run.base[k] + begin * o.element_stride;
      T* to = buffer_[s] + run.lane;
      const int64_t row = o.row_strides[0], item = size_of(o.dtype);
      if (o.element_stride == item && run.count > 1) {
        // Rows one after the other: the next tile is fetched meanwhile, whose page the hardware does not foresee.
        if (row == n * item)
          for (int64_t line = 0; line < run.count * row; line += 64)
            __builtin_prefetch(from + run.count * row + line, 0, 2);
        if (o.dtype == dtype_of<T>) {
          transpose(reinterpret_cast<const T*>(from), row / item, to, plan_.tile_rows, run.count, n);
          continue;
        }
        if (row == n * item)
          load_run<T>(o.dtype, scratch_, from, item, run.count * n);
        else
          for (int j = 0; j < run.count; ++j) load_run<T>(o.dtype, scratch_ + j * n, from + j * row, item, n);
        transpose(scratch_, n, to, plan_.tile_rows, run.count, n);
      } else if (o.dtype == dtype_of<T> && row == item) {
        for (int64_t i = 0; i < n; ++i) {
          if (run.count * item < kLongRun)
            for (int64_t line = 0; line < run.count * item; line += 64)
              __builtin_prefetch(from + (i + kRunsAhead) * o.element_stride + line);
          std::memcpy(to + i * plan_.tile_rows, from + i * o.element_stride, run.count * sizeof(T));
        }
      } else {
        for (int64_t i = 0; i < n; ++i)
          load_run<T>(o.dtype, to + i * plan_.tile_rows, from + i * o.element_stride, row, run.count);
      }
    }
  }
}

template <class T>
void RowBuffers<T>::store(const RowTile& tile, int lane, int64_t begin, int64_t n, int64_t loaded) {
  for (int s = streams_.inputs; s < streams_.inputs + streams_.outputs; ++s) {
    if (!buffer_[s]) continue;
    const int k = streams_.index[s];
    const auto& o = args_.operand[k];
    if (!plan_.across) {
      const int first = lane & -at_once_;
      const T* const from = buffer_[s] + first * plan_.block + loaded;
      char* const to = tile.run[0].base[k] + first * o.row_strides[0] + begin * o.element_stride;
      if (o.element_stride == size_of(o.dtype))
        put(s, from, to, (lane - first + 1) * n);
      else
        store_run<T>(o.dtype, from, to, o.element_stride, n);
      continue;
    }
    for (int r = 0; r < tile.runs; ++r) {
      const auto& run = tile.run[r];
      char* to = run.base[k] + begin * o.element_stride;
      const T* from = buffer_[s] + run.lane;
      const int64_t row = o.row_strides[0], item = size_of(o.dtype);
      if (o.element_stride == item && run.count > 1) {
        // The lines that the next tile writes, for they are read first.
        if (row == n * item && !streamed_[s])
          for (int64_t line = 0; line < run.count * row; line += 64)
            __builtin_prefetch(to + run.count * row + line, 1, 2);
        if (o.dtype == dtype_of<T> && !streamed_[s]) {
          transpose(from, plan_.tile_rows, reinterpret_cast<T*>(to), row / item, n, run.count);
          continue;
        }
        transpose(from, plan_.tile_rows, scratch_, n, n, run.count);
        if (row == n * item)
          put(s, scratch_, to, run.count * n);
        else
          for (int j = 0; j < run.count; ++j) store_run<T>(o.dtype, scratch_ + j * n, to + j * row, item, n);
      } else if (row == item) {
        for (int64_t i = 0; i < n; ++i) put(s, from + i * plan_.tile_rows, to + i * o.element_stride, run.count);
      } else {
        for (int64_t i = 0; i < n; ++i)
          store_run<T>(o.dtype, from + i * plan_.tile_rows, to + i * o.element_stride, row, run.count);
      }
    }
  }
}

template class RowBuffers<float>;
template class RowBuffers<double>;

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
