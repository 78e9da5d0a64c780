// The matrix product's register tile and the constants that shape it.
//
// A tile of C, MR rows by NV registers, stays in registers while k runs: per k it takes NV loads of B, MR broadcasts
// of A and MR x NV fused multiply-adds. The operands are reached by strides, so the same kernel serves packed panels
// (a_row = 1, a_col = MR; b_row = the panel's width) and operands used in place.
//
// An element E of an operand is a number of the arithmetic's type T, or a pair of bfloat16 that are neighbours along k
// (dot_pairs.h): a step of k is then a pair.
//
// Numerics: every element of a tile is one chain of multiply-adds over ascending k, of the same form in a tile of any
// height and width, so an element does not depend on where in C, or on which thread, it was computed.
#pragma once
#include <utility>

#include "../backend.h"
#include "convert.h"
#include "dot_pairs.h"
#include "simd.h"
#include "sizes.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// MR x NV registers of C; a packed block of A is MC x KC and stays in L2, one of B is KC x NC and stays in L3.
template <int Mr, int Nv, int Mc, int Kc, int Nc>
struct Blocks {
  static constexpr int64_t MR = Mr, NV = Nv, MC = Mc, KC = Kc, NC = Nc;
};
template <class T>
struct Blocking;
#if defined(__AVX512F__)  // 32 registers: 28 hold C
template <>
struct Blocking<float> : Blocks<14, 2, 14 * 12, 768, 2048> {};
template <>
struct Blocking<double> : Blocks<14, 2, 14 * 8, 512, 1024> {};
#elif defined(__aarch64__)  // 32 registers
template <>
struct Blocking<float> : Blocks<8, 3, 8 * 16, 256, 1536> {};
template <>
struct Blocking<double> : Blocks<8, 3, 8 * 12, 256, 768> {};
#elif defined(__AVX2__)     // 16 registers: 12 hold C
template <>
struct Blocking<float> : Blocks<6, 2, 6 * 32, 384, 2048> {};
template <>
struct Blocking<double> : Blocks<6, 2, 6 * 24, 256, 1536> {};
#else                       // 16 registers, and a product needs one of its own
template <>
struct Blocking<float> : Blocks<6, 2, 6 * 32, 384, 2048> {};
template <>
struct Blocking<double> : Blocks<6, 2, 6 * 24, 256, 1536> {};
#endif

// Numbers that a block of k spans at most.
template <class E>
constexpr int64_t kMostOfK = kNumbers<E> * Blocking<SumOf<E>>::KC;

// A matrix in memory; strides in elements.
template <class S>
struct Matrix {
  const S* data;
  int64_t row, col;
  Matrix at(int64_t i, int64_t j) const { return {data + i * row + j * col, row, col}; }
};

// One product of a batch: S is the type in memory, T the one of the arithmetic.
template <class S>
struct Product {
  int64_t m, n, k;
  Matrix<S> a, b;
  S* c;
  int64_t c_row, c_col;  // one is 1; if that is c_row, a bias is one number a row
  const S* bias;         // or null
  int64_t bias_stride;
  Activation activation;
  bool far;                                      // the batch is more than a cache holds
  const S *next_a = nullptr, *next_b = nullptr;  // of the batch's next product, if it is wanted ahead
};

// Memory that will be wanted soon: `count` spots of kSpot bytes, `step` bytes apart.
struct Touch {
  const char* at;
  int64_t step, count;
};
constexpr int64_t kSpot = 128;  // two cache lines, or parts of three
constexpr int64_t kSteps = 4;   // of k at once, between which there is at most one spot

// Where nothing is fetched. Of four steps the compiler spills some sums where these are not statements of assembly, and
// of two fewer if it unrolls a loop.
#if defined(__AVX512F__) || defined(__FMA__)
constexpr int64_t kPlainSteps = 4, kPlainUnroll = 1;
#else
constexpr int64_t kPlainSteps = 1, kPlainUnroll = 2;
#endif

// sum += x * y. As statements of assembly the compiler cannot move sums from register to register, or spill some.
template <class T>
FASTGRAD_INLINE void add_product(Vec<T>& sum, Vec<T> x, Vec<T> y) {
#if defined(__AVX512F__) || defined(__FMA__)
  if constexpr (sizeof(T) == 4)
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum.v) : "v"(y.v), "v"(x.v));
  else
    asm("vfmadd231pd %2, %1, %0" : "+v"(sum.v) : "v"(y.v), "v"(x.v));
#else
  sum = fma(x, y, sum);
#endif
}

// The same of a number in memory: with AVX-512, one instruction that broadcasts it and multiplies.
template <class T>
FASTGRAD_INLINE void add_product(Vec<T>& sum, const T* x, Vec<T> y) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum.v) : "v"(y.v), "m"(*x));
  else
    asm("vfmadd231pd %2%{1to8%}, %1, %0" : "+v"(sum.v) : "v"(y.v), "m"(*x));
#else
  add_product(sum, Vec<T>(*x), y);
#endif
}

#if FASTGRAD_DOT_PAIRS
FASTGRAD_INLINE void add_product(Vec<float>& sum, Vec<Bf16Pair> x, Vec<Bf16Pair> y) { sum = dot_pairs(sum, x, y); }
FASTGRAD_INLINE void add_product(Vec<float>& sum, const Bf16Pair* x, Vec<Bf16Pair> y) { sum = dot_pairs(sum, x, y); }
#endif

// How the operands of a tile lie. packed: both are panels, whose strides are constants. lines: columns of A are
// contiguous, a_row is 1. rows: an A used in place whose rows are, a_col is 1, and a_row is anything.
enum class Layout { packed, lines, rows };

// A tile of C in registers, MR rows by NV registers, and its operands.
//
// A core whose other hardware thread is at work issues half as many instructions, and fewer than a step has. So some
// elements of A are not broadcast to a register, but by each multiply-add: fewer instructions, but more loads, which
// are as scarce. And rows are reached from every third one, so that no address takes an instruction of its own.
//
// Sums have constant indices by way of templates, and steps are a member: of loops over them, or lambdas, the compiler
// keeps some in memory (tiles of one register took twice as long).
template <class E, int MR, int NV, Layout L>
class Tile {
 public:
  using T = SumOf<E>;
  FASTGRAD_INLINE Tile(const E* a, int64_t a_row, int64_t a_col, const E* b, int64_t b_row)
      : a_(a), b_(b), a_col_(a_col), b_row_(b_row), row_bytes_(a_row * int64_t(sizeof(E))) {
    for (int g = 0; g < kGroups; ++g) group_[g] = reinterpret_cast<const char*>(a) + g * kGroup * row_bytes_;
    if constexpr (kApart) {  // keeps the compiler from deriving them from each other
      asm("" : "+r"(row_bytes_));
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) asm("" : "+r"(group_[g]));
    }
    clear(Sums());
  }
  // Some steps of k. Their addresses are of panels' strides and constants, if both are packed.
  template <int Steps>
  FASTGRAD_INLINE void steps() {
#pragma GCC unroll 16
    for (int s = 0; s < Steps; ++s) {
      add(Rows(), Columns());
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) group_[g] += sizeof(E);
      a_ += L == Layout::packed ? MR : a_col_;
      b_ += L == Layout::packed ? NV * V::size : b_row_;
    }
  }
  FASTGRAD_INLINE void store(T* c, int64_t c_row, bool accumulate) const { store(c, c_row, accumulate, Sums()); }

 private:
  using V = Vec<T>;
  template <int... I>
  using Ints = std::integer_sequence<int, I...>;
  using Rows = std::make_integer_sequence<int, MR>;
  using Columns = std::make_integer_sequence<int, NV>;
  using Sums = std::make_integer_sequence<int, MR * NV>;
  static constexpr bool kApart = L == Layout::rows;
  static constexpr int kGroup = 3, kGroups = kApart ? (MR + kGroup - 1) / kGroup : 1;
  static constexpr int kInMemory = NV == 1 ? 1 : kApart ? 2 : 3;  // one in so many elements of A

  template <int... I>
  FASTGRAD_INLINE void clear(Ints<I...>) {
    ((sum_[I] = V(T(0))), ...);
  }
  template <int... I, int... J>
  FASTGRAD_INLINE void add(Ints<I...>, Ints<J...> columns) {
    const Vec<E> row[NV] = {Vec<E>::load(b_ + J * V::size)...};
    (add_row<I>(element(I), row, columns), ...);
  }
  FASTGRAD_INLINE const E* element(int i) const {
    return kApart ? reinterpret_cast<const E*>(group_[i / kGroup % kGroups] + i % kGroup * row_bytes_) : a_ + i;
  }
  template <int I, int... J>
  FASTGRAD_INLINE void add_row(const E* at, const Vec<E>* row, Ints<J...>) {
    if constexpr (I % kInMemory == kInMemory - 1) {
      (add_product(sum_[I * NV + J], at, row[J]), ...);
    } else {
      const Vec<E> x(*at);
      (add_product(sum_[I * NV + J], x, row[J]), ...);
    }
  }
  template <int... I>
  FASTGRAD_INLINE void store(T* c, int64_t c_row, bool accumulate, Ints<I...>) const {
    (store(c + I / NV * c_row + I % NV * V::size, accumulate, sum_[I]), ...);
  }
  static FASTGRAD_INLINE void store(T* at, bool accumulate, V v) { (accumulate ? V::load(at) + v : v).store(at); }

  const E *a_, *b_;
  int64_t a_col_, b_row_, row_bytes_;
  const char* group_[kGroups];
  V sum_[MR * NV];
};

// c (+)= a @ b for a tile.
//
// With `ahead`, every few steps one spot is fetched into L2: first of the tile's own rows of C, then of that list,
// which an empty entry ends. Fetched in one burst they would keep the operands' own lines waiting.
template <class E, int MR, int NV, Layout L, class T = SumOf<E>>
void tile_kernel(int64_t k, const E* a, int64_t a_row, int64_t a_col, const E* b, int64_t b_row, T* c, int64_t c_row,
                 bool accumulate, const Touch* ahead) {
  Tile<E, MR, NV, L> tile(a, a_row, a_col, b, b_row);
  if (ahead) {
    Touch touch{reinterpret_cast<const char*>(c), c_row * int64_t(sizeof(T)), MR};
    while (k >= kSteps && touch.count > 0) {
      __builtin_prefetch(touch.at, 0, 2);
      __builtin_prefetch(touch.at + 64, 0, 2);
      __builtin_prefetch(touch.at + kSpot - 1, 0, 2);
      touch.at += touch.step;
      if (--touch.count == 0) touch = *ahead++;
      tile.template steps<kSteps>();
      k -= kSteps;
    }
  }
#pragma GCC unroll kPlainUnroll
  for (; k >= kPlainSteps; k -= kPlainSteps) tile.template steps<kPlainSteps>();
  for (; k > 0; --k) tile.template steps<1>();
  tile.store(c, c_row, accumulate);
}

template <class E>
using TileKernel = void (*)(int64_t k, const E* a, int64_t a_row, int64_t a_col, const E* b, int64_t b_row, SumOf<E>* c,
                            int64_t c_row, bool accumulate, const Touch* ahead);

// tile_kernels<E>.of[layout][NV - 1][MR - 1]; pairs are always packed.
template <class E>
struct TileKernels {
  using B = Blocking<SumOf<E>>;
  TileKernel<E> of[3][B::NV][B::MR] = {};
  template <Layout L, int NV, size_t... I>
  constexpr void fill(std::index_sequence<I...>) {
    ((of[int(L)][NV - 1][I] = &tile_kernel<E, I + 1, NV, L>), ...);
  }
  template <size_t... J>
  constexpr void fill_widths(std::index_sequence<J...>) {
    using Rows = std::make_index_sequence<B::MR>;
    (fill<Layout::packed, J + 1>(Rows()), ...);
    if constexpr (kNumbers<E> == 1) ((fill<Layout::lines, J + 1>(Rows()), fill<Layout::rows, J + 1>(Rows())), ...);
  }
  constexpr TileKernels() { fill_widths(std::make_index_sequence<B::NV>()); }
};

// Products with a vector, or with few rows or columns, in gemv.cpp: whether shape and layout are its business, and the
// product.
template <class T, class S>
bool is_skinny(const Product<S>& product);
template <class T, class S>
void product_skinny(const Product<S>& product);

// The driver, in gemm.cpp: every product of the batch, for a floating-point dtype.
Status gemm_float(const GemmArgs& args);

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
