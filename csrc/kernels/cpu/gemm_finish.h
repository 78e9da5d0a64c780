// The epilogue of the matrix product: c = activation(tile + previous + bias), rounded once to the type in memory.
// It runs on a tile the kernel has just written, in L1.
#pragma once
#include "../math/activations.h"
#include "gemm_pack.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// n numbers of the bias, from the first on, in the type of the arithmetic: where they lie, or in `to`; null without
// one.
template <class T, class S>
FASTGRAD_INLINE const T* bias_at(const S* bias, int64_t stride, int64_t first, int64_t n, T* to) {
  if (!bias) return nullptr;
  if constexpr (std::is_same_v<T, S>)
    if (stride == 1) return bias + first;
  for (int64_t l = 0; l < n; ++l) to[l] = T(bias[(first + l) * stride]);
  return to;
}

// `previous`: whether c already holds the sum over the earlier blocks of k. `bias` is contiguous, or null.
template <class T, class S, class Function>
void finish_tile(int64_t rows, int64_t columns, const T* tile, int64_t tile_row, bool previous, S* c, int64_t c_row,
                 const T* bias) {
  using V = Vec<T>;
  const Function f;
  for (int64_t i = 0; i < rows; ++i, tile += tile_row, c += c_row) {
    const auto finish = [&](int64_t j, auto... n) __attribute__((always_inline)) {  // a register, or its first n lanes
      V x = V::load(tile + j, n...);
      if constexpr (std::is_same_v<T, S>)
        if (previous) x = V::load(c + j, n...) + x;
      if (bias) x = x + V::load(bias + j, n...);
      store_as(f(x), c + j, n...);
    };
    int64_t j = 0;
    for (; j + V::size <= columns; j += V::size) finish(j);
    if (j < columns) finish(j, columns - j);
  }
}

template <class T, class S>
using FinishTile = void (*)(int64_t rows, int64_t columns, const T* tile, int64_t tile_row, bool previous, S* c,
                            int64_t c_row, const T* bias);

template <class T, class S>
FinishTile<T, S> finish_for(Activation activation) {
  switch (activation) {
    case Activation::relu:
      return &finish_tile<T, S, math::Relu>;
    case Activation::sigmoid:
      return &finish_tile<T, S, math::Sigmoid>;
    case Activation::tanh:
      return &finish_tile<T, S, math::Tanh>;
    default:
      return &finish_tile<T, S, math::Identity>;
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
