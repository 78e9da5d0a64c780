// The driver of the elementwise engine; see map.h. What is the same along a run, or in every short run, is gathered
// once.
#include "map.h"

#include <algorithm>

#include "convert.h"
#include "parallel.h"
#include "sizes.h"
#include "stream.h"
#include "transpose.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kBlockBytes = 2048;  // of an operand gathered at a time, or a result streamed: a few fit L1
constexpr int64_t kLongRun = 256;      // elements worth a call of the formula
constexpr int64_t kMovedRun = 8;       // the same, if only places move from run to run
constexpr int64_t kGrain = 32768;      // elements worth a thread
// A tile, where an operand is contiguous along dimension 1: a cache line of it is read once, whole.
constexpr int64_t kTileColumns = 128, kTileRows = 16;

struct Position {
  int64_t index[kMaxDims];
  FASTGRAD_INLINE Position(const MapArgs& a, int64_t linear) {
    for (int d = 0; d < a.ndim; ++d) {
      index[d] = linear % a.shape[d];
      linear /= a.shape[d];
    }
  }
  FASTGRAD_INLINE void advance(const MapArgs& a, int64_t n) {  // within one run, or to its very end
    index[0] += n;
    for (int d = 0; d + 1 < a.ndim && index[d] == a.shape[d]; ++d) {
      index[d] = 0;
      ++index[d + 1];
    }
  }
  FASTGRAD_INLINE char* of(const MapArgs& a, const Operand& o) const {
    char* p = static_cast<char*>(o.data);
    for (int d = 0; d < a.ndim; ++d) p += index[d] * o.strides[d];
    return p;
  }
};

// Calls run(offset, position, length) for the pieces of [at, at + n) that lie along dimension 0.
template <class F>
FASTGRAD_INLINE void for_runs(const MapArgs& a, Position at, int64_t n, const F& run) {
  for (int64_t done = 0; done < n;) {
    const int64_t length = smaller(n - done, a.shape[0] - at.index[0]);
    run(done, at, length);
    at.advance(a, length);
    done += length;
  }
}

// Whether runs along dimension 0 can be used where they lie.
template <class T>
FASTGRAD_INLINE bool is_direct(const Operand& o) {
  return o.data && o.dtype == dtype_of<T> && o.strides[0] == sizeof(T);
}

// Whether an output goes past the cache: it is large, in long runs, and no input lies there.
bool is_streamed(const MapArgs& a, int k) {
  const Operand& o = a.operand[k];
  const int64_t size = size_of(o.dtype);
  if (k >= a.outputs || o.strides[0] != size || a.numel * size < kStreamFrom || a.shape[0] * size < kStreamRun)
    return false;
  for (int in = a.outputs; in < a.operands; ++in)
    if (a.operand[in].data == o.data) return false;
  return true;
}

// Where in their lines the outputs go on; -1 if not in the same place.
FASTGRAD_INLINE int64_t place_of_outputs(const MapArgs& a, const Position& at) {
  const auto place = [&](int k) { return place_in_line(at.of(a, a.operand[k])); };
  for (int k = 1; k < a.outputs; ++k)
    if (place(k) != place(0)) return -1;
  return place(0);
}

// Whether it is contiguous from run to run, or the same in each and short.
bool is_flat(const MapArgs& a, const Operand& o) {
  for (int d = 1; d < a.ndim; ++d)
    if (o.strides[d] != o.strides[d - 1] * a.shape[d - 1]) return false;
  return true;
}
bool is_cyclic(const MapArgs& a, const Operand& o) {
  if (!o.data || a.ndim < 2 || a.shape[0] >= kLongRun) return false;
  for (int d = 1; d < a.ndim; ++d)
    if (o.strides[d] != 0) return false;
  return true;
}

// How a range reaches its operands: in place, or by a block in L1.
template <class T>
struct Reach {
  static constexpr int64_t kBlock = kBlockBytes / sizeof(T);
  // Used in place along a run (direct), and across runs (flat); a number (constant); the same all along a run (fixed);
  // what all runs share, gathered once (cyclic); an output that goes past the cache (streamed).
  bool direct[kMaxOperands], flat[kMaxOperands], constant[kMaxOperands], fixed[kMaxOperands], cyclic[kMaxOperands],
      streamed[kMaxOperands];
  bool any_cyclic = false, any_streamed = false;
  bool one_run = true;    // whether the whole range is one: no operand ends with a run
  bool long_runs = true;  // whether runs may be longer than a block: none is gathered element by element
  bool through = true;    // whether the formula's loop can stream all outputs
  bool moves;             // whether a run differs from the one before in nothing but where it is, and in numbers
  alignas(64) T scratch[kMaxOperands][kBlock + kLongRun];  // a block, which may begin anywhere in a cycle

  Reach(const MapArgs& a, int64_t count) {
    for (int k = 0; k < a.operands; ++k) {
      const Operand& o = a.operand[k];
      constant[k] = !o.data;
      fixed[k] = k >= a.outputs && !constant[k] && o.strides[0] == 0;
      streamed[k] = is_streamed(a, k);
      cyclic[k] = k >= a.outputs && is_cyclic(a, o);
      direct[k] = is_direct<T>(o);
      flat[k] = direct[k] && is_flat(a, o);
      one_run &= flat[k] || constant[k] || cyclic[k];
    }
    moves = a.ndim > 1 && !one_run;
    for (int k = 0; k < a.operands; ++k) {
      const Operand& o = a.operand[k];
      cyclic[k] &= one_run;
      direct[k] &= !cyclic[k];
      any_cyclic |= cyclic[k];
      any_streamed |= streamed[k];
      long_runs &= direct[k] || cyclic[k] || constant[k] || fixed[k];
      moves &= direct[k] || constant[k] || (fixed[k] && o.dtype == dtype_of<T>);
      moves &= !streamed[k] || o.strides[1] % kLine == 0;
      if (k < a.outputs) through &= streamed[k] && direct[k];
      if (constant[k]) scratch[k][0] = math::value<T>(o.immediate);
      if (cyclic[k])
        for (int64_t done = 0; done < smaller(count, kBlock) + a.shape[0]; done += a.shape[0])
          load_run<T>(o.dtype, scratch[k] + done, static_cast<const char*>(o.data), o.strides[0],
                      smaller(a.shape[0], kBlock + kLongRun - done));
    }
  }
};

template <class T>
void map_range(const MapArgs& a, int64_t begin, int64_t end, MapBlock block, const void* formula) {
  constexpr int64_t kBlock = Reach<T>::kBlock, kLineElements = kLine / sizeof(T);
  Reach<T> reach(a, end - begin);
  StreamWriter writer[kMaxOperands];
  Position at(a, begin);
  for (int64_t i = begin; i < end;) {
    const int64_t run = reach.one_run ? end - i : smaller(end - i, a.shape[0] - at.index[0]);
    // A long run is used in place where it can be; short runs are packed together into one block.
    const bool in_place = run >= kLongRun || (reach.moves && !reach.any_streamed && run >= kMovedRun) ||
                          i + run == end || (reach.through && at.index[0] > 0);
    // Whole lines are streamed from registers, parts of lines, and what is converted, from a block.
    const int64_t place = reach.through && in_place ? place_of_outputs(a, at) : -1;
    const bool streams = place == 0 && run >= kLineElements;
    int64_t n = smaller(in_place ? run : end - i, kBlock);
    if (in_place && reach.long_runs && (streams || !reach.any_streamed)) n = run;
    if (streams)
      n -= n % kLineElements;
    else if (place > 0)
      n = smaller(n, kLineElements - place / int64_t(sizeof(T)));
    int64_t runs = 1;
    if (reach.moves && in_place && n == a.shape[0] && streams == reach.any_streamed)
      runs = smaller((end - i) / n, a.shape[1] - at.index[1]);
    MapRuns m{{}, {}, 0, streams, n, runs};
    for (int k = 0; k < a.operands; ++k) {
      const Operand& o = a.operand[k];
      m.operand[k] = reach.scratch[k] + (reach.cyclic[k] ? at.index[0] : 0);
      m.stride[k] = 0;
      const bool held = reach.constant[k] || (reach.fixed[k] && in_place);
      m.held |= unsigned(held) << k;
      if (reach.constant[k] || reach.cyclic[k]) continue;
      if ((reach.direct[k] && (in_place || reach.flat[k]) && reach.streamed[k] <= streams) ||
          (held && o.dtype == dtype_of<T>)) {
        m.operand[k] = at.of(a, o);
        if (runs > 1) m.stride[k] = o.strides[1];
      } else if (k >= a.outputs) {
        for_runs(a, at, held ? 1 : n, [&](int64_t done, const Position& p, int64_t length) {
          load_run<T>(o.dtype, reach.scratch[k] + done, p.of(a, o), o.strides[0], length);
        });
      }
    }
    if (reach.any_cyclic) m.n = smaller(n, kBlock);
    for (int64_t done = 0;;) {
      block(m, formula);
      if ((done += m.n) >= n) break;
      for (int k = 0; k < a.operands; ++k)
        if (reach.cyclic[k])
          m.operand[k] = reach.scratch[k] + (at.index[0] + done) % a.shape[0];
        else if (!reach.constant[k])
          m.operand[k] = static_cast<T*>(m.operand[k]) + m.n;
      m.n = smaller(m.n, n - done);
    }
    for (int k = 0; k < a.outputs; ++k) {
      const Operand& o = a.operand[k];
      if (m.operand[k] == reach.scratch[k])
        for_runs(a, at, n, [&](int64_t done, const Position& p, int64_t length) {
          if (reach.streamed[k])
            stream_run<T>(o.dtype, reach.scratch[k] + done, p.of(a, o), length, writer[k]);
          else
            store_run<T>(o.dtype, reach.scratch[k] + done, p.of(a, o), o.strides[0], length);
        });
    }
    i += n * runs;
    if (runs == 1 && n <= a.shape[0] - at.index[0])
      at.advance(a, n);
    else
      at = Position(a, i);
  }
  if (reach.any_streamed) stream_fence();
}

// Whether an operand lies transposed to dimension 0, so that reading along it would touch a line an element.
bool is_transposed(const Operand& o) {
  const int64_t size = size_of(o.dtype);
  return o.data && o.strides[1] == size && o.strides[0] != size && o.strides[0] != 0;
}
template <class T>
bool wants_tiles(const MapArgs& a) {
  if (a.ndim < 2 || a.shape[0] < kTileRows || a.shape[1] < kTileRows) return false;
  for (int k = a.outputs; k < a.operands; ++k)
    if (is_transposed(a.operand[k])) return true;
  return false;
}

// Tiles [begin, end) of kTileColumns along dimension 0 by kTileRows along dimension 1, the latter varying fastest.
template <class T>
void map_tiles(const MapArgs& a, int64_t begin, int64_t end, MapBlock block, const void* formula) {
  alignas(64) T scratch[kMaxOperands][kTileRows][kTileColumns], converted[kTileColumns][kTileRows];
  const int64_t across = (a.shape[0] + kTileColumns - 1) / kTileColumns,
                down = (a.shape[1] + kTileRows - 1) / kTileRows;
  bool streamed[kMaxOperands], direct[kMaxOperands];
  StreamWriter writer[kMaxOperands];
  for (int k = 0; k < a.operands; ++k) {
    streamed[k] = is_streamed(a, k);
    direct[k] = is_direct<T>(a.operand[k]);
    if (!a.operand[k].data) scratch[k][0][0] = math::value<T>(a.operand[k].immediate);
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t row0 = tile % down * kTileRows, rows = smaller(kTileRows, a.shape[1] - row0);
    const int64_t column0 = tile / down % across * kTileColumns, columns = smaller(kTileColumns, a.shape[0] - column0);
    Position at(a, tile / down / across * a.shape[0] * a.shape[1]);
    at.index[0] = column0, at.index[1] = row0;
    char* base[kMaxOperands];
    for (int k = 0; k < a.operands; ++k) {
      const Operand& o = a.operand[k];
      base[k] = o.data ? at.of(a, o) : nullptr;
      if (k < a.outputs || !o.data || direct[k]) continue;
      if (is_transposed(o)) {
        const T* from = reinterpret_cast<const T*>(base[k]);
        int64_t pitch = o.strides[0] / int64_t(sizeof(T));
        if (o.dtype != dtype_of<T> || o.strides[0] % int64_t(sizeof(T)) != 0) {
          for (int64_t c = 0; c < columns; ++c)
            load_run<T>(o.dtype, converted[c], base[k] + c * o.strides[0], o.strides[1], rows);
          from = converted[0], pitch = kTileRows;
        }
        transpose(from, pitch, scratch[k][0], kTileColumns, columns, rows);
      } else {
        for (int64_t r = 0; r < rows; ++r)
          load_run<T>(o.dtype, scratch[k][r], base[k] + r * o.strides[1], o.strides[0], columns);
      }
    }
    bool streams = true;
    for (int k = 0; k < a.outputs; ++k)
      streams &= streamed[k] && direct[k] && place_in_line(base[k]) == 0 && a.operand[k].strides[1] % kLine == 0;
    MapRuns m{{}, {}, 0, streams, columns, rows};
    for (int k = 0; k < a.operands; ++k) {
      const bool there = direct[k] && streamed[k] <= streams, held = !a.operand[k].data;
      m.held |= unsigned(held) << k;
      m.operand[k] = there ? base[k] : static_cast<void*>(scratch[k][0]);
      m.stride[k] = there ? a.operand[k].strides[1] : held ? 0 : kTileColumns * sizeof(T);
    }
    block(m, formula);
    for (int k = 0; k < a.outputs; ++k) {
      const Operand& o = a.operand[k];
      for (int64_t r = 0; r < rows && m.operand[k] == scratch[k][0]; ++r)
        if (streamed[k])
          stream_run<T>(o.dtype, scratch[k][r], base[k] + r * o.strides[1], columns, writer[k]);
        else
          store_run<T>(o.dtype, scratch[k][r], base[k] + r * o.strides[1], o.strides[0], columns);
    }
  }
}

template <class T>
void map_typed(const MapArgs& a, MapBlock block, const void* formula) {
  if (wants_tiles<T>(a)) {
    const int64_t plane = a.shape[0] * a.shape[1], across = (a.shape[0] + kTileColumns - 1) / kTileColumns;
    const int64_t tiles = across * ((a.shape[1] + kTileRows - 1) / kTileRows) * (a.numel / plane);
    parallel_for(0, tiles, kGrain / (kTileColumns * kTileRows),
                 [&](int64_t begin, int64_t end) { map_tiles<T>(a, begin, end, block, formula); });
  } else {
    parallel_for(0, a.numel, kGrain, [&](int64_t begin, int64_t end) { map_range<T>(a, begin, end, block, formula); });
  }
}

}  // namespace

Status map_driver(const MapArgs& a, MapBlock block, MapBlock bf16_block, const void* formula) {
  bool all_bf16 = bf16_block;
  for (int k = 0; k < a.operands; ++k) all_bf16 &= a.operand[k].data && a.operand[k].dtype == Dtype::bf16;
  if (all_bf16) {  // which are moved as words of 16 bits
    MapArgs words = a;
    for (int k = 0; k < a.operands; ++k) words.operand[k].dtype = Dtype::i16;
    map_typed<int16_t>(words, bf16_block, formula);
    return kSuccess;
  }
  switch (a.compute) {
    case Dtype::f32:
      map_typed<float>(a, block, formula);
      break;
    case Dtype::f64:
      map_typed<double>(a, block, formula);
      break;
    case Dtype::i64:
      map_typed<int64_t>(a, block, formula);
      break;
    case Dtype::i32:
      map_typed<int32_t>(a, block, formula);
      break;
    case Dtype::i16:
      map_typed<int16_t>(a, block, formula);
      break;
    case Dtype::i8:
      map_typed<int8_t>(a, block, formula);
      break;
    default:
      map_typed<uint8_t>(a, block, formula);
  }
  return kSuccess;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
