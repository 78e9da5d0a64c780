// The threads of a row: where it lies, and how they combine values. See rows.cuh.
#pragma once
#include "../math/reductions.h"
#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

enum class Group { warp, block, across };

constexpr int kRowThreads = 256;                    // of a block with several warps' rows
constexpr int kBlockBits = 9, kBlockThreads = 512;  // of a block of rows across; at most, of a block that is a group
constexpr int kMostLanesBits = 5;                   // of a group that is not a block

struct RowsPlan {
  RowsArgs args;
  int lanes_bits;                    // the log2 of the threads of a group that is not a block
  int pack_bits;                     // of the elements of one access
  int64_t groups, groups_per_block;  // of rows; a block does several where it adds up something of theirs
  WideDivider shape[kMaxDims];
};

RowsPlan plan_rows(const RowsArgs& args);

using math::Plus;
using Max = math::Extreme<true>;  // keeps NaN

// A thread's sum over a long row, of many summands that are sums themselves.
template <class A>
class LongSum {
 public:
  __device__ __forceinline__ void add(A x) { sum_ += double(x); }
  __device__ __forceinline__ void scale(A f) { sum_ *= double(f); }
  __device__ __forceinline__ double value() const { return sum_; }

 private:
  double sum_ = 0;
};
template <>
class LongSum<double> {
 public:
  __device__ __forceinline__ void add(double x) {  // Knuth's two-sum
    const double sum = sum_ + x, added = sum - sum_;
    lost_ += (sum_ - (sum - added)) + (x - added);
    sum_ = sum;
  }
  __device__ __forceinline__ void scale(double f) {
    sum_ *= f;
    lost_ *= f;
  }
  __device__ __forceinline__ double value() const {
    return lost_ == lost_ ? sum_ + lost_ : sum_;  // an infinite sum loses NaN
  }

 private:
  double sum_ = 0, lost_ = 0;
};

// Whose row it is, and how its threads combine values.
template <Group G>
class RowGroup {
 public:
  int64_t row;
  bool active;  // otherwise a row beyond the last: the thread goes along, and writes nothing
  int lane, lanes;

  __device__ __forceinline__ RowGroup(const RowsPlan& p, int64_t group) : plan_(p) {
    const int t = int(threadIdx.x);
    lanes = G == Group::block ? int(blockDim.x) : 1 << p.lanes_bits;
    lane = G == Group::warp ? t & (lanes - 1) : G == Group::block ? t : t >> row_bits();
    if constexpr (G == Group::warp)
      row = group * (kRowThreads >> p.lanes_bits) + (t >> p.lanes_bits);
    else if constexpr (G == Group::block)
      row = group;
    else
      row = (group << row_bits()) + (t & ((1 << row_bits()) - 1));
    active = row < p.args.rows;
    if (!active) row = p.args.rows - 1;
  }
  __device__ __forceinline__ bool leads() const { return active && lane == 0; }
  __device__ __forceinline__ int64_t length() const { return plan_.args.n; }

  // The row's first element of an operand.
  __device__ __forceinline__ char* base(int operand) const {
    const auto& o = plan_.args.operand[operand];
    char* p = static_cast<char*>(o.data);
    int64_t i = row;
#pragma unroll 1
    for (int d = 0; d < plan_.args.ndim; ++d) {
      const int64_t next = d + 1 < plan_.args.ndim ? int64_t(plan_.shape[d].divide(uint64_t(i))) : 0;
      p += (i - next * int64_t(plan_.shape[d].divisor)) * o.row_strides[d];
      i = next;
    }
    return p;
  }

  // op over v of all threads of the row, the same for each of them.
  template <class V, class Op>
  __device__ __forceinline__ V combine(V v, Op op) const {
    if constexpr (G == Group::across) {
      if (lanes == 1) return v;
      __shared__ V partial[kBlockThreads];
      const int t = int(threadIdx.x), rows = 1 << row_bits();
      __syncthreads();  // all have read the previous results
      partial[t] = v;
      for (int d = lanes / 2; d > 0; d /= 2) {
        __syncthreads();
        if (lane < d) partial[t] = op(partial[t], partial[t + d * rows]);
      }
      __syncthreads();
      return partial[t & (rows - 1)];
    } else {
      const int width = G == Group::warp ? lanes : 32;
      for (int d = width / 2; d > 0; d /= 2) v = op(v, __shfl_xor_sync(kFullWarp, v, d));
      if constexpr (G == Group::block) {
        __shared__ V partial[32];
        __syncthreads();  // all have read the previous results
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
        __syncthreads();
        v = partial[0];
        for (int w = 1; w < int(blockDim.x) / 32; ++w) v = op(v, partial[w]);
      }
      return v;
    }
  }

 protected:
  const RowsPlan& plan_;
  __device__ __forceinline__ int row_bits() const { return kBlockBits - plan_.lanes_bits; }
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
