// The reductions of one input. Outputs: the result; for the kernels with two, see math/reductions.h.
#include "reduce.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

Status sum(const ReduceArgs& a) { return reduce_with_integers<math::Sum>(a); }
Status mean(const ReduceArgs& a) { return reduce<math::Mean>(a); }
Status prod(const ReduceArgs& a) { return reduce_with_integers<math::Prod>(a); }
Status amax(const ReduceArgs& a) { return reduce_with_integers<math::ExtremeValue<true>>(a); }
Status amin(const ReduceArgs& a) { return reduce_with_integers<math::ExtremeValue<false>>(a); }
Status max_with_index(const ReduceArgs& a) { return reduce_with_integers<math::ExtremeIndex<true>>(a); }
Status min_with_index(const ReduceArgs& a) { return reduce_with_integers<math::ExtremeIndex<false>>(a); }
Status argmax(const ReduceArgs& a) { return reduce_with_integers<math::IndexOfExtreme<true>>(a); }
Status argmin(const ReduceArgs& a) { return reduce_with_integers<math::IndexOfExtreme<false>>(a); }
Status var_mean(const ReduceArgs& a) { return reduce<math::Var>(a); }
Status std_mean(const ReduceArgs& a) { return reduce<math::Std>(a); }
Status logsumexp(const ReduceArgs& a) { return reduce<math::LogSumExp>(a); }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
