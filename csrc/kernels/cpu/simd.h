// Vec<T>: one SIMD register of float, double or an integer type, the value type of formulas on the CPU.
//
// A thin struct over GCC/Clang vector extensions, which the compiler lowers to whatever ISA the file is built for.
// Being a struct of ours, argument-dependent lookup finds exp, max, select, ... beside it when a formula calls them
// unqualified. Comparisons give a mask (all bits of a lane set or clear), which select(mask, a, b) takes.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../math/value.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define FASTGRAD_INLINE inline __attribute__((always_inline))

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kVecBytes = 64;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
#else
constexpr int kVecBytes = 16;
#endif

template <class T>
struct Registers {
  // The signed integer of T's size.
  using Lane = std::conditional_t<
      sizeof(T) == 1, int8_t,
      std::conditional_t<sizeof(T) == 2, int16_t, std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>>;
  typedef T Register __attribute__((vector_size(kVecBytes)));
  typedef Lane Int __attribute__((vector_size(kVecBytes)));
  static constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52, kBias = sizeof(T) == 4 ? 127 : 1023;
};

template <class T>
struct Vec {
  using R = Registers<T>;
  using Register = typename R::Register;
  using Int = typename R::Int;
  using Lane = typename R::Lane;
  using Mask = Int;
  static constexpr int size = kVecBytes / sizeof(T);
  Register v;

  Vec() = default;
  FASTGRAD_INLINE Vec(T x) : v(x - Register{}) {}
  FASTGRAD_INLINE Vec(Register x) : v(x) {}

  static FASTGRAD_INLINE Vec load(const T* p) {
    Vec r;
    std::memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  // The same by two loads: see load_as() in convert.h.
  static FASTGRAD_INLINE Vec load_halves(const T* p) {
#if defined(__AVX512F__)
    const __m256i* const half = reinterpret_cast<const __m256i*>(p);
    return (Register)_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(half)), _mm256_loadu_si256(half + 1),
                                        1);
#else
    return load(p);
#endif
  }
  // The first n lanes; the others hold `fill`. A tail goes through the same arithmetic as a whole register, so a
  // value never depends on its position.
  static FASTGRAD_INLINE Vec load(const T* p, int64_t n, T fill = 0) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      return (Register)_mm512_mask_loadu_epi32((__m512i)Vec(fill).v, first_lanes(n), p);
    else if constexpr (sizeof(T) == 8)
      return (Register)_mm512_mask_loadu_epi64((__m512i)Vec(fill).v, first_lanes(n), p);
    else
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4)
      return select(first_lanes(n), (Register)_mm256_maskload_epi32((const int*)p, (__m256i)first_lanes(n)), Vec(fill));
    else if constexpr (sizeof(T) == 8)
      return select(first_lanes(n), (Register)_mm256_maskload_epi64((const long long*)p, (__m256i)first_lanes(n)),
                    Vec(fill));
    else
#endif
    {
      alignas(kVecBytes) T lanes[size];
      for (int i = 0; i < size; ++i) lanes[i] = fill;
      std::memcpy(lanes, p, n * sizeof(T));
      return load(lanes);
    }
  }
  FASTGRAD_INLINE void store(T* p) const { std::memcpy(p, &v, sizeof v); }
  // Past the cache, to a multiple of the register's bytes (stream.h).
  FASTGRAD_INLINE void stream(T* p) const {
#if defined(__AVX512F__)
    _mm512_stream_si512((__m512i*)p, (__m512i)v);
#elif defined(__AVX2__)
    _mm256_stream_si256((__m256i*)p, (__m256i)v);
#elif defined(__SSE2__)
    _mm_stream_si128((__m128i*)p, (__m128i)v);
#else
    store(p);
#endif
  }
  FASTGRAD_INLINE void store(T* p, int64_t n) const {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_epi32(p, first_lanes(n), (__m512i)v);
    else if constexpr (sizeof(T) == 8)
      _mm512_mask_storeu_epi64(p, first_lanes(n), (__m512i)v);
    else
#endif
    {  // by powers of two: to store under a mask is slow on AMD's CPUs
      alignas(kVecBytes) T lanes[size];
      store(lanes);
      int64_t done = 0;
      for (int part = size; part > 0; part /= 2)
        if (n & part) std::memcpy(p + done, lanes + done, part * sizeof(T)), done += part;
    }
  }
  static FASTGRAD_INLINE Vec iota() {
    Vec r;
    for (int i = 0; i < size; ++i) r.v[i] = T(i);
    return r;
  }

  friend FASTGRAD_INLINE Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend FASTGRAD_INLINE Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend FASTGRAD_INLINE Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  friend FASTGRAD_INLINE Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  friend FASTGRAD_INLINE Vec operator-(Vec a) { return -a.v; }
  friend FASTGRAD_INLINE Vec operator&(Vec a, Vec b) { return a.v & b.v; }
  friend FASTGRAD_INLINE Vec operator>>(Vec a, int n) { return a.v >> n; }
  friend FASTGRAD_INLINE Mask operator<(Vec a, Vec b) { return a.v < b.v; }
  friend FASTGRAD_INLINE Mask operator<=(Vec a, Vec b) { return a.v <= b.v; }
  friend FASTGRAD_INLINE Mask operator>(Vec a, Vec b) { return a.v > b.v; }
  friend FASTGRAD_INLINE Mask operator>=(Vec a, Vec b) { return a.v >= b.v; }
  friend FASTGRAD_INLINE Mask operator==(Vec a, Vec b) { return a.v == b.v; }
  friend FASTGRAD_INLINE Mask operator!=(Vec a, Vec b) { return a.v != b.v; }
  friend FASTGRAD_INLINE Vec select(Mask m, Vec a, Vec b) { return m ? a.v : b.v; }
  // One rounding where the ISA has the instruction, two elsewhere. By intrinsics, because of a * b - c the compiler may
  // share a * b with another expression, and the error terms of double-double arithmetic would be lost.
  friend FASTGRAD_INLINE Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v);
#elif defined(__FMA__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v);
#endif
    return a.v * b.v + c.v;
  }
  // max and min keep NaN of either side: the instruction gives b where either is NaN.
  friend FASTGRAD_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      const __m512 x = (__m512)a.v;
      return (Register)_mm512_mask_max_ps(x, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x, (__m512)b.v);
    }
    if constexpr (std::is_same_v<T, double>) {
      const __m512d x = (__m512d)a.v;
      return (Register)_mm512_mask_max_pd(x, _mm512_cmp_pd_mask(x, x, _CMP_ORD_Q), x, (__m512d)b.v);
    }
#endif
    if constexpr (std::is_integral_v<T>)
      return a.v > b.v ? a.v : b.v;
    else
      return select(a.v != a.v, a, at_least(b, a));
  }
  friend FASTGRAD_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
      const __m512 x = (__m512)a.v;
      return (Register)_mm512_mask_min_ps(x, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x, (__m512)b.v);
    }
    if constexpr (std::is_same_v<T, double>) {
      const __m512d x = (__m512d)a.v;
      return (Register)_mm512_mask_min_pd(x, _mm512_cmp_pd_mask(x, x, _CMP_ORD_Q), x, (__m512d)b.v);
    }
#endif
    if constexpr (std::is_integral_v<T>)
      return a.v < b.v ? a.v : b.v;
    else
      return select(a.v != a.v, a, at_most(b, a));
  }
  // a, but no less than `low`, or no more than `high`; NaN stays, and as a bound it is none. One instruction.
  friend FASTGRAD_INLINE Vec at_least(Vec a, Vec low) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm512_max_ps((__m512)low.v, (__m512)a.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm512_max_pd((__m512d)low.v, (__m512d)a.v);
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm256_max_ps((__m256)low.v, (__m256)a.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm256_max_pd((__m256d)low.v, (__m256d)a.v);
#elif defined(__SSE2__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm_max_ps((__m128)low.v, (__m128)a.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm_max_pd((__m128d)low.v, (__m128d)a.v);
#endif
    return select(a < low, low, a);
  }
  friend FASTGRAD_INLINE Vec at_most(Vec a, Vec high) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm512_min_ps((__m512)high.v, (__m512)a.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm512_min_pd((__m512d)high.v, (__m512d)a.v);
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm256_min_ps((__m256)high.v, (__m256)a.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm256_min_pd((__m256d)high.v, (__m256d)a.v);
#elif defined(__SSE2__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm_min_ps((__m128)high.v, (__m128)a.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm_min_pd((__m128d)high.v, (__m128d)a.v);
#endif
    return select(a > high, high, a);
  }
  // a / b within one ulp, for b of ordinary size (neither subnormal nor near overflow): an estimate of 1 / b, refined.
  friend FASTGRAD_INLINE Vec quotient(Vec a, Vec b) {
#if defined(__AVX512F__)
    Vec r;
    if constexpr (std::is_same_v<T, float>) {
      r = (Register)_mm512_rcp14_ps((__m512)b.v);
    } else {
      r = (Register)_mm512_rcp14_pd((__m512d)b.v);
      r = fma(fma(-b, r, Vec(1)), r, r);
    }
    const Vec q = a * r;
    return fma(fma(-b, q, a), r, q);
#else
    return a / b;
#endif
  }
  friend FASTGRAD_INLINE Vec abs(Vec a) {
    if constexpr (std::is_integral_v<T>)
      return a.v < 0 ? -a.v : a.v;
    else
      return from_bits(a.bits() & ~sign_bit());
  }

  // Floating point only.
  friend FASTGRAD_INLINE Vec copysign(Vec a, Vec s) {
    return from_bits((a.bits() & ~sign_bit()) | (s.bits() & sign_bit()));
  }
  // The nearest integer, for |a| < 2^(kMantissa - 2): adding 1.5 * 2^kMantissa leaves no fraction bits.
  friend FASTGRAD_INLINE Vec round(Vec a) {
    const Vec magic(kMagic);
    return (a.v + magic.v) - magic.v;
  }
  friend FASTGRAD_INLINE Vec floor(Vec a) {
    const Vec magic(T(int64_t(1) << R::kMantissa)), m = abs(a);
    const Vec nearest = copysign((m + magic) - magic, a);
    return select(m < magic, copysign(select(nearest > a, nearest - Vec(1), nearest), a), a);
  }
  friend FASTGRAD_INLINE Vec trunc(Vec a) { return copysign(floor(abs(a)), a); }
  friend FASTGRAD_INLINE Vec sqrt(Vec a) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      return (Register)_mm512_sqrt_ps((__m512)a.v);
    else
      return (Register)_mm512_sqrt_pd((__m512d)a.v);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4)
      return (Register)_mm256_sqrt_ps((__m256)a.v);
    else
      return (Register)_mm256_sqrt_pd((__m256d)a.v);
#elif defined(__SSE2__)
    if constexpr (sizeof(T) == 4)
      return (Register)_mm_sqrt_ps((__m128)a.v);
    else
      return (Register)_mm_sqrt_pd((__m128d)a.v);
#else
    Vec r;
    for (int i = 0; i < size; ++i) r.v[i] = math::sqrt(a.v[i]);
    return r;
#endif
  }
  // a * 2^n in two steps, so that neither factor overflows before the product does.
  friend FASTGRAD_INLINE Vec scale2(Vec a, Vec n) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) return (Register)_mm512_scalef_ps((__m512)a.v, (__m512)n.v);
    if constexpr (std::is_same_v<T, double>) return (Register)_mm512_scalef_pd((__m512d)a.v, (__m512d)n.v);
#endif
    const Vec half = round(n * Vec(T(0.5)));
    return a * power2(half) * power2(n - half);
  }
  // a = m * 2^e with sqrt(1/2) <= m < sqrt(2), for normal positive a.
  friend FASTGRAD_INLINE Vec split2(Vec a, Vec& e) {
    constexpr auto root_half = sizeof(T) == 4 ? int64_t(0x3f3504f3) : int64_t(0x3fe6a09e667f3bcd);
    constexpr auto one = int64_t(R::kBias) << R::kMantissa;
    typedef std::make_unsigned_t<Lane> Bits __attribute__((vector_size(kVecBytes)));  // AVX2 shifts no other int64
    const Bits shifted = (Bits)(a.bits() + Int{} + Lane(one - root_half)) >> R::kMantissa;
    const Int exponent = (Int)shifted - R::kBias;
    e = from_int(exponent);
    return from_bits(a.bits() - (exponent << R::kMantissa));
  }

  // A mask of the lanes below n, as the loads and stores of this ISA take it.
#if defined(__AVX512F__)
  static FASTGRAD_INLINE uint16_t first_lanes(int64_t n) { return uint16_t((1u << n) - 1); }
#else
  static FASTGRAD_INLINE Int first_lanes(int64_t n) {
    Int lane;
    for (int i = 0; i < size; ++i) lane[i] = Lane(i);
    return lane < Int{} + Lane(n);
  }
#endif
  FASTGRAD_INLINE Int bits() const { return (Int)v; }
  static FASTGRAD_INLINE Vec from_bits(Int i) { return (Register)i; }
  static FASTGRAD_INLINE Int sign_bit() { return Int{} + Lane(uint64_t(1) << (8 * sizeof(T) - 1)); }
  // 1.5 * 2^kMantissa: added to a whole number, it leaves that in the last bits. So it converts between double and
  // int64_t, for which there is no instruction before AVX-512.
  static constexpr T kMagic = std::is_floating_point_v<T> ? T(3) * T(int64_t(1) << (R::kMantissa - 1)) : T(0);
  static FASTGRAD_INLINE Vec from_int(Int i) {
#if !defined(__AVX512F__)
    if constexpr (sizeof(T) == 8) return from_bits(i + Vec(kMagic).bits()) - Vec(kMagic);
#endif
    return __builtin_convertvector(i, Register);
  }
  // 2^n for a whole number n.
  static FASTGRAD_INLINE Vec power2(Vec n) { return from_bits((n + Vec(kMagic + T(R::kBias))).bits() << R::kMantissa); }
};

#if defined(__AVX512F__)
// As math/reductions.h has it, in two comparisons whose masks stay in mask registers.
template <bool Largest>
FASTGRAD_INLINE __mmask16 beyond(Vec<float> x, Vec<float> best) {
  const __m512 b = (__m512)best.v;
  return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(b, b, _CMP_ORD_Q), (__m512)x.v, b,
                                 Largest ? _CMP_NLE_UQ : _CMP_NGE_UQ);
}
template <bool Largest>
FASTGRAD_INLINE __mmask8 beyond(Vec<double> x, Vec<double> best) {
  const __m512d b = (__m512d)best.v;
  return _mm512_mask_cmp_pd_mask(_mm512_cmp_pd_mask(b, b, _CMP_ORD_Q), (__m512d)x.v, b,
                                 Largest ? _CMP_NLE_UQ : _CMP_NGE_UQ);
}
FASTGRAD_INLINE Vec<float> select(__mmask16 m, Vec<float> a, Vec<float> b) {
  return Vec<float>::Register(_mm512_mask_mov_ps((__m512)b.v, m, (__m512)a.v));
}
FASTGRAD_INLINE Vec<double> select(__mmask8 m, Vec<double> a, Vec<double> b) {
  return Vec<double>::Register(_mm512_mask_mov_pd((__m512d)b.v, m, (__m512d)a.v));
}
#endif

// A bit for each lane of a mask, that of lane 0 lowest.
template <class Mask>
FASTGRAD_INLINE uint64_t lane_bits(Mask m) {
  [[maybe_unused]] constexpr bool wide = sizeof(m[0]) == 8;
#if defined(__AVX512F__)
  return wide ? uint64_t(_mm512_movepi64_mask((__m512i)m)) : uint64_t(_mm512_movepi32_mask((__m512i)m));
#elif defined(__AVX2__)
  return unsigned(wide ? _mm256_movemask_pd((__m256d)m) : _mm256_movemask_ps((__m256)m));
#elif defined(__SSE2__)
  return unsigned(wide ? _mm_movemask_pd((__m128d)m) : _mm_movemask_ps((__m128)m));
#else
  uint64_t bits = 0;
  for (size_t lane = 0; lane < sizeof m / sizeof m[0]; ++lane) bits |= uint64_t(m[lane] & 1) << lane;
  return bits;
#endif
}
template <class Mask>
FASTGRAD_INLINE bool any(Mask m) {
  return lane_bits(m) != 0;
}
template <class Mask>
FASTGRAD_INLINE bool all(Mask m) {
  return lane_bits(m) == (uint64_t(1) << (sizeof m / sizeof m[0])) - 1;
}

// Combines each lane with that `Half` further, and so on. The lanes are constants: as a loop over them, compilers build
// the register of indices anew each time.
template <int Half, class T, class F, size_t... I>
FASTGRAD_INLINE Vec<T> fold_lanes(Vec<T> x, F f, std::index_sequence<I...> lanes) {
  x = f(x, Vec<T>(__builtin_shufflevector(x.v, x.v, int((I + Half) % sizeof...(I))...)));
  if constexpr (Half > 1)
    return fold_lanes<Half / 2>(x, f, lanes);
  else
    return x;
}
// Combines the lanes as a balanced tree: the order depends on nothing but the register's width.
template <class T, class F>
FASTGRAD_INLINE T reduce_lanes(Vec<T> x, F f) {
  constexpr int size = Vec<T>::size;
  return fold_lanes<size / 2>(x, f, std::make_index_sequence<size>()).v[0];
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE

namespace fastgrad::math {
template <class T>
struct ScalarOf<FASTGRAD_BACKEND_NAMESPACE::Vec<T>> {
  using type = T;
};
}  // namespace fastgrad::math

#include "simd_math.h"
