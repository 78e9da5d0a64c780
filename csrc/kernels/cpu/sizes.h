// Arithmetic of sizes, for the drivers that cut work.
#pragma once
#include "simd.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int64_t kPageBytes = 4096;

FASTGRAD_INLINE constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTGRAD_INLINE constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
FASTGRAD_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
FASTGRAD_INLINE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
