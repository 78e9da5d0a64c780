// Short rows that are adjacent in memory, as one run of numbers: the third shape of the row engine (rows.h).
//
// Layout: as many rows as a register has lanes, a group, fill n registers, however long the rows are, and lie where
// they lay. What is done to each element is done to those; what is known of each row comes to the lanes of its elements
// by one permutation, whose indices are the same for every group.
// Passes: maxima and sums read each row by itself, a part of a register and whole ones, and the lanes of a group are
// combined together. So no element is transposed, and no lane of what takes long, an exponential, is idle.
#pragma once
#include "row_blocks.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// SSE2 has no permutation by a register of indices, and with AVX-512 this was not measured.
template <class T>
constexpr bool kHasFlatRows = kVecBytes == 32 && std::is_same_v<T, float>;

#if defined(__AVX2__) && !defined(__AVX512F__)
FASTGRAD_INLINE Vec<float> permute(Vec<float> v, const int32_t* lanes) {
  const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes));
  return Vec<float>::Register(_mm256_permutevar8x32_ps((__m256)v.v, index));
}
#endif

// A group of rows: steps are of its elements, whichever row they are of.
template <class B>
struct FlatBlock : B {
  using typename B::V;
  static constexpr bool flat = true;
  static constexpr int kRows = V::size;
  int64_t length;         // of a row; n is that of the group
  const int32_t* row_of;  // each element of a group
  FASTGRAD_INLINE V spread(V v, auto s) const { return permute(v, row_of + s.i); }
  FASTGRAD_INLINE auto* element(int k, int j, int64_t i) const { return this->at(k, j * length + i); }
  FASTGRAD_INLINE bool has(int64_t) const { return true; }
};

template <class B>
struct FlatRows : RowBlocks<B> {
  using Block = FlatBlock<B>;
  using V = typename B::V;
  using T = math::scalar_t<V>;
  using RowBlocks<B>::tile, RowBlocks<B>::view, RowBlocks<B>::n;
  static constexpr bool flat = true;
  const int32_t* row_of;
  T* scratch;  // as large as the tile

  template <class F>
  FASTGRAD_INLINE void each(const F& f) const {
    Block b{RowBlocks<B>::first(), n, row_of};
    for (; b.lane < tile.rows; b.lane += V::size) {
      b.rows = smaller(tile.rows - b.lane, V::size);
      b.n = b.rows * n;
      f(b);
      for (int k = 0; k < B::kStreams; ++k) b.data[k] += V::size * view[k].step, b.ahead[k] += V::size * view[k].step;
    }
  }
  // Calls take(lane, v), v being of each row from `lane` on term(group, step) of its elements combined; `none` changes
  // nothing. Row beside row, so that the accumulators are registers and a loop is of a group.
  template <class Term, class Combine, class Take>
  FASTGRAD_INLINE void fold(const Term& term, V none, const Combine& combine, const Take& take) const {
    const int64_t rest = n % V::size, whole = n - rest;
    each([&](const Block& b) __attribute__((always_inline)) {
      V row[V::size];
      const auto fold_rows = [&](auto all) __attribute__((always_inline)) {
#pragma GCC unroll 16
        for (int j = 0; j < V::size; ++j)
          row[j] = rest && (all || j < b.rows) ? combine(none, term(b, Part{j * n + whole, rest})) : none;
        for (int64_t i = 0; i < whole; i += V::size)
#pragma GCC unroll 16
          for (int j = 0; j < V::size; ++j)
            if (all || j < b.rows) row[j] = combine(row[j], term(b, Whole{j * n + i}));
      };
      if (b.rows == V::size)
        fold_rows(std::true_type());
      else
        fold_rows(std::false_type());
      take(b.lane, reduce_each<V::size / 2>(row, combine));
    });
  }
  template <class Take>
  FASTGRAD_INLINE void maximum(auto, const Take& take) const {
    constexpr T lowest = T(-__builtin_inf());
    fold([](const Block& b, auto s) __attribute__((always_inline)) { return b.load(0, s, lowest); }, V(lowest), Max(),
         take);
  }
  // The sums of exp(x - reference(group)), all of which are left in stream `Kept`, if that is one. Two registers are
  // asked together whether they are normal.
  template <int Kept, class Reference, class Take>
  FASTGRAD_INLINE void sum_exponentials(const Reference& reference, const Take& take) const {
    T* const exponentials = Kept < 0 ? scratch : reinterpret_cast<T*>(view[Kept].data);
    each([&](const Block& b) __attribute__((always_inline)) {
      const V minus = -reference(b);
      T* const to = exponentials + b.lane * n;
      const auto x = [&](auto s) __attribute__((always_inline)) { return b.load(0, s) + b.spread(minus, s); };
      int64_t i = 0;
      for (; i + 2 * V::size <= b.n; i += 2 * V::size) {
        b.template prefetch_next<2>(Whole{i}, 0);
        if constexpr (Kept >= 0) b.template prefetch_next<2>(Whole{i}, Kept);
        V p = x(Whole{i}), q = x(Whole{i + V::size});
        if (__builtin_expect(exp_is_normal(at_most(p, q)), true))
          p = exp_normal(p), q = exp_normal(q);
        else
          p = exp_nonpositive(p), q = exp_nonpositive(q);
        p.store(to + i);
        q.store(to + i + V::size);
      }
      for (; i + V::size <= b.n; i += V::size) exp_nonpositive(x(Whole{i})).store(to + i);
      if (i < b.n) exp_nonpositive(x(Part{i, b.n - i})).store(to + i, b.n - i);
    });
    const auto exponential = [&](const Block& b, auto s) __attribute__((always_inline)) {
      const T* const at = exponentials + b.lane * n + s.i;
      if constexpr (std::is_same_v<decltype(s), Whole>)
        return V::load(at);
      else
        return V::load(at, s.count);
    };
    fold(exponential, V(0), math::Plus(), take);
  }
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
