// Runs and registers of elements from and to their compute type (float, double or an integer type).
//
// load_run and store_run dispatch on the dtype once a run; the loops behind them (convert.cpp) are plain, so that the
// compiler vectorizes them. Floating-point stores round to nearest even.
#pragma once
#include <bit>

#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// to[i] = T(*(S*)(from + i * stride)), strides in bytes, S named by `dtype`.
// The two runs do not overlap. `prefetch`: whether what follows in memory is fetched meanwhile.
template <class T>
void load_run(Dtype dtype, T* to, const char* from, int64_t stride, int64_t n, bool prefetch = true);
template <class T>
void store_run(Dtype dtype, const T* from, char* to, int64_t stride, int64_t n);
// The same to adjacent elements, past the cache (stream.h).
class StreamWriter;
template <class T>
void stream_run(Dtype dtype, const T* from, char* to, int64_t n, StreamWriter& writer);

template <class T>
constexpr Dtype dtype_of = std::is_same_v<T, float>     ? Dtype::f32
                           : std::is_same_v<T, double>  ? Dtype::f64
                           : std::is_same_v<T, int64_t> ? Dtype::i64
                           : std::is_same_v<T, int32_t> ? Dtype::i32
                           : std::is_same_v<T, int16_t> ? Dtype::i16
                           : std::is_same_v<T, int8_t>  ? Dtype::i8
                                                        : Dtype::u8;

struct bf16 {
  uint16_t bits;
  bf16() = default;
  explicit FASTGRAD_INLINE bf16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x);
    bits = uint16_t(x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  explicit FASTGRAD_INLINE bf16(double x) : bf16(float(x)) {}
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>
  explicit FASTGRAD_INLINE bf16(I x) : bf16(float(x)) {}
  FASTGRAD_INLINE operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

struct f16 {
  uint16_t bits;
  f16() = default;
  // Rounding is left to float additions: a value in the subnormal range is added to 0.5, whose last bit weighs 2^-24,
  // and a normal one to its own rounding bias.
  explicit FASTGRAD_INLINE f16(float x) {
    const uint32_t u = std::bit_cast<uint32_t>(x), magnitude = u & 0x7fffffff, sign = (u >> 16) & 0x8000;
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
    const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    const uint32_t finite = magnitude < 0x38800000 ? small : normal;
    const uint32_t overflow = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    bits = uint16_t(sign | (magnitude >= 0x47800000 ? overflow : finite));
  }
  explicit FASTGRAD_INLINE f16(double x) : f16(float(x)) {}
  template <class I, class = std::enable_if_t<std::is_integral_v<I>>>
  explicit FASTGRAD_INLINE f16(I x) : f16(float(x)) {}
  // The exponent is rebiased by a multiplication, which is exact and normalizes subnormals too.
  FASTGRAD_INLINE operator float() const {
    const uint32_t magnitude = bits & 0x7fff, sign = uint32_t(bits & 0x8000) << 16;
    const float scaled = std::bit_cast<float>(magnitude << 13) * std::bit_cast<float>(0x77800000u);  // 2^112
    const uint32_t u = std::bit_cast<uint32_t>(scaled) | (magnitude >= 0x7c00 ? 0x7f800000u : 0u);
    return std::bit_cast<float>(u | sign);
  }
};

// A register of T from adjacent numbers of type S.
template <class T, class S>
FASTGRAD_INLINE Vec<T> load_as(const S* p) {
  using V = Vec<T>;
  if constexpr (std::is_same_v<T, S>) {
    return V::load(p);
  } else if constexpr (std::is_same_v<S, bf16>) {
#if defined(__AVX512F__)
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return V(typename V::Register(_mm512_slli_epi32(words, 16)));
#elif defined(__AVX2__)
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return V(typename V::Register(_mm256_slli_epi32(words, 16)));
#elif defined(__SSE2__)
    const __m128i half = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return V(typename V::Register(_mm_unpacklo_epi16(_mm_setzero_si128(), half)));
#else
    typedef uint16_t Halves __attribute__((vector_size(kVecBytes / 2)));
    typedef uint32_t Words __attribute__((vector_size(kVecBytes)));
    Halves half;
    std::memcpy(&half, p, sizeof half);
    return V(typename V::Register(__builtin_convertvector(half, Words) << 16));
#endif
  } else {
#if defined(__AVX512F__)
    return V(
        typename V::Register(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))));
#elif defined(__F16C__)
    return V(typename V::Register(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
#else
    T lane[V::size];
    for (int i = 0; i < V::size; ++i) lane[i] = T(p[i]);
    return V::load(lane);
#endif
  }
}
// Whether memory is read faster where every line is asked for twice: on a Zen 4 by 5 to 10%, and its hardware then
// fetches ahead so well that a kernel need not. A Xeon takes 4 to 12% longer, for two halves are an operation more.
FASTGRAD_INLINE bool halves_are_fast() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd");
#else
  return false;
#endif
}
// Of loops that wait for memory there is one more for that.
template <class T, class S, class Formula>
constexpr bool kMayLoadHalves = kVecBytes == 64 && std::is_same_v<S, T> && math::kBoundByMemory<Formula>;
// A register from adjacent numbers: by two loads, if `Halves` and they are of type T.
template <bool Halves, class T, class S>
FASTGRAD_INLINE Vec<T> load_as(const S* p) {
  if constexpr (Halves && std::is_same_v<T, S>)
    return Vec<T>::load_halves(p);
  else
    return load_as<T>(p);
}
// From the first n of them; the other lanes hold `fill`.
template <class T, class S>
FASTGRAD_INLINE Vec<T> load_as(const S* p, int64_t n, T fill = 0) {
  using V = Vec<T>;
  if constexpr (std::is_same_v<T, S>) {
    return V::load(p, n, fill);
  } else {
#if defined(__AVX512F__)
    alignas(32) S lane[V::size];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane), _mm256_maskz_loadu_epi16(V::first_lanes(n), p));
    return (typename V::Register)_mm512_mask_mov_ps((__m512)V(fill).v, V::first_lanes(n), (__m512)load_as<T>(lane).v);
#else
    S lane[V::size];
    std::memset(lane, 0, sizeof lane);
    std::memcpy(lane, p, n * sizeof(S));
    return select(V::first_lanes(n), load_as<T>(lane), V(fill));
#endif
  }
}

// The halves that a register of float becomes, rounded to nearest even: in memory, those of its first n lanes, or past
// the cache (stream.h), where a multiple of their bytes begins.
template <class S>
FASTGRAD_INLINE auto to_halves(Vec<float> x) {
  typedef uint16_t Halves __attribute__((vector_size(kVecBytes / 2)));
  typedef uint32_t Words __attribute__((vector_size(kVecBytes)));
  if constexpr (std::is_same_v<S, bf16>) {  // as bf16(float)
    const Words u = (Words)x.v, rounded = u + 0x7fff + ((u >> 16) & 1);
    const Words high = x.v == x.v ? rounded : Words{} + 0x7fc00000;
#if defined(__SSE2__) && !defined(__AVX2__)
    const __m128i half = _mm_srai_epi32((__m128i)high, 16), packed = _mm_packs_epi32(half, half);
    Halves low;
    std::memcpy(&low, &packed, sizeof low);
    return low;
#else
    return __builtin_convertvector(high >> 16, Halves);
#endif
  } else {
#if defined(__AVX512F__)
    return (Halves)_mm512_cvtps_ph((__m512)x.v, 0);
#elif defined(__F16C__)
    return (Halves)_mm256_cvtps_ph((__m256)x.v, 0);
#else
    Halves half;
    for (int i = 0; i < Vec<float>::size; ++i) half[i] = f16(x.v[i]).bits;
    return half;
#endif
  }
}
template <class S, class T>
FASTGRAD_INLINE void store_as(Vec<T> x, S* p) {
  if constexpr (std::is_same_v<T, S>) {
    x.store(p);
  } else {
    const auto half = to_halves<S>(x);
    std::memcpy(p, &half, sizeof half);
  }
}
template <class S, class T>
FASTGRAD_INLINE void store_as(Vec<T> x, S* p, int64_t n) {
  if constexpr (std::is_same_v<T, S>) {
    x.store(p, n);
  } else {
    const auto half = to_halves<S>(x);
    std::memcpy(p, &half, n * sizeof(S));
  }
}
template <class S, class T>
FASTGRAD_INLINE void stream_as(Vec<T> x, S* p) {
  if constexpr (std::is_same_v<T, S>) {
    x.stream(p);
  } else {
    const auto half = to_halves<S>(x);
#if defined(__AVX512F__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)half);
#elif defined(__AVX2__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)half);
#else
    std::memcpy(p, &half, sizeof half);
#endif
  }
}

struct b8 {
  uint8_t bits;
  b8() = default;
  template <class T>
  explicit FASTGRAD_INLINE b8(T x) : bits(x != T(0)) {}
  FASTGRAD_INLINE operator int() const { return bits; }
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
