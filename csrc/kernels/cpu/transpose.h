// to[i * to_pitch + j] = from[j * from_pitch + i] for j < rows, i < columns, in squares of whole registers.
#pragma once
#include "simd.h"

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
  for (int i = 0; i < Vec<T>::size; ++i)
    if (!(i & half)) {
      const Vec<T> a = r[i], b = r[i + half];
      r[i] = pick_halves<T, half, false>(a, b);
      r[i + half] = pick_halves<T, half, true>(a, b);
    }
  if constexpr (half > 1) transpose_stage<T, half / 2>(r);
}

template <class T>
static void transpose(const T* from, int64_t from_pitch, T* to, int64_t to_pitch, int64_t rows, int64_t columns) {
  using V = Vec<T>;
  constexpr int size = V::size;
  if constexpr (size > 16) {  // 8- and 16-bit integers
    for (int64_t j = 0; j < rows; ++j)
      for (int64_t i = 0; i < columns; ++i) to[i * to_pitch + j] = from[j * from_pitch + i];
  } else {
    V r[size];
    for (int64_t j = 0; j < rows; j += size)
      for (int64_t i = 0; i < columns; i += size) {
        const T* const square = from + j * from_pitch + i;
        T* const transposed = to + i * to_pitch + j;
        if (j + size <= rows && i + size <= columns) {
          for (int k = 0; k < size; ++k) r[k] = V::load(square + k * from_pitch);
          transpose_stage<T, size / 2>(r);
          for (int k = 0; k < size; ++k) r[k].store(transposed + k * to_pitch);
        } else {
          const int64_t high = rows - j < size ? rows - j : size, wide = columns - i < size ? columns - i : size;
          for (int k = 0; k < size; ++k) r[k] = k < high ? V::load(square + k * from_pitch, wide) : V(0);
          transpose_stage<T, size / 2>(r);
          for (int k = 0; k < wide; ++k) r[k].store(transposed + k * to_pitch, high);
        }
      }
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
