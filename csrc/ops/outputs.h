// New tensors for the results of kernels: at::empty and at::empty_like, but that on the CPU the way there through the
// dispatcher takes as long as a small kernel.
#pragma once
#include <ATen/EmptyTensor.h>

#include "common.h"

namespace fastgrad::ops {

inline Tensor new_tensor(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return options.device().is_cpu() ? Tensor(at::detail::empty_cpu(sizes, options)) : at::empty(sizes, options);
}
inline Tensor new_like(const Tensor& t) {
  return t.is_cpu() && t.is_non_overlapping_and_dense()
             ? Tensor(at::detail::empty_strided_cpu(t.sizes(), t.strides(), t.options()))
             : at::empty_like(t);
}

}  // namespace fastgrad::ops
