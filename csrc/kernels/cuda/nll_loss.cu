// Negative log-likelihood: loss = -w_t x_t per row of log-probabilities x with class t, and its gradient.
//
// Forward: a thread a row gathers one element. Backward: a thread an element, neighbours where the gradient is dense,
// writes zeros but for the row's class; NaN where that is out of bounds.
#include "class_loss.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

// A row of one thread, the group `group` of them.
using Row = RowGroup<Group::warp>;

template <class A>
__global__ void __launch_bounds__(kRowThreads) nll_forward(const __grid_constant__ RowsPlan p) {
  const RowsArgs& a = p.args;
  RowSums sums{0, 0, -1};
  const int64_t begin = int64_t(blockIdx.x) * p.groups_per_block;
  for (int64_t g = begin; g < begin + p.groups_per_block && g < p.groups; ++g) {
    const Row row(p, g);
    if (!row.active) continue;
    const Class c(a, row.base(kTarget));
    if (c.ignored) {
      add_loss(row, a, sums, A(0), A(0));
    } else if (!c.valid) {
      reject_class<A>(row, a, sums);
    } else {
      const A x = load_one<A>(a, kLogits, row.base(kLogits) + c.index * a.operand[kLogits].element_stride);
      const A w = weight_of<A>(a, c.index);
      add_loss(row, a, sums, -w * x, w);
    }
  }
  store_sums(a, block_sum(sums));
}

// Of class blockIdx.y + k gridDim.y, rows as neighbours; or of all classes of a row, classes as neighbours.
template <class A>
__global__ void __launch_bounds__(kRowThreads) nll_backward(const __grid_constant__ RowsPlan p) {
  const RowsArgs& a = p.args;
  const auto& o = a.operand[kGradInput];
  const Row row(p, blockIdx.x);
  if (!row.active) return;
  const Class target(a, row.base(kTarget));
  const A value = target.valid ? -row_gradient<A>(a, row.base(kGradient)) * weight_of<A>(a, target.index) : A(0);
  const A other = target.valid || target.ignored ? A(0) : A(NAN);  // as the row's loss
  char* const to = row.base(kGradInput);
  const int64_t step = int64_t(row.lanes) * gridDim.y;
  for (int64_t c = int64_t(blockIdx.y) * row.lanes + row.lane; c < a.n; c += step)
    store_as(o.dtype, to + c * o.element_stride, c == target.index && target.valid ? value : other);
}

template <class A>
Status forward(const RowsArgs& a) {
  int64_t blocks = 0;
  if (a.rows > 0) {
    RowsPlan p = plan_rows(a);
    p.groups = ceil_div(a.rows, kRowThreads);
    p.groups_per_block = ceil_div(p.groups, kMostSums);
    blocks = ceil_div(p.groups, p.groups_per_block);
    const Status status = launch({blocks, kRowThreads, a.stream}, &nll_forward<A>, p);
    if (status != kSuccess) return status;
  }
  return launch({1, kBlockThreads, a.stream}, &sum_losses<A>, a, blocks);
}
template <class A>
Status backward(const RowsArgs& a) {
  if (a.rows == 0 || a.n == 0) return kSuccess;
  RowsPlan p = plan_rows(a);
  const auto& o = a.operand[kGradInput];
  const bool across = o.row_strides[0] < o.element_stride;
  while (!across && p.lanes_bits < kMostLanesBits && 1 << p.lanes_bits < a.n) ++p.lanes_bits;
  const int64_t per_thread = ceil_div(a.n, 8 << p.lanes_bits);
  return launch(
      {ceil_div(a.rows, kRowThreads >> p.lanes_bits), kRowThreads, a.stream, per_thread < 1024 ? per_thread : 1024},
      &nll_backward<A>, p);
}

}  // namespace

Status nll_loss(const RowsArgs& a) { return a.compute == Dtype::f32 ? forward<float>(a) : forward<double>(a); }
Status nll_loss_backward(const RowsArgs& a) {
  return a.compute == Dtype::f32 ? backward<float>(a) : backward<double>(a);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
