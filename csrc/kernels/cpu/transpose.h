// to[i * to_pitch + j] = from[j * from_pitch + i] for j < rows, i < columns, in squares of whole registers.
#pragma once
#include <utility>

#include "simd.h"
#include "sizes.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Lanes of a and b where block column `half` of each 2 half x 2 half block is swapped between two registers: the low
// one keeps a's left half and takes b's, the high one the right halves.
template <class T, int half, bool high>
FASTGRAD_INLINE Vec<T> pick_halves(Vec<T> a, Vec<T> b) {
  constexpr int size = Vec<T>::size;
  typename Vec<T>::Int lanes;
  for (int l = 0; l < size; ++l) lanes[l] = high ? (l & half ? size + l : l + half) : (l & half ? size + l - half : l);
  return Vec<T>(__builtin_shuffle(a.v, b.v, lanes));
}
template <class T, int half>
FASTGRAD_INLINE void transpose_stage(Vec<T>* r) {
#pragma GCC unroll 16
  for (int i = 0; i < Vec<T>::size; ++i)
    if (!(i & half)) {
      const Vec<T> a = r[i], b = r[i + half];
      r[i] = pick_halves<T, half, false>(a, b);
      r[i + half] = pick_halves<T, half, true>(a, b);
    }
  if constexpr (half > 1) transpose_stage<T, half / 2>(r);
}

// In each block of 2 half lanes: f of a's halves at the left, of b's at the right. That f takes b's the other way round
// saves a shuffle: what stays in its lanes is a blend.
template <int half, class V, class F, size_t... I>
FASTGRAD_INLINE V fold_halves(V a, V b, F f, std::index_sequence<I...>) {
  constexpr int size = V::size;
  return f(V(__builtin_shufflevector(a.v, b.v, (int(I) & half ? size + int(I) : int(I))...)),
           V(__builtin_shufflevector(a.v, b.v, (int(I) & half ? size + int(I) - half : int(I) + half)...)));
}
// Lane i of the result is reduce_lanes(r[i], f): of all registers at once, which takes their places. To the bit, as far
// as f commutes.
template <int half, class T, class F>
FASTGRAD_INLINE Vec<T> reduce_each(Vec<T>* r, F f) {
#pragma GCC unroll 16
  for (int i = 0; i < half; ++i)
    r[i] = fold_halves<half>(r[i], r[i + half], f, std::make_index_sequence<Vec<T>::size>());
  if constexpr (half > 1) reduce_each<half / 2>(r, f);
  return r[0];
}

// A square of elements of 4 bytes, in an order whose shuffles need no register of indices, nor a copy of what they
// overwrite: pairs and fours within each quarter (of 4 lanes), then the quarters.
template <int width, bool high, class V, size_t... I>
FASTGRAD_INLINE V interleave(V a, V b, std::index_sequence<I...>) {
  constexpr auto from = [](int l) {
    const int o = l % 4;
    return l - o + (high ? 2 : 0) + o / (2 * width) * width + o % width + (o / width % 2 ? V::size : 0);
  };
  return V(__builtin_shufflevector(a.v, b.v, from(I)...));
}
template <int odd, class V, size_t... I>
FASTGRAD_INLINE V every_second_quarter(V a, V b, std::index_sequence<I...>) {
  return V(__builtin_shufflevector(a.v, b.v, (int(I) / 4 * 8 + 4 * odd + int(I) % 4)...));
}
template <class V>
FASTGRAD_INLINE void transpose_by_quarters(V* r) {
  constexpr int size = V::size;
  constexpr auto lanes = std::make_index_sequence<size>();
  V t[size];
#pragma GCC unroll 16
  for (int i = 0; i < size; i += 2) {
    t[i] = interleave<1, false>(r[i], r[i + 1], lanes);
    t[i + 1] = interleave<1, true>(r[i], r[i + 1], lanes);
  }
#pragma GCC unroll 16
  for (int i = 0; i < size; i += 4) {
    r[i] = interleave<2, false>(t[i], t[i + 2], lanes);
    r[i + 1] = interleave<2, true>(t[i], t[i + 2], lanes);
    r[i + 2] = interleave<2, false>(t[i + 1], t[i + 3], lanes);
    r[i + 3] = interleave<2, true>(t[i + 1], t[i + 3], lanes);
  }
  // Quarter q of r[4 g + c] is now column 4 q + c of rows 4 g to 4 g + 3.
  if constexpr (size > 4) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const V even = every_second_quarter<0>(r[c], r[4 + c], lanes),
              odd = every_second_quarter<1>(r[c], r[4 + c], lanes);
      if constexpr (size == 8) {
        r[c] = even, r[4 + c] = odd;
      } else {
        const V even_high = every_second_quarter<0>(r[8 + c], r[12 + c], lanes),
                odd_high = every_second_quarter<1>(r[8 + c], r[12 + c], lanes);
        r[c] = every_second_quarter<0>(even, even_high, lanes);
        r[4 + c] = every_second_quarter<0>(odd, odd_high, lanes);
        r[8 + c] = every_second_quarter<1>(even, even_high, lanes);
        r[12 + c] = every_second_quarter<1>(odd, odd_high, lanes);
      }
    }
  }
}

// Lane j of register i to lane i of register j.
template <class T>
FASTGRAD_INLINE void transpose_square(Vec<T> (&r)[Vec<T>::size]) {
  if constexpr (sizeof(T) == 4)
    transpose_by_quarters(r);
  else
    transpose_stage<T, Vec<T>::size / 2>(r);
}

template <class T>
FASTGRAD_INLINE void transpose_square(const T* from, int64_t from_pitch, T* to, int64_t to_pitch) {
  constexpr int size = Vec<T>::size;
  Vec<T> r[size];
#pragma GCC unroll 16
  for (int k = 0; k < size; ++k) r[k] = Vec<T>::load(from + k * from_pitch);
  transpose_square(r);
#pragma GCC unroll 16
  for (int k = 0; k < size; ++k) r[k].store(to + k * to_pitch);
}
// The square's first `rows` rows and `columns` columns. Apart, so that the compiler keeps the addresses of whole ones
// in registers.
template <class T>
__attribute__((noinline)) static void transpose_part(const T* from, int64_t from_pitch, T* to, int64_t to_pitch,
                                                     int64_t rows, int64_t columns) {
  using V = Vec<T>;
  constexpr int size = V::size;
  V r[size];
#pragma GCC unroll 16
  for (int k = 0; k < size; ++k) r[k] = k < rows ? V::load(from + k * from_pitch, columns) : V(0);
  transpose_square(r);
#pragma GCC unroll 16
  for (int k = 0; k < size; ++k) {
    if (k >= columns) break;
    T* const at = to + k * to_pitch;
    rows == size ? r[k].store(at) : r[k].store(at, rows);
  }
}

template <class T>
static void transpose(const T* from, int64_t from_pitch, T* to, int64_t to_pitch, int64_t rows, int64_t columns) {
  using V = Vec<T>;
  constexpr int size = V::size;
  if constexpr (size > 16) {  // 8- and 16-bit integers
    for (int64_t j = 0; j < rows; ++j)
      for (int64_t i = 0; i < columns; ++i) to[i * to_pitch + j] = from[j * from_pitch + i];
  } else {
    const int64_t whole_rows = rows / size * size, whole_columns = columns / size * size;
    const auto square = [&](int64_t j, int64_t i) __attribute__((always_inline)) {
      transpose_square(from + j * from_pitch + i, from_pitch, to + i * to_pitch + j, to_pitch);
    };
    for (int64_t j = 0; j < whole_rows; j += size)
      for (int64_t i = 0; i < whole_columns; i += size) square(j, i);
    // What is left over: whole squares that overlap with those before, if there are any.
    const auto rest = [&](int64_t j, int64_t i) {
      if (rows >= size && columns >= size)
        square(smaller(j, rows - size), smaller(i, columns - size));
      else
        transpose_part(from + j * from_pitch + i, from_pitch, to + i * to_pitch + j, to_pitch, smaller(rows - j, size),
                       smaller(columns - i, size));
    };
    if (whole_columns < columns)
      for (int64_t j = 0; j < whole_rows; j += size) rest(j, whole_columns);
    if (whole_rows < rows)
      for (int64_t i = 0; i < columns; i += size) rest(whole_rows, i);
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
