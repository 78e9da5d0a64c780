// Packing for the matrix product: a panel of a strided operand, converted to the type of the arithmetic and laid out
// so that the tile kernel reads it in sequence: to[k * width + lane]. Lanes beyond the operand's are 0. Of pairs of
// bfloat16 k counts pairs; the one that an odd k leaves alone is paired with 0.
//
// Where the lanes are adjacent in memory it is a copy; where k is, a transpose in registers, a square of V::size at a
// time. What is packed soon is fetched: the next kLinesAtOnce of k, or what follows along it. A store may run past its
// panel's row: what it spoils is rewritten by the rows that follow, so a panel ends in one register of slack.
#pragma once
#include "gemm.h"
#include "transpose.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// A register of pairs that are adjacent in memory; of the first n of them, the others 0.
template <class T, class S>
  requires(kNumbers<T> == 2)
FASTGRAD_INLINE Vec<T> load_as(const S* p) {
  Vec<T> pairs;
  std::memcpy(&pairs.v, p, sizeof pairs.v);
  return pairs;
}
template <class T, class S>
  requires(kNumbers<T> == 2)
FASTGRAD_INLINE Vec<T> load_as(const S* p, int64_t n, T = 0) {
  S lane[2 * Vec<T>::size];
  std::memset(lane, 0, sizeof lane);
  std::memcpy(lane, p, n * sizeof(S));
  return load_as<T>(lane);
}

// An element of a panel at p, of numbers `step` apart along k; `k` of them, at least one, are left.
template <class T, class S>
FASTGRAD_INLINE T element(const S* p, int64_t step, int64_t k) {
  if constexpr (kNumbers<T> == 1)
    return T(*p);
  else
    return p->bits | T(k > 1 ? p[step].bits : 0) << 16;
}
// A register of elements that are adjacent in memory; the first n of them, the others 0.
template <class T, class S, class... N>
FASTGRAD_INLINE Vec<T> load_elements(const S* p, int64_t step, int64_t k, N... n) {
  if constexpr (kNumbers<T> == 1) {
    return load_as<T>(p, n...);
  } else {
    using V = Vec<T>;  // widened, a bfloat16 is the high half of a word
    const V low((typename V::Register)load_as<float>(p, n...).v >> 16);
    return k > 1 ? V(low.v | (typename V::Register)load_as<float>(p + step, n...).v) : low;
  }
}

constexpr int64_t kLinesAtOnce = 8;     // of k, packed for all panels
constexpr int64_t kRegistersAhead = 4;  // fetched before they are transposed

// `lanes` of the panel's `width` exist; `lane` and `step` are the strides of numbers, `k` is how many there are.
template <class T, class S>
void pack_panel(const S* from, int64_t lane, int64_t step, int64_t lanes, int64_t width, int64_t k, T* to) {
  using V = Vec<T>;
  constexpr int64_t W = V::size, U = kNumbers<T>;
  if (lane == 1) {
    const auto copy = [&](auto load) __attribute__((always_inline)) {
      for (int64_t p = 0; p < k; p += U, from += U * step, to += width) {
        for (int64_t l = 0; l < width; l += W) {
          __builtin_prefetch(from + l + kLinesAtOnce * step);
          load(l, k - p).store(to + l);
        }
      }
    };
    if (lanes == width && width % W == 0)
      copy([&](int64_t l, int64_t left) { return load_elements<T>(from + l, step, left); });
    else
      copy([&](int64_t l, int64_t left) {
        return load_elements<T>(from + l, step, left, lanes - l < 0 ? 0 : lanes - l < W ? lanes - l : W);
      });
  } else if (step == 1) {
    for (int64_t p = 0; p < k; p += U * W, from += U * W, to += W * width) {
      const int64_t depth = k - p < U * W ? k - p : U * W;
      for (int64_t l = (width - 1) / W * W; l >= 0; l -= W) {  // the last lanes first: they run over
        const int64_t rows = lanes - l;
        const auto square = [&](auto load, auto wanted) __attribute__((always_inline)) {
          V r[W];
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i) r[i] = load(i);
          transpose_square(r);
#pragma GCC unroll 16
          for (int i = 0; i < W; ++i)
            if (wanted(i)) r[i].store(to + i * width + l);
        };
        const auto fetched = [&](int i) __attribute__((always_inline)) {
          __builtin_prefetch(from + (l + i) * lane + kRegistersAhead * U * W);
          return load_as<T>(from + (l + i) * lane);
        };
        if (depth == U * W && rows >= W)
          square(fetched, [](int) { return true; });
        else if (depth == U * W)
          square([&](int i) { return i < rows ? fetched(i) : V(T(0)); }, [](int) { return true; });
        else
          square([&](int i) { return i < rows ? load_as<T>(from + (l + i) * lane, depth) : V(T(0)); },
                 [&](int i) { return i * U < depth; });
      }
    }
  } else {
    for (int64_t p = 0; p < k; p += U, from += U * step, to += width) {
      int64_t l = 0;
      for (; l < lanes; ++l) to[l] = element<T>(from + l * lane, step, k - p);
      for (; l < width; ++l) to[l] = T(0);
    }
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
