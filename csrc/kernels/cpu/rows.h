// The row engine: rows<Formula>(args) on the CPU, for formulas that reduce along a row and then map over it.
//
// Layout: a formula sees blocks of its compute type in one of two shapes. Along: contiguous elements of one row fill
// the lanes of a register. Across: a tile of adjacent rows lies side by side, element by element, so that each lane is
// a row; this serves rows whose elements are strided (softmax over dimension 0: the tile is gathered by whole cache
// lines) and rows too short to fill registers. A block is used in place where its layout allows (along; inputs of
// 16-bit floats are widened as they are loaded), and otherwise gathered into a buffer that fits the cache, and
// scattered after.
// Passes: accumulate() over all blocks of a row, then emit() over all blocks. A row that is one block is read once; a
// longer one is read again by emit().
// Numerics: shapes and blocks depend on the arguments only, and lanes do the same arithmetic wherever they lie.
// Parallel: the rows are cut in pieces that do not depend on the number of threads; what a formula sums over rows it
// sums per piece, and the pieces are combined in order.
#pragma once
#include "convert.h"
#include "parallel.h"
#include "simd.h"
#include "stream.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kTileRows = 256;  // most rows of a tile; a multiple of every register's lanes
constexpr int kMaxStreams = 3;  // operands of which a formula sees whole rows
constexpr int kMaxPieces = 1024;
constexpr int64_t kStreamedAtOnce = 512;  // elements; a multiple of every register's lanes

// Adjacent rows, in runs along dimension 0 of the row index space.
struct RowTile {
  struct Run {
    int lane, count;
    char* base[kRowOperands];
  };
  const RowsArgs* args;
  int64_t first;
  int rows, runs;
  Run run[kTileRows];

  // The rows, or whole registers of them.
  FASTGRAD_INLINE int lanes(int size) const { return (rows + size - 1) / size * size; }
  void locate(const RowsArgs& a, int64_t first_row, int row_count);
};

// How the engine cuts the work; computed once a call.
struct RowsPlan {
  bool across;
  int tile_rows;               // lanes of a tile; 1 along
  int64_t block;               // elements of a row at a time
  int64_t piece_rows, pieces;  // rows a piece, a multiple of tile_rows
  bool single;                 // the row is one block
  Dtype stored;                // of the inputs, where they are used in place
};

// What a formula reads and writes by rows: args.operand[index[0..inputs)] and args.operand[index[inputs..)].
struct RowStreams {
  int inputs, outputs;
  int index[kMaxStreams];
};

struct Whole {
  int64_t i;
};
struct Part {
  int64_t i, count;
};

// Where a stream comes from in memory, along: what follows the block, and the bytes of an element.
struct RowSource {
  const char* next = nullptr;
  int64_t item = 0;
};

// The first `Inputs` streams are of type S in memory.
template <class T, bool Across, class S = T, int Inputs = 0>
struct RowBlock {
  using V = Vec<T>;
  static constexpr bool rows_in_lanes = Across;
  static constexpr int kStored = Inputs;
  void* data[kMaxStreams];  // at the first lane of the group
  const RowSource* source;
  int64_t pitch;     // across: from one element of a row to the next
  int64_t begin, n;  // the block's place in the row
  int64_t loaded;    // and in what was loaded
  int lane, rows;    // the group's first lane in the tile, and how many of its lanes are rows

  template <class F>
  FASTGRAD_INLINE void each(const F& f) const {
    if constexpr (Across) {
      for (int64_t i = 0; i < n; ++i) f(Whole{i});
    } else {
      int64_t i = 0;
      for (; i + V::size <= n; i += V::size) f(Whole{i});
      if (i < n) f(Part{i, n - i});
    }
  }
  FASTGRAD_INLINE T* at(int k, int64_t i) const { return static_cast<T*>(data[k]) + (Across ? i * pitch : i); }
  FASTGRAD_INLINE V load(int k, Whole s, T = 0) const {
    if (k < Inputs) return load_as<T>(static_cast<const S*>(data[k]) + s.i);
    return V::load(at(k, s.i));
  }
  FASTGRAD_INLINE V load(int k, Part s, T fill = 0) const {
    if (k < Inputs) return load_as<T>(static_cast<const S*>(data[k]) + s.i, s.count, fill);
    return V::load(at(k, s.i), s.count, fill);
  }
  // Calls for what follows the block in memory, as far on: the next block or row, while this one is computed on.
  template <class Step>
  FASTGRAD_INLINE void prefetch_next(int k, Step s) const {
    if constexpr (!Across) __builtin_prefetch(source[k].next + (loaded + s.i) * source[k].item, 0, 2);
  }
  FASTGRAD_INLINE void store(int k, Whole s, V v) const { v.store(at(k, s.i)); }
  FASTGRAD_INLINE void store(int k, Part s, V v) const { v.store(at(k, s.i), s.count); }
  // Of a vector of n elements that all rows share.
  FASTGRAD_INLINE V shared(const T* p, Whole s) const { return Across ? V(p[begin + s.i]) : V::load(p + begin + s.i); }
  FASTGRAD_INLINE V shared(const T* p, Part s) const { return V::load(p + begin + s.i, s.count); }

  // combine over term(step), with independent accumulators to hide latency.
  template <class Term, class Combine>
  FASTGRAD_INLINE V reduce(V init, const Term& term, const Combine& combine) const {
    constexpr int ways = 4;
    constexpr int64_t step = Across ? 1 : V::size;
    V acc[ways];
    for (V& v : acc) v = init;
    int64_t i = 0;
    if constexpr (!Across)  // first, so that the whole registers hide its latency
      if (const int64_t rest = n % V::size; rest > 0) acc[0] = combine(acc[0], term(Part{n - rest, rest}));
    for (; i + ways * step <= n; i += ways * step)
      for (int w = 0; w < ways; ++w) acc[w] = combine(acc[w], term(Whole{i + w * step}));
    for (; i + step <= n; i += step) acc[0] = combine(acc[0], term(Whole{i}));
    return combine(combine(acc[0], acc[1]), combine(acc[2], acc[3]));
  }
  // The lanes' partial results as one, in every lane; across, lanes are rows and stay apart.
  template <class Combine>
  static FASTGRAD_INLINE V lanes(V v, const Combine& combine) {
    if constexpr (Across)
      return v;
    else
      return V(reduce_lanes(v, combine));
  }
};

struct Sum {
  template <class X>
  FASTGRAD_INLINE X operator()(X a, X b) const {
    return a + b;
  }
};
// Of the numbers: a row's NaN makes its sum NaN, so that the maximum need not be.
struct Max {
  template <class X>
  FASTGRAD_INLINE X operator()(X a, X b) const {
    using math::at_least;
    return at_least(a, b);
  }
};

// One register a group of the tile, between the passes.
template <class T>
struct RowState {
  alignas(64) T value[kTileRows];
  FASTGRAD_INLINE Vec<T> get(int lane) const { return Vec<T>::load(value + lane); }
  FASTGRAD_INLINE void set(int lane, Vec<T> v) { v.store(value + lane); }
};

RowsPlan plan_rows(const RowsArgs& a, const RowStreams& streams, int64_t along_block);

// The buffers of one thread, and what moves blocks in and out of them.
template <class T>
class RowBuffers {
 public:
  RowBuffers(const RowsArgs& a, const RowStreams& streams, const RowsPlan& plan);
  ~RowBuffers();
  RowBuffers(const RowBuffers&) = delete;
  RowBuffers& operator=(const RowBuffers&) = delete;
  // Points data[] at elements [begin, begin + n) of the tile's rows, gathering the inputs if `gather`.
  void load(const RowTile& tile, int64_t begin, int64_t n, bool gather, void** data);
  const RowSource* sources() const { return source_; }  // of the block loaded last
  // Stores elements [begin, begin + n), which are `loaded` elements into the buffers.
  void store(const RowTile& tile, int64_t begin, int64_t n, int64_t loaded);
  // Elements of n after which to store: stores past the cache must not come in long bursts, or the others wait.
  int64_t emitted_at_once(int64_t n) const { return streamed_[streams_.inputs] ? kStreamedAtOnce : n; }

 private:
  void put(int s, const T* from, char* to, int64_t n);  // adjacent elements of an output
  const RowsArgs& args_;
  const RowStreams& streams_;
  const RowsPlan& plan_;
  T* buffer_[kMaxStreams];  // null for an operand used in place
  bool streamed_[kMaxStreams];
  StreamWriter writer_[kMaxStreams];
  RowSource source_[kMaxStreams];
  T* scratch_;  // rows before they are transposed
  T* memory_;
};

// A formula has
//   streams            a static RowStreams
//   along_block        how long a block along a row may be, in bytes: rows up to it are one block
//   Formula(args, shared)                   one a thread
//   begin_piece(piece), end_piece(piece)
//   begin(tile)        before the first pass
//   accumulate(block, whole), finish(block, whole) the first pass, and once after it
//   done(tile, in_tile) after the first pass; `in_tile`: whole rows lay in the lanes, for accumulate() to read
//   emit(block, whole) the second pass, if there are outputs
// of which it overrides what it needs.
template <class T>
struct RowFormula {
  FASTGRAD_INLINE void begin_piece(int64_t) {}
  FASTGRAD_INLINE void end_piece(int64_t) {}
  FASTGRAD_INLINE void begin(const RowTile&) {}
  FASTGRAD_INLINE void done(const RowTile&, bool) {}
  template <class B>
  FASTGRAD_INLINE void finish(const B&, bool) {}
  template <class B>
  FASTGRAD_INLINE void emit(const B&, bool) {}
};
template <class F>
concept Accumulates = requires { F::accumulates; };

template <class T, bool Across, class S, class Formula>
FASTGRAD_INLINE void rows_tile(const RowsPlan& plan, RowBuffers<T>& buffers, const RowTile& tile, int64_t n,
                               Formula& f) {
  using B = RowBlock<T, Across, S, std::is_same_v<S, T> ? 0 : Formula::streams.inputs>;
  // Elements [begin, begin + length), which are `loaded` elements into `data`.
  const auto groups = [&](int64_t begin, int64_t length, int64_t loaded, void* const* data, const auto& pass) {
    for (int lane = 0; lane < (Across ? tile.rows : 1); lane += B::V::size) {
      B block;
      for (int k = 0; k < kMaxStreams; ++k) {
        if (k < B::kStored)
          block.data[k] = static_cast<S*>(data[k]) + loaded;
        else
          block.data[k] = static_cast<T*>(data[k]) + (Across ? lane : loaded);
      }
      block.loaded = loaded;
      block.source = buffers.sources();
      block.pitch = plan.tile_rows;
      block.begin = begin;
      block.n = length;
      block.lane = lane;
      block.rows = Across ? (tile.rows - lane < B::V::size ? tile.rows - lane : B::V::size) : 1;
      pass(block);
    }
  };
  void* data[kMaxStreams] = {};
  f.begin(tile);
  if constexpr (Accumulates<Formula>) {
    for (int64_t begin = 0; begin < n; begin += plan.block) {
      const int64_t length = n - begin < plan.block ? n - begin : plan.block;
      buffers.load(tile, begin, length, true, data);
      groups(begin, length, 0, data, [&](const B& b) { f.accumulate(b, plan.single); });
    }
    groups(0, 0, 0, data, [&](const B& b) { f.finish(b, plan.single); });
    f.done(tile, Across && plan.single);
  }
  if constexpr (Formula::streams.outputs > 0) {
    for (int64_t begin = 0; begin < n; begin += plan.block) {
      const int64_t length = n - begin < plan.block ? n - begin : plan.block;
      if (!Accumulates<Formula> || !plan.single) buffers.load(tile, begin, length, true, data);
      const int64_t most = Across ? length : buffers.emitted_at_once(length);
      for (int64_t i = 0; i < length; i += most) {
        const int64_t part = length - i < most ? length - i : most;
        groups(begin + i, part, i, data, [&](const B& b) { f.emit(b, plan.single); });
        buffers.store(tile, begin + i, part, i);
      }
    }
  }
}

template <class T, bool Across, class S, class Formula, class Shared>
void rows_pieces(const RowsArgs& a, const RowsPlan& plan, int64_t begin, int64_t end, Shared* shared) {
  RowBuffers<T> buffers(a, Formula::streams, plan);
  RowTile tile;
  Formula f(a, shared);
  for (int64_t piece = begin; piece < end; ++piece) {
    f.begin_piece(piece);
    const int64_t first = piece * plan.piece_rows;
    const int64_t last = first + plan.piece_rows < a.rows ? first + plan.piece_rows : a.rows;
    for (int64_t r = first; r < last; r += plan.tile_rows) {
      tile.locate(a, r, int(last - r < plan.tile_rows ? last - r : plan.tile_rows));
      rows_tile<T, Across, S>(plan, buffers, tile, a.n, f);
    }
    f.end_piece(piece);
  }
}

// Returns the number of pieces.
template <class T, class Formula, class Shared>
int64_t rows_of(const RowsArgs& a, Shared* shared) {
  const RowsPlan plan = plan_rows(a, Formula::streams, Formula::along_block);
  parallel_for(0, plan.pieces, 1, [&](int64_t begin, int64_t end) {
    if (plan.across) return rows_pieces<T, true, T, Formula>(a, plan, begin, end, shared);
    if constexpr (std::is_same_v<T, float> && Formula::streams.inputs > 0) {
      if (plan.stored == Dtype::bf16) return rows_pieces<T, false, bf16, Formula>(a, plan, begin, end, shared);
      if (plan.stored == Dtype::f16) return rows_pieces<T, false, f16, Formula>(a, plan, begin, end, shared);
    }
    rows_pieces<T, false, T, Formula>(a, plan, begin, end, shared);
  });
  return plan.pieces;
}

template <template <class> class Formula>
Status rows(const RowsArgs& a) {
  void* none = nullptr;
  if (a.compute == Dtype::f32) return rows_of<float, Formula<float>>(a, &none), kSuccess;
  if (a.compute == Dtype::f64) return rows_of<double, Formula<double>>(a, &none), kSuccess;
  return kUnsupported;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
