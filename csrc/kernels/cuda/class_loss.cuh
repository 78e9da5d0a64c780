// What the losses over classes share: the class of a row, its weight, sums over rows in a fixed order.
//
// Sums: a block adds up, in double, what a fixed range of rows gives, one block adds up the blocks' results. A class
// out of bounds is never followed: its row's loss is NaN.
#pragma once
#include "rows.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Places of the operands; see backend.h.
enum { kLogits, kTarget, kWeight, kLoss, kStats, kTotalWeight, kGradInput };
constexpr int kGradient = kLoss;  // of the backward kernels

template <class A>
__device__ __forceinline__ A load_one(const RowsArgs& a, int k, const void* p) {
  A x{};
  with_float_dtype(a.operand[k].dtype, [&](auto zero) { x = convert<A>(*static_cast<const decltype(zero)*>(p)); });
  return x;
}
template <class A>
__device__ __forceinline__ A weight_of(const RowsArgs& a, int64_t c) {
  const auto& o = a.operand[kWeight];
  return o.data ? load_one<A>(a, kWeight, static_cast<const char*>(o.data) + c * o.element_stride) : A(1);
}

// The class of a row.
struct Class {
  int64_t index;
  bool ignored, valid;
  __device__ __forceinline__ Class(const RowsArgs& a, const char* target) {
    index = a.operand[kTarget].dtype == Dtype::i64 ? *reinterpret_cast<const int64_t*>(target)
                                                   : *reinterpret_cast<const uint8_t*>(target);
    ignored = index == a.parameter[0].integer;
    valid = !ignored && index >= 0 && index < a.n;
  }
};

// A row's incoming gradient.
template <class A>
__device__ __forceinline__ A row_gradient(const RowsArgs& a, const char* p) {
  const A g = load_one<A>(a, kGradient, p);
  return a.flags & kReduceMean ? g / load_one<A>(a, kTotalWeight, a.operand[kTotalWeight].data) : g;
}

// Adds a row's loss and weight to the sums, or writes the loss.
template <class A, class Row>
__device__ __forceinline__ void add_loss(const Row& row, const RowsArgs& a, RowSums& sums, A loss, A weight) {
  sums.add({double(loss), double(weight), -1});
  if (!(a.flags & (kReduceMean | kReduceSum))) store_as(a.operand[kLoss].dtype, row.base(kLoss), loss);
}
template <class A, class Row>
__device__ __forceinline__ void reject_class(const Row& row, const RowsArgs& a, RowSums& sums) {
  add_loss(row, a, sums, A(NAN), A(1));
  sums.add({0, 0, row.row});
}

// One block: the sums of all blocks, in a fixed order.
template <class A>
__global__ void __launch_bounds__(kBlockThreads) sum_losses(const __grid_constant__ RowsArgs a, int64_t blocks) {
  const RowSums* const from = static_cast<const RowSums*>(a.workspace);
  RowSums sums{0, 0, -1};
#pragma unroll 4
  for (int64_t b = threadIdx.x; b < blocks; b += kBlockThreads) sums.add(from[b]);
  sums = block_sum(sums);
  if (threadIdx.x != 0) return;
  const auto &loss = a.operand[kLoss], &total = a.operand[kTotalWeight];
  if (a.flags & (kReduceMean | kReduceSum))
    store_as(loss.dtype, loss.data, A(a.flags & kReduceMean ? sums.loss / sums.weight : sums.loss));
  store_as(total.dtype, total.data, A(sums.weight));
  if (a.bad_row) *a.bad_row = sums.bad_row;
}

template <class A, class Formula>
Status class_loss(const RowsArgs& a, const Formula& f) {
  int64_t blocks = 0;
  const Status status = rows_typed<A>(a, f, &blocks);
  if (status != kSuccess) return status;
  return launch({1, kBlockThreads, a.stream}, &sum_losses<A>, a, blocks);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
