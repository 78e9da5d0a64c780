// How a reduction is cut; see reduce.cuh.
#include "reduce.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kManyBlocks = 1024;  // enough for any device; not the device's own number, for results must not vary
constexpr int64_t kSteps = 8;          // of a thread, before it merges with others

// log2 of the elements of a 16-byte access: if all inputs are dense along the reduced dimension and aligned.
int pack_bits_of(const ReduceArgs& a) {
  if (a.reduced_dims != 1) return 0;
  const int64_t size = size_of(a.in[0].dtype);
  for (int k = 0; k < a.inputs; ++k) {
    const auto& in = a.in[k];
    if (!in.data || in.dtype != a.in[0].dtype || in.reduced_strides[0] != size || !is_aligned(in.data, 16)) return 0;
    if (!is_float(in.dtype) || !is_float(a.compute) || size > size_of(a.compute)) return 0;
    for (int d = 0; d < a.kept_dims; ++d)
      if (in.kept_strides[d] % 16 != 0) return 0;
  }
  return size == 2 ? 3 : size == 4 ? 2 : 1;
}

}  // namespace

ReducePlan plan_reduction(const ReduceArgs& a, int items, int fields) {
  ReducePlan p{};
  p.args = a;
  for (int d = 0; d < a.kept_dims; ++d) p.kept_shape[d] = WideDivider(a.kept_shape[d]);
  for (int d = 0; d < a.reduced_dims; ++d) p.reduced_shape[d] = WideDivider(a.reduced_shape[d]);
  const auto& in = a.in[0];
  p.inner = a.kept_dims == 0 || a.reduced_dims == 0 || in.reduced_strides[0] <= in.kept_strides[0];
  p.pack_bits = p.inner ? pack_bits_of(a) : 0;
  if (p.inner) {
    // Threads that fill a step first; then some that read 128 neighbouring bytes; then several steps for each before
    // they merge. More threads where few results would leave the device without work.
    const int64_t accesses = ceil_div(a.reduced, int64_t(1) << p.pack_bits), steps = ceil_div(a.reduced, items);
    const int64_t dense = p.pack_bits ? 8 : 32, wanted = ceil_div(steps, kSteps);
    int lanes = power_of_two_from(wanted > dense ? wanted : steps < dense ? steps : dense, kReduceThreads);
    while (lanes < kReduceThreads && lanes < accesses && a.kept * lanes < kManyBlocks * kReduceThreads) lanes *= 2;
    p.lanes_reduced = lanes;
  } else {
    p.lanes_reduced = power_of_two_from(ceil_div(a.reduced, 2 * items), kReduceThreads / 32);
  }
  p.lanes_kept = kReduceThreads / p.lanes_reduced;

  const int64_t blocks = ceil_div(a.kept, p.lanes_kept), step = int64_t(p.lanes_reduced) * items;
  int64_t splits = ceil_div(kManyBlocks, blocks);
  const auto at_most = [&](int64_t n) { splits = splits < n ? splits : n; };
  at_most(ceil_div(a.reduced, 4 * step));
  at_most(kWorkspaceBytes / (8 * fields) / a.kept);
  if (splits < 1 || blocks >= kManyBlocks / 2 || !a.workspace) splits = 1;
  p.split = ceil_div(ceil_div(a.reduced, splits), step) * step;
  p.splits = ceil_div(a.reduced, p.split);
  return p;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
