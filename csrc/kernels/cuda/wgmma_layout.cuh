// The index maps of the Hopper matrix product: where elements lie in shared memory, how a descriptor says so, which
// element an accumulator is, which stage of the ring comes next. Pure functions, tested in
// tests/kernels/wgmma_test.cpp.
#pragma once
#include <cstdint>

#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kSliceDepth = 64;                         // 16-bit elements of one swizzled line of 128 bytes
constexpr unsigned kLine = 128, kAtom = 8 * kLine;      // 8 lines repeat the swizzle's pattern
constexpr unsigned kChunk = kSliceDepth * kLine;        // 64 x 64 elements
constexpr int kChunkRows = 64, kInstructionDepth = 16;  // rows of a chunk whose rows count fastest; k of one wgmma

// The 128-byte swizzle of the copy engine and of wgmma: the 16-byte unit within a line, permuted by the line's number.
__host__ __device__ constexpr unsigned swizzle_128(unsigned offset) { return offset ^ (offset >> 3 & 0x70); }

// A panel is a slice of `a` (its rows) or of `b` (its columns) in shared memory, as the copy engine leaves it. With k
// fastest in memory a line is 64 elements along k of one row; else it is 64 rows at one k, and every 64 rows begin a
// new chunk. Bytes from the panel's start to element (row, k), before the swizzle:
template <bool KFastest>
__host__ __device__ constexpr unsigned panel_offset(int row, int k) {
  if constexpr (KFastest)
    return unsigned(row) * kLine + unsigned(k) * 2;
  else
    return unsigned(row / kChunkRows) * kChunk + unsigned(k) * kLine + unsigned(row % kChunkRows) * 2;
}

// What wgmma is told of a fragment that starts at `address`, a shared-memory address within a panel aligned to kAtom.
// All in units of 16 bytes: the address (bits 0 - 13), the leading offset (16 - 29), the stride offset (32 - 45); bits
// 62 - 63 name the swizzle, 1 for 128 bytes. The stride offset leads to the next 8 lines; the leading one, where rows
// are fastest, to the next chunk of 64 rows, else it is not used.
template <bool KFastest>
__host__ __device__ constexpr uint64_t fragment_descriptor(unsigned address) {
  const uint64_t leading = KFastest ? 1 : kChunk / 16, stride = kAtom / 16;
  return uint64_t(address >> 4 & 0x3fff) | leading << 16 | stride << 32 | uint64_t(1) << 62;
}
// The same fragment `bytes` further on. Shared memory ends before the address field does: nothing is carried.
__host__ __device__ constexpr uint64_t advance(uint64_t descriptor, unsigned bytes) {
  return descriptor + (bytes >> 4);
}

// Which element of its warpgroup's 64 x N accumulators is number `index` of a thread.
struct Element {
  int row, column;
};
__host__ __device__ constexpr Element accumulator_at(int thread, int index) {
  return {thread / 32 % 4 * 16 + thread % 32 / 4 + index / 2 % 2 * 8, index / 4 * 8 + thread % 4 * 2 + index % 2};
}

// The ring of stages, as one side goes round. A barrier's phases are numbered from 0, and waiting for a parity waits
// for the end of the phase in hand if it has that parity, else it returns at once. Consumers wait until phase r of
// `full` has ended in round r: parity r % 2. Producers wait in round r until phase r - 1 of `empty` has ended: parity
// (r - 1) % 2, which in round 0 has always passed.
template <int Stages>
struct Ring {
  int stage = 0;
  unsigned round = 0;  // modulo 2
  __host__ __device__ constexpr unsigned full_parity() const { return round; }
  __host__ __device__ constexpr unsigned empty_parity() const { return round ^ 1; }
  __host__ __device__ constexpr void advance() {
    if (++stage == Stages) stage = 0, round ^= 1;
  }
};

// Columns of the tile for a product: 256, or 128 where that keeps more multiprocessors busy, or 0 where the product is
// too small for either. The time of a wave of tiles is taken as its columns, with a tenth more for the smaller tile,
// which reads a more often.
inline int wgmma_tile_columns(int64_t m, int64_t n, int64_t k, int64_t batches, int multiprocessors) {
  if (m < 64 || n < 64 || k < 64) return 0;
  const int64_t rows = ceil_div(m, 128) * batches, narrow = rows * ceil_div(n, 128), wide = rows * ceil_div(n, 256);
  if (2 * narrow < multiprocessors) return 0;
  return ceil_div(wide, multiprocessors) * 256 * 10 <= ceil_div(narrow, multiprocessors) * 128 * 11 ? 256 : 128;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
