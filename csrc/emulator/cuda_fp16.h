// A stand-in for CUDA's header: the type, and its conversions, rounding to nearest even.
#pragma once
#include <bit>
#include <cstdint>

struct __half {
  uint16_t bits;
};

// A half shifted into a float's place has its value times 2^-112: one multiplication repairs it, also for subnormals.
inline float __half2float(__half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = uint32_t(x.bits & 0x7fff) << 13;
  if (rest >= 0x7c00u << 13) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x007fffff));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f) | sign);
}
inline __half __float2half(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000;
  const float a = std::bit_cast<float>(u & 0x7fffffff);
  if (a != a) return {0x7fff};
  if (a >= 65520) return {uint16_t(sign | 0x7c00)};
  if (a < 0x1p-14f)
    return {uint16_t(sign | (std::bit_cast<uint32_t>(a + 0.5f) - 0x3f000000))};  // subnormal: the sum rounds
  const uint32_t b = (u & 0x7fffffff) - (112u << 23);
  return {uint16_t(sign | ((b + 0xfff + ((b >> 13) & 1)) >> 13))};
}
