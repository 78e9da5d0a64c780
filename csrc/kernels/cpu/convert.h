// Runs of elements from and to their compute type (float, double or an integer type).
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
// The same to adjacent elements, past the cache: see stream.h, whose finish_streaming() must follow.
template <class T>
void stream_run(Dtype dtype, const T* from, char* to, int64_t n);

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

struct b8 {
  uint8_t bits;
  b8() = default;
  template <class T>
  explicit FASTGRAD_INLINE b8(T x) : bits(x != T(0)) {}
  FASTGRAD_INLINE operator int() const { return bits; }
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
