// The reductions of one input. Outputs: the result; for the kernels with two, see math/reductions.h.
#include "reduce.h"

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

Status sum_product(const ReduceArgs& a) { return reduce<math::Sum, math::Times, 2>(a); }
Status count_equal(const ReduceArgs& a) { return reduce<math::Sum, math::Equal, 2>(a); }
Status count_zero(const ReduceArgs& a) { return reduce<math::Sum, math::IsZero>(a); }
Status prod_nonzero(const ReduceArgs& a) { return reduce<math::Prod, math::NonzeroOrOne>(a); }
Status select_equal(const MapArgs& a) { return map<4, math::SelectEqual>(a); }
Status prod_backward(const MapArgs& a) { return map<4, math::ProdBackward>(a); }
Status var_backward(const MapArgs& a) { return map<3, math::VarBackward>(a); }
Status logsumexp_backward(const MapArgs& a) { return map<3, math::LogSumExpBackward>(a); }
Status maximum(const MapArgs& a) { return map_with_integers<2, math::Extreme<true>>(a); }
Status minimum(const MapArgs& a) { return map_with_integers<2, math::Extreme<false>>(a); }
Status maximum_backward(const MapArgs& a) { return map<3, math::MaximumBackward>(a); }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
