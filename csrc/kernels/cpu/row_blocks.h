// What a formula of the row engine sees (rows.h): blocks of one row or of a register of rows, what is known of each row
// between the passes, and a tile's block of rows.
#pragma once
#include "../math/reductions.h"
#include "convert.h"
#include "simd.h"
#include "stream.h"
#include "transpose.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kTileRows = 256;  // most rows of a tile; a multiple of every register's lanes
constexpr int kMaxStreams = 3;  // operands of which a formula sees whole rows

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

// Elements of a row in T that are reduced in a chain of roundings: of longer ones the accumulators are emptied so
// often.
template <class T>
constexpr int64_t kChain = 256 * Vec<T>::size;

// Of the numbers: a row's NaN makes its sum NaN, so that the maximum need not be.
struct Max {
  template <class X>
  FASTGRAD_INLINE X operator()(X a, X b) const {
    using math::at_least;
    return at_least(a, b);
  }
};

// A row, or across a register of rows, of `Streams` streams. The first `Inputs` are of type S in memory. `Long`: it may
// be more than a chain.
template <class T, bool Across, int Streams, class S = T, int Inputs = 0, bool Long = false>
struct RowBlock {
  using V = Vec<T>;
  static constexpr bool rows_in_lanes = Across, streamed = false, flat = false;
  static constexpr int kRows = Across ? V::size : 1, kStreams = Streams;
  // Whether 16-bit inputs of rows that are one block are widened once: into the output's buffer, stream 1.
  static constexpr bool kWidens = Inputs > 0 && Inputs < Streams;
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
  // Element i of the block's row j.
  FASTGRAD_INLINE T* element(int k, int j, int64_t i) const { return at(k, i) + j; }
  FASTGRAD_INLINE bool has(int64_t i) const { return i >= 0 && i < n; }
  // What is known of the block's rows, in the lanes of a step.
  FASTGRAD_INLINE V spread(V v, auto) const { return v; }
  FASTGRAD_INLINE V load(int k, Whole s, T = 0) const {
    if (k < Inputs) return load_as<T>(reinterpret_cast<const S*>(data[k]) + s.i);
    return V::load(at(k, s.i));
  }
  FASTGRAD_INLINE V load(int k, Part s, T fill = 0) const {
    if (k < Inputs) return load_as<T>(reinterpret_cast<const S*>(data[k]) + s.i, s.count, fill);
    return V::load(at(k, s.i), s.count, fill);
  }
  // The same, where it is read first, from memory.
  FASTGRAD_INLINE V first(int k, auto s) const { return load(k, s); }
  // Calls for the same step of what comes after this block, or for `Steps` from it on, of streams k...: the hardware
  // does not foresee where the next rows begin, and lines to be written are read first.
  template <int Steps = 1>
  FASTGRAD_INLINE void prefetch_next(auto s, auto... k) const {
    const auto fetch = [&](int stream) __attribute__((always_inline)) {
      const int64_t bytes = Steps * V::size * kItem(stream);
      for (int64_t b = 0; b < bytes; b += kLine) __builtin_prefetch(ahead[stream] + s.i * kItem(stream) + b, 0, 2);
    };
    if constexpr (!Across) (fetch(k), ...);
  }
  FASTGRAD_INLINE void store(int k, Whole s, V v) const { v.store(at(k, s.i)); }
  FASTGRAD_INLINE void store(int k, Part s, V v) const { v.store(at(k, s.i), s.count); }
  // What emit() leaves: in the last stream.
  FASTGRAD_INLINE void result(auto s, V v) const { store(Streams - 1, s, v); }
  // Of a vector of n elements that all rows share.
  FASTGRAD_INLINE V shared(const T* p, Whole s) const { return Across ? V(p[begin + s.i]) : V::load(p + begin + s.i); }
  FASTGRAD_INLINE V shared(const T* p, Part s) const { return V::load(p + begin + s.i, s.count); }

  // combine over term(step), with independent accumulators to hide latency; `init` changes nothing. They have names,
  // and lambdas in here and those it gets are inlined: of an array, or across a call, the compiler keeps some in
  // memory, and reads the block's addresses again at every step.
  template <class Term, class Combine>
  FASTGRAD_INLINE V reduce(V init, const Term& term, const Combine& combine) const {
    const auto four = [&](Whole a, Whole b, Whole c, Whole d, V& p, V& q, V& r, V& s) __attribute__((always_inline)) {
      p = combine(p, term(a));
      q = combine(q, term(b));
      r = combine(r, term(c));
      s = combine(s, term(d));
    };
    return reduce(init, term, combine, four);
  }
  // The same where four(a, b, c, d, p, q, r, s) combines the terms of four steps with accumulators.
  template <class Term, class Combine, class Four>
  FASTGRAD_INLINE V reduce(V init, const Term& term, const Combine& combine, const Four& four) const {
    constexpr int64_t step = Across ? 1 : V::size, ways = 4;
    V p = init, q = init, r = init, s = init, total = init;
    int64_t i = 0;
    const auto add_ways = [&] __attribute__((always_inline)) {
      four(Whole{i}, Whole{i + step}, Whole{i + 2 * step}, Whole{i + 3 * step}, p, q, r, s);
      i += ways * step;
    };
    const auto together = [&] __attribute__((always_inline)) { return combine(combine(p, q), combine(r, s)); };
    if constexpr (!Across)  // first, so that the whole registers hide its latency
      if (const int64_t rest = n % V::size; rest > 0) p = combine(p, term(Part{n - rest, rest}));
    if constexpr (Long)
      while (n - i > kChain<T>) {
        for (const int64_t end = i + kChain<T>; i < end;) add_ways();
        total = combine(total, together());
        p = q = r = s = init;
      }
    const bool several = n >= ways * step;
    while (i + ways * step <= n) add_ways();
    for (; i + step <= n; i += step) p = combine(p, term(Whole{i}));
    if constexpr (Long) return combine(total, together());
    return several ? together() : p;
  }
  // The maximum of stream 0, whose elements are also left in stream 1 if `widened`.
  FASTGRAD_INLINE V maximum(auto widened) const {
    constexpr T lowest = T(-__builtin_inf());
    const auto x = [&](auto s) __attribute__((always_inline)) {
      const V v = load(0, s, lowest);
      if (widened) store(1, s, v);
      return v;
    };
    return reduce(V(lowest), x, Max());
  }
  // The sum of exp(x(step) - reference), of which each goes to keep(step, x, exponential) besides; no x is above the
  // reference. fetch(step, N) is called once for N steps, a std::integral_constant. Four steps are asked together
  // whether their exponentials are normal, and added two by two, for there are few registers (kScalesNormal).
  template <class X, class Keep, class Fetch>
  FASTGRAD_INLINE V sum_exponentials(V reference, const X& x, const Keep& keep, const Fetch& fetch) const {
    const V minus = -reference;  // to be added to what is in memory, in one instruction
    const auto term = [&](auto s, auto normal) __attribute__((always_inline)) {
      const V v = x(s), e = normal ? exp_normal(v + minus) : exp_nonpositive(v + minus);
      keep(s, v, e);
      return e;
    };
    const auto one = [&](auto s) __attribute__((always_inline)) {
      fetch(s, std::integral_constant<int, 1>());
      return term(s, std::false_type());
    };
    const auto four = [&](Whole a, Whole b, Whole c, Whole d, V& p, V& q, V&, V&) __attribute__((always_inline)) {
      fetch(a, std::integral_constant<int, 4>());
      const auto add = [&](auto normal) __attribute__((always_inline)) {
        p = p + (term(a, normal) + term(b, normal));
        q = q + (term(c, normal) + term(d, normal));
      };
      const V lowest = at_most(at_most(x(a), x(b)), at_most(x(c), x(d)));
      if (__builtin_expect(exp_is_normal(lowest + minus), true))
        add(std::true_type());
      else
        add(std::false_type());
    };
    if constexpr (kScalesNormal)
      return reduce(V(0), one, math::Plus(), four);
    else
      return reduce(V(0), one, math::Plus());
  }
};

// A block of which emit() leaves whole lines, past the cache: at `line`.
template <class B>
struct StreamedBlock : B {
  using typename B::V;
  static constexpr bool streamed = true;
  math::scalar_t<V>* line;
  FASTGRAD_INLINE void result(Whole s, V v) const { v.stream(line + s.i); }
  FASTGRAD_INLINE void result(Part, V) const {}
};

// A whole row, and its result in place, all of type S. If not `Fetches`, the hardware does, for which each line is
// asked for twice (halves_are_fast() in convert.h).
template <class B, class S, bool Streamed, bool Fetches>
struct WholeRow : B {
  using typename B::V;
  using T = math::scalar_t<V>;
  FASTGRAD_INLINE V first(int k, Whole s) const {
    return load_as<!Fetches, T>(reinterpret_cast<const S*>(this->data[k]) + s.i);
  }
  FASTGRAD_INLINE V first(int k, Part s) const { return this->load(k, s); }
  FASTGRAD_INLINE void prefetch_next(auto s, auto... k) const {
    if constexpr (Fetches) ((Streamed && k == B::kStreams - 1 ? void() : B::prefetch_next(s, k)), ...);
  }
  FASTGRAD_INLINE S* to() const { return reinterpret_cast<S*>(this->data[B::kStreams - 1]); }
  FASTGRAD_INLINE void result(Whole s, V v) const {
    if constexpr (!Fetches) __builtin_prefetch(to() + s.i, 1, 3);
    Streamed ? stream_as(v, to() + s.i) : store_as(v, to() + s.i);
  }
  FASTGRAD_INLINE void result(Part s, V v) const { store_as(v, to() + s.i, s.count); }
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
    return B::kRows > 1 || b.split ? get(b.lane) : Vec<T>(value[b.lane]);
  }
};

// A block of all rows of a tile. `split`: of a single long row, each of whose lanes has results of its own until
// finish() combines them, since to do that after every block takes 3 to 5% of the time.
template <class B>
struct RowBlocks {
  using Block = B;
  using V = typename B::V;
  static constexpr bool flat = false;
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
  template <class Take>
  FASTGRAD_INLINE void maximum(auto widened, const Take& take) const {
    reduce([&](const B& b) __attribute__((always_inline)) { return b.maximum(widened); }, Max(), take);
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

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
