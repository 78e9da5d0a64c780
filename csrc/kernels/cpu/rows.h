// The row engine: rows<Formula>(args) on the CPU, for formulas that reduce along a row and then map over it.
//
// Layout: a formula sees blocks of its compute type in one of three shapes. Along: contiguous elements of one row fill
// the lanes of a register. Across: a tile of adjacent rows lies side by side, element by element, so that each lane is
// a row; this serves rows whose elements are strided (softmax over dimension 0: the tile is gathered by whole cache
// lines) and rows too short to fill registers. Flat: short rows, one after the other, are one run of elements
// (flat_rows.h). A block is used in place where its layout allows (along and flat; along, inputs of 16-bit floats are
// widened as they are loaded), and otherwise gathered into a buffer that fits the cache, and scattered after.
// Passes: accumulate() over all blocks of a tile of rows, then emit() over all blocks. Rows that are one block are read
// once; longer ones are read again by emit(). What is known of a row lies in one lane, in both shapes: along, a tile is
// as many rows as fit a part of L1, and a register of them is reduced at once. A formula with little to compute takes
// rows in place one at a time instead, by row(): no tile, no buffers.
// Numerics: shapes and blocks depend on the arguments only, and lanes do the same arithmetic wherever they lie.
// Parallel: the rows are cut in pieces that do not depend on the number of threads; what a formula sums over rows it
// sums per piece, and the pieces are combined in order.
#pragma once
#include "flat_rows.h"
#include "parallel.h"
#include "row_blocks.h"
#include "sizes.h"
#include "stream.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kMaxPieces = 1024;
constexpr int64_t kRowInCache = 1 << 20;  // bytes of a row whose passes find it in a cache: its exponentials are kept
constexpr int64_t kStreamedAtOnce = 512;  // elements; a multiple of every register's lanes

enum class RowShape { along, across, flat };

// How the engine cuts the work; computed once a call.
struct RowsPlan {
  bool across, flat;
  int tile_rows;               // most rows of a tile
  int64_t block;               // elements of a row at a time
  int64_t piece_rows, pieces;  // rows a piece, a multiple of tile_rows
  bool single;                 // the row is one block
  bool by_row;                 // rows in place, one at a time
  bool streamed, fetches;      // then: whether results go past the cache, and what comes is fetched,
  int64_t ahead;               // so many rows
  Dtype stored;                // of the inputs, where they are used in place
};

// What a formula reads and writes by rows: args.operand[index[0..inputs)] and args.operand[index[inputs..)].
struct RowStreams {
  int inputs, outputs;
  int index[kMaxStreams];
};

// What a formula has of these; `again`: whether emit() reads what accumulate() read.
struct RowTraits {
  int64_t along_block, flat_row;
  int short_row;
  bool by_row, by_row_16, again;
};
RowsPlan plan_rows(const RowsArgs& a, const RowStreams& streams, RowTraits traits);

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
  // Of a flat tile: room for its elements, and of each element of a group its row.
  T* scratch() const { return scratch_; }
  const int32_t* row_of() const { return row_of_; }
  // Whether to do that when the row in lane `lane` is done. Rows that are short, and adjacent, are stored several at
  // once.
  FASTGRAD_INLINE bool stores(const RowTile& tile, int lane) const {
    return stores_ && (((lane + 1) & (at_once_ - 1)) == 0 || lane + 1 == tile.rows);
  }
  // How many elements of a row, of `rest` from element i on, to emit at once; if to a StreamedBlock, its line.
  FASTGRAD_INLINE int64_t emitted_at_once(const RowTile& tile, int lane, int64_t i, int64_t rest, T*& line) const {
    line = nullptr;
    if (!through_) return rest < at_most_ ? rest : at_most_;
    // Whole lines from where one begins on, and what lies before and behind them.
    constexpr int64_t kElements = kLine / sizeof(T);
    const int k = streams_.index[streams_.inputs];
    T* const to = reinterpret_cast<T*>(tile.run[0].base[k] + lane * args_.operand[k].row_strides[0]) + i;
    const int64_t place = place_in_line(to) / int64_t(sizeof(T));
    if (place > 0 || rest < kElements) return rest < kElements - place ? rest : kElements - place;
    line = to;
    return rest - rest % kElements;
  }

 private:
  void put(int s, const T* from, char* to, int64_t n);  // adjacent elements of an output
  const RowsArgs& args_;
  const RowStreams& streams_;
  const RowsPlan& plan_;
  T* buffer_[kMaxStreams];  // null for an operand used in place
  bool streamed_[kMaxStreams];
  StreamWriter writer_[kMaxStreams];
  bool stores_ = false;  // whether there is anything to store
  bool through_;         // whether emit() streams whole lines
  int64_t at_most_;      // elements emitted at once: stores past the cache must not come in long bursts
  int at_once_ = 1;      // rows, a power of two
  T* scratch_;           // rows before they are transposed, or flat ones' exponentials
  int32_t* row_of_;      // see row_of()
  T* memory_;
};

// A formula has
//   streams            a static RowStreams
//   along_block        how long a block along a row may be, in bytes: rows up to it are one block
//   short_row          rows of fewer registers are computed across
//   flat_row           adjacent rows of up to so many elements are computed flat, if may_be_flat(args)
//   Formula(args, shared)                   one a thread
//   begin_piece(piece), end_piece(piece)
//   begin(tile)        before the first pass
//   accumulate(blocks, whole) the first pass: of all rows, a block; std::true_type: it is all of each
//   finish(tile, in_tile, split) after it; `in_tile`: accumulate() had whole rows, of all lanes, to read
//   emit(block, whole) the second pass, if there are outputs
//   by_row, by_row_16  whether it has row(), and of 16-bit floats: so light that a tile is more work than its rows
//   row(block)         both passes over a row in place
// of which it overrides what it needs.
template <class T>
struct RowFormula {
  static constexpr int short_row = 3;
  static constexpr int64_t flat_row = 0;
  static bool may_be_flat(const RowsArgs&) { return true; }
  static constexpr bool by_row = false, by_row_16 = false;
  FASTGRAD_INLINE void begin_piece(int64_t) {}
  FASTGRAD_INLINE void end_piece(int64_t) {}
  FASTGRAD_INLINE void begin(const RowTile&) {}
  FASTGRAD_INLINE void finish(const RowTile&, bool, bool) {}
  template <class B>
  FASTGRAD_INLINE void emit(const B&, bool) {}
};
template <class F>
concept Accumulates = requires { F::accumulates; };

template <class T, RowShape Shape, class S, bool Long, class Formula>
FASTGRAD_INLINE void rows_tile(const RowsPlan& plan, RowBuffers<T>& buffers, const RowTile& tile, int64_t n,
                               Formula& f) {
  constexpr RowStreams streams = Formula::streams;
  constexpr bool Along = Shape == RowShape::along, Across = Shape == RowShape::across;
  using B = RowBlock<T, Across, streams.inputs + streams.outputs, S, std::is_same_v<S, T> ? 0 : streams.inputs, Long>;
  RowView view[kMaxStreams] = {};
  [[maybe_unused]] const auto load = [&](int64_t begin, bool again, bool split) {
    const int64_t length = n - begin < plan.block ? n - begin : plan.block;
    if (again) buffers.load(tile, begin, length, view);
    const RowBlocks<B> blocks{tile, view, plan.tile_rows, begin, length, split};
    if constexpr (Shape == RowShape::flat)
      return FlatRows<B>{blocks, buffers.row_of(), buffers.scratch()};
    else
      return blocks;
  };
  f.begin(tile);
  if constexpr (Accumulates<Formula>) {
    if (plan.single)
      f.accumulate(load(0, true, false), std::true_type());
    else
      for (int64_t begin = 0; begin < n; begin += plan.block) f.accumulate(load(begin, true, Along), std::false_type());
    f.finish(tile, !Along && plan.single, Along && !plan.single);
  }
  if constexpr (streams.outputs > 0) {
    for (int64_t begin = 0; begin < n; begin += plan.block) {
      const auto blocks = load(begin, !Accumulates<Formula> || !plan.single, false);
      if constexpr (!Along) {
        blocks.each([&](const auto& b) __attribute__((always_inline)) { f.emit(b, plan.single); });
        buffers.store(tile, tile.rows - 1, begin, blocks.n, 0);
      } else {
        blocks.each([&](const B& b) __attribute__((always_inline)) {
          int64_t length;
          for (int64_t i = 0; i < blocks.n; i += length) {
            T* line = nullptr;
            length = buffers.emitted_at_once(tile, b.lane, begin + i, blocks.n - i, line);
            const B part = b.part(i, length);
            if constexpr (std::is_same_v<S, T>)
              if (line) {
                f.emit(StreamedBlock<B>{part, line}, plan.single);
                continue;
              }
            f.emit(part, plan.single);
            if (buffers.stores(tile, b.lane)) buffers.store(tile, b.lane, part.begin, part.n, i);
          }
        });
      }
    }
  }
}

template <class T, RowShape Shape, class S, bool Long, class Formula, class Shared>
void rows_pieces(const RowsArgs& a, const RowsPlan& plan, int64_t begin, int64_t end, Shared* shared) {
  constexpr bool one_run = Shape != RowShape::across && Formula::streams.inputs + Formula::streams.outputs > 0;
  RowBuffers<T> buffers(a, Formula::streams, plan);
  RowTile tile;
  Formula f(a, shared);
  for (int64_t piece = begin; piece < end; ++piece) {
    f.begin_piece(piece);
    const int64_t first = piece * plan.piece_rows;
    const int64_t last = first + plan.piece_rows < a.rows ? first + plan.piece_rows : a.rows;
    for (int64_t r = first; r < last; r += tile.rows) {
      tile.locate(a, r, int(last - r < plan.tile_rows ? last - r : plan.tile_rows), one_run);
      rows_tile<T, Shape, S, Long>(plan, buffers, tile, a.n, f);
    }
    f.end_piece(piece);
  }
}

template <class T, class S, bool Long, bool Streamed, bool Fetches, class Formula>
void rows_in_place(const RowsArgs& a, const RowsPlan& plan, int64_t begin, int64_t end) {
  constexpr int count = Formula::streams.inputs + Formula::streams.outputs;
  using B = RowBlock<T, false, count, S, std::is_same_v<S, T> ? 0 : count, Long>;
  RowTile tile;
  RowView view[kMaxStreams];
  Formula f(a, nullptr);
  for (int64_t r = begin; r < end; r += tile.rows) {
    tile.locate(a, r, int(end - r < plan.tile_rows ? end - r : plan.tile_rows), true);
    for (int s = 0; s < count; ++s) {
      const int k = Formula::streams.index[s];
      const int64_t row = a.operand[k].row_strides[0];
      view[s] = {tile.run[0].base[k], row, plan.ahead * row};
    }
    RowBlocks<B>{tile, view, 0, 0, a.n, false}.each(
        [&](const B& b) __attribute__((always_inline)) { f.row(WholeRow<B, S, Streamed, Fetches>{b}); });
  }
}

template <class T, class S, bool Long, class Formula>
void rows_in_place(const RowsArgs& a, const RowsPlan& plan, int64_t first_piece, int64_t last_piece) {
  const int64_t begin = first_piece * plan.piece_rows, end = smaller(last_piece * plan.piece_rows, a.rows);
  if (plan.streamed) return rows_in_place<T, S, Long, true, true, Formula>(a, plan, begin, end);
  if (plan.fetches) return rows_in_place<T, S, Long, false, true, Formula>(a, plan, begin, end);
  rows_in_place<T, S, Long, false, false, Formula>(a, plan, begin, end);
}

// Returns the number of pieces.
template <class T, class Formula, class Shared>
int64_t rows_of(const RowsArgs& a, Shared* shared) {
  constexpr bool again = Accumulates<Formula> && Formula::streams.outputs > 0;
  constexpr bool flat = kHasFlatRows<T> && Formula::flat_row > 0;
  const RowsPlan plan = plan_rows(a, Formula::streams,
                                  {Formula::along_block, flat && Formula::may_be_flat(a) ? Formula::flat_row : 0,
                                   Formula::short_row, Formula::by_row, Formula::by_row_16, again});
  parallel_for(0, plan.pieces, 1, [&](int64_t begin, int64_t end) {
    const auto rows = [&]<class S, bool Long>(S, std::bool_constant<Long>) {
      if constexpr (std::is_same_v<S, T> ? Formula::by_row : Formula::by_row_16)
        if (plan.by_row) return rows_in_place<T, S, Long, Formula>(a, plan, begin, end);
      rows_pieces<T, RowShape::along, S, Long, Formula>(a, plan, begin, end, shared);
    };
    const auto along = [&](auto stored) {
      if constexpr (Accumulates<Formula> || Formula::by_row)
        if (plan.single && a.n > kChain<T>) return rows(stored, std::true_type());
      rows(stored, std::false_type());
    };
    if (plan.across) return rows_pieces<T, RowShape::across, T, false, Formula>(a, plan, begin, end, shared);
    if constexpr (flat)
      if (plan.flat) return rows_pieces<T, RowShape::flat, T, false, Formula>(a, plan, begin, end, shared);
    if constexpr (std::is_same_v<T, float> && Formula::streams.inputs > 0) {
      if (plan.stored == Dtype::bf16) return along(bf16());
      if (plan.stored == Dtype::f16) return along(f16());
    }
    along(T());
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
