// to[i * to_pitch + j] = from[j * from_pitch + i] for j < rows, i < columns; blocks of 4 x 4 go through registers.
#pragma once
#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

template <class T>
static void transpose(const T* from, int64_t from_pitch, T* to, int64_t to_pitch, int64_t rows, int64_t columns) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  using Lane = typename Registers<T>::Lane;
  typedef Lane Pick __attribute__((vector_size(4 * sizeof(T))));
  constexpr Pick low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
  int64_t j = 0;
  for (; j + 4 <= rows; j += 4) {
    int64_t i = 0;
    for (; i + 4 <= columns; i += 4) {
      Four a, b, c, d;
      std::memcpy(&a, from + (j + 0) * from_pitch + i, sizeof a);
      std::memcpy(&b, from + (j + 1) * from_pitch + i, sizeof b);
      std::memcpy(&c, from + (j + 2) * from_pitch + i, sizeof c);
      std::memcpy(&d, from + (j + 3) * from_pitch + i, sizeof d);
      const Four ab = __builtin_shuffle(a, b, low), cd = __builtin_shuffle(c, d, low);
      const Four ab2 = __builtin_shuffle(a, b, high), cd2 = __builtin_shuffle(c, d, high);
      const Four column[4] = {__builtin_shuffle(ab, cd, first), __builtin_shuffle(ab, cd, second),
                              __builtin_shuffle(ab2, cd2, first), __builtin_shuffle(ab2, cd2, second)};
      for (int k = 0; k < 4; ++k) std::memcpy(to + (i + k) * to_pitch + j, &column[k], sizeof(Four));
    }
    for (; i < columns; ++i)
      for (int k = 0; k < 4; ++k) to[i * to_pitch + j + k] = from[(j + k) * from_pitch + i];
  }
  for (; j < rows; ++j)
    for (int64_t i = 0; i < columns; ++i) to[i * to_pitch + j] = from[j * from_pitch + i];
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
