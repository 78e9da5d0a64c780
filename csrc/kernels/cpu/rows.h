// The row engine: rows<Formula>(args) on the CPU, for formulas that reduce along a row and then map over it.
//
// Layout: a formula sees blocks of its compute type in one of two shapes. Along: contiguous elements of one row fill
// the lanes of a register. Across: a tile of adjacent rows lies side by side, element by element, so that each lane is
// a row; this serves rows whose elements are strided (softmax over dimension 0: the tile is gathered by whole cache
// lines) and rows too short to fill registers. A block is used in place where its layout allows (along; inputs of
// 16-bit floats are widened as they are loaded), and otherwise gathered into a buffer that fits the cache, and
// scattered after.
// Passes: accumulate() over all blocks of a tile of rows, then emit() over all blocks. Rows that are one block are read
// once; longer ones are read again by emit(). What is known of a row lies in one lane, in both shapes: along, a tile is
// as many rows as fit a part of L1, and a register of them is reduced at once.
// Numerics: shapes and blocks depend on the arguments only, and lanes do the same arithmetic wherever they lie.
// Parallel: the rows are cut in pieces that do not depend on the number of threads; what a formula sums over rows it
// sums per piece, and the pieces are combined in order.
#pragma once
#include "convert.h"
#include "parallel.h"
#include "simd.h"
#include "stream.h"
#include "transpose.h"

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

  // At most `row_count` rows; of one run if `one_run`.
  void locate(const RowsArgs& a, int64_t first_row, int row_count, bool one_run);
};

// How the engine cuts the work; computed once a call.
struct RowsPlan {
  bool across;
  int tile_rows;               // most rows of a tile
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

// A stream of a tile's block: where its first row begins, and the bytes from row to row and to what comes after the
// block.
struct RowView {
  char* data;
  int64_t step, lead;
};

// A row, or across a register of rows, of `Streams` streams. The first `Inputs` are of type S in memory.
template <class T, bool Across, int Streams, class S = T, int Inputs = 0>
struct RowBlock {
  using V = Vec<T>;
  static constexpr bool rows_in_lanes = Across;
  static constexpr int kRows = Across ? V::size : 1, kStreams = Streams, kStored = Inputs;
  char* data[kMaxStreams];
  const char* ahead[kMaxStreams];  // along: the same of what comes after this block
  int64_t pitch;                   // across: from one element of a row to the next
  int64_t begin, n;                // the block's place in the row
  int lane, rows;                  // the first row's lane in the tile, and how many there are
  bool split;                      // see RowBlocks

  // Elements [i, i + count) of it.
  FASTGRAD_INLINE RowBlock part(int64_t i, int64_t count) const {
    RowBlock b = *this;
    for (int k = 0; k < Streams; ++k) {
      const int64_t bytes = i * (Across ? pitch : 1) * kItem(k);
      b.data[k] += bytes, b.ahead[k] += bytes;
    }
    b.begin += i, b.n = count;
    return b;
  }
  static constexpr int64_t kItem(int k) { return k < Inputs ? sizeof(S) : sizeof(T); }
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
  FASTGRAD_INLINE T* at(int k, int64_t i) const { return reinterpret_cast<T*>(data[k]) + (Across ? i * pitch : i); }
  FASTGRAD_INLINE V load(int k, Whole s, T = 0) const {
    if (k < Inputs) return load_as<T>(reinterpret_cast<const S*>(data[k]) + s.i);
    return V::load(at(k, s.i));
  }
  FASTGRAD_INLINE V load(int k, Part s, T fill = 0) const {
    if (k < Inputs) return load_as<T>(reinterpret_cast<const S*>(data[k]) + s.i, s.count, fill);
    return V::load(at(k, s.i), s.count, fill);
  }
  // Calls for the same step of what comes after this block: the hardware does not foresee where the next rows begin,
  // and lines to be written are read first.
  template <class Step>
  FASTGRAD_INLINE void prefetch_next(Step s, int streams = kStreams) const {
    if constexpr (!Across)
      for (int k = 0; k < streams; ++k) __builtin_prefetch(ahead[k] + s.i * kItem(k), 0, 2);
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
    const bool several = n >= ways * step;
    for (; i + ways * step <= n; i += ways * step)
      for (int w = 0; w < ways; ++w) acc[w] = combine(acc[w], term(Whole{i + w * step}));
    for (; i + step <= n; i += step) acc[0] = combine(acc[0], term(Whole{i}));
    return several ? combine(combine(acc[0], acc[1]), combine(acc[2], acc[3])) : acc[0];
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

// One number a row of the tile, between the passes. The lanes of a register past the last row take part in arithmetic,
// where what happens to lie there may be subnormal, and slow: those of a tile along rows are cleared.
template <class T>
struct RowState {
  alignas(64) T value[kTileRows];
  RowState() { set(0, Vec<T>(0)); }
  FASTGRAD_INLINE Vec<T> get(int lane) const { return Vec<T>::load(value + lane); }
  FASTGRAD_INLINE void set(int lane, Vec<T> v) { v.store(value + lane); }
  // As the lanes of block b need it.
  template <class B>
  FASTGRAD_INLINE Vec<T> of(const B& b) const {
    return B::rows_in_lanes || b.split ? get(b.lane) : Vec<T>(value[b.lane]);
  }
};

// A block of all rows of a tile. `split`: of a single long row, each of whose lanes has results of its own until
// finish() combines them, since to do that after every block takes 3 to 5% of the time.
template <class B>
struct RowBlocks {
  using Block = B;
  using V = typename B::V;
  const RowTile& tile;
  const RowView* view;
  int64_t pitch, begin, n;
  bool split;

  FASTGRAD_INLINE B first() const {
    B b;
    for (int k = 0; k < B::kStreams; ++k) b.data[k] = view[k].data, b.ahead[k] = view[k].data + view[k].lead;
    b.pitch = pitch, b.begin = begin, b.n = n, b.split = split;
    b.lane = 0;
    b.rows = tile.rows < B::kRows ? tile.rows : B::kRows;
    return b;
  }
  FASTGRAD_INLINE void advance(B& b) const {
    b.lane += B::kRows;
    if (tile.rows - b.lane < b.rows) b.rows = tile.rows - b.lane;
    for (int k = 0; k < B::kStreams; ++k) b.data[k] += B::kRows * view[k].step, b.ahead[k] += B::kRows * view[k].step;
  }
  template <class F>
  FASTGRAD_INLINE void each(const F& f) const {
    for (B b = first(); b.lane < tile.rows; advance(b)) f(b);
  }
  // Calls take(lane, v), v being of each row from `lane` on, or of each lane of a split one, the partial results that
  // partial(block) gives, combined.
  template <class Partial, class Combine, class Take>
  FASTGRAD_INLINE void reduce(const Partial& partial, const Combine& combine, const Take& take) const {
    if constexpr (B::rows_in_lanes) {
      each([&](const B& b) { take(b.lane, partial(b)); });
    } else {
      B b = first();
      for (int lane = 0; lane < tile.rows; lane += V::size) {
        const int count = tile.rows - lane < V::size ? tile.rows - lane : V::size;
        V row[V::size], last;
        for (int j = 0; j < count; ++j, advance(b)) row[j] = last = partial(b);
        if (count > 1) {
          for (int j = count; j < V::size; ++j) row[j] = V(0);
          last = reduce_each<V::size / 2>(row, combine);
        } else if (!split) {
          last = V(reduce_lanes(last, combine));
        }
        take(lane, last);
      }
    }
  }
};

// `again`: whether emit() reads what accumulate() read.
RowsPlan plan_rows(const RowsArgs& a, const RowStreams& streams, int64_t along_block, int short_row, bool again);

// The buffers of one thread, and what moves blocks in and out of them.
template <class T>
class RowBuffers {
 public:
  RowBuffers(const RowsArgs& a, const RowStreams& streams, const RowsPlan& plan);
  ~RowBuffers();
  RowBuffers(const RowBuffers&) = delete;
  RowBuffers& operator=(const RowBuffers&) = delete;
  // Where elements [begin, begin + n) of the tile's rows are, the inputs gathered where they must be.
  void load(const RowTile& tile, int64_t begin, int64_t n, RowView* view);
  // Stores elements [begin, begin + n) of the rows up to `lane`, which are `loaded` elements into the buffers.
  void store(const RowTile& tile, int lane, int64_t begin, int64_t n, int64_t loaded);
  // Whether to do that when the row in lane `lane` is done. Rows that are short, and adjacent, are stored several at
  // once.
  FASTGRAD_INLINE bool stores(const RowTile& tile, int lane) const {
    return stores_ && (((lane + 1) & (at_once_ - 1)) == 0 || lane + 1 == tile.rows);
  }
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
  bool stores_ = false;  // whether there is anything to store
  int at_once_ = 1;      // rows, a power of two
  T* scratch_;           // rows before they are transposed
  T* memory_;
};

// A formula has
//   streams            a static RowStreams
//   along_block        how long a block along a row may be, in bytes: rows up to it are one block
//   short_row          how many registers of a row are too few to compute along it
//   Formula(args, shared)                   one a thread
//   begin_piece(piece), end_piece(piece)
//   begin(tile)        before the first pass
//   accumulate(blocks, whole) the first pass: of all rows, a block; `whole`: it is all of each
//   finish(tile, in_tile, split) after it; `in_tile`: whole rows lay in the lanes, for accumulate() to read
//   emit(block, whole) the second pass, if there are outputs
// of which it overrides what it needs.
template <class T>
struct RowFormula {
  static constexpr int short_row = 3;
  FASTGRAD_INLINE void begin_piece(int64_t) {}
  FASTGRAD_INLINE void end_piece(int64_t) {}
  FASTGRAD_INLINE void begin(const RowTile&) {}
  FASTGRAD_INLINE void finish(const RowTile&, bool, bool) {}
  template <class B>
  FASTGRAD_INLINE void emit(const B&, bool) {}
};
template <class F>
concept Accumulates = requires { F::accumulates; };

template <class T, bool Across, class S, class Formula>
FASTGRAD_INLINE void rows_tile(const RowsPlan& plan, RowBuffers<T>& buffers, const RowTile& tile, int64_t n,
                               Formula& f) {
  constexpr RowStreams streams = Formula::streams;
  using B = RowBlock<T, Across, streams.inputs + streams.outputs, S, std::is_same_v<S, T> ? 0 : streams.inputs>;
  RowView view[kMaxStreams] = {};
  [[maybe_unused]] const auto load = [&](int64_t begin, bool again, bool split) {
    const int64_t length = n - begin < plan.block ? n - begin : plan.block;
    if (again) buffers.load(tile, begin, length, view);
    return RowBlocks<B>{tile, view, plan.tile_rows, begin, length, split};
  };
  f.begin(tile);
  if constexpr (Accumulates<Formula>) {
    if (plan.single)
      f.accumulate(load(0, true, false), true);
    else
      for (int64_t begin = 0; begin < n; begin += plan.block) f.accumulate(load(begin, true, !Across), false);
    f.finish(tile, Across && plan.single, !Across && !plan.single);
  }
  if constexpr (streams.outputs > 0) {
    for (int64_t begin = 0; begin < n; begin += plan.block) {
      const RowBlocks<B> blocks = load(begin, !Accumulates<Formula> || !plan.single, false);
      const int64_t most = Across ? blocks.n : buffers.emitted_at_once(blocks.n);
      blocks.each([&](const B& b) __attribute__((always_inline)) {
        for (int64_t i = 0; i < blocks.n; i += most) {
          const B part = b.part(i, blocks.n - i < most ? blocks.n - i : most);
          f.emit(part, plan.single);
          if (!Across && buffers.stores(tile, b.lane)) buffers.store(tile, b.lane, part.begin, part.n, i);
        }
      });
      if (Across) buffers.store(tile, tile.rows - 1, begin, blocks.n, 0);
    }
  }
}

template <class T, bool Across, class S, class Formula, class Shared>
void rows_pieces(const RowsArgs& a, const RowsPlan& plan, int64_t begin, int64_t end, Shared* shared) {
  constexpr bool one_run = !Across && Formula::streams.inputs + Formula::streams.outputs > 0;
  RowBuffers<T> buffers(a, Formula::streams, plan);
  RowTile tile;
  Formula f(a, shared);
  for (int64_t piece = begin; piece < end; ++piece) {
    f.begin_piece(piece);
    const int64_t first = piece * plan.piece_rows;
    const int64_t last = first + plan.piece_rows < a.rows ? first + plan.piece_rows : a.rows;
    for (int64_t r = first; r < last; r += tile.rows) {
      tile.locate(a, r, int(last - r < plan.tile_rows ? last - r : plan.tile_rows), one_run);
      rows_tile<T, Across, S>(plan, buffers, tile, a.n, f);
    }
    f.end_piece(piece);
  }
}

// Returns the number of pieces.
template <class T, class Formula, class Shared>
int64_t rows_of(const RowsArgs& a, Shared* shared) {
  const RowsPlan plan = plan_rows(a, Formula::streams, Formula::along_block, Formula::short_row,
                                  Accumulates<Formula> && Formula::streams.outputs > 0);
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
