// From tensors to ReduceArgs: shared by the reductions and by the losses.
#pragma once
#include <ATen/WrapDimUtilsMulti.h>

#include "common.h"

namespace fastgrad::ops {

using DimMask = std::bitset<at::dim_bitset_size>;

// The dimensions that `dim` names (all, if none), wrapped; IndexError and RuntimeError as torch's.
DimMask dim_mask(at::OptionalIntArrayRef dim, int64_t ndim);
at::DimVector reduced_shape(at::IntArrayRef shape, const DimMask& reduced, bool keepdim);

// Sizes, strides and counts of the reduction of `inputs`, which all have the same shape (expand them first), over the
// dimensions `reduced` to `outputs` of shape reduced_shape(...). Dimensions are sorted by stride and coalesced; the
// reduced ones keep their order if indices of elements are wanted (`in_order`). The caller sets compute and parameter.
ReduceArgs reduce_args(const char* op, at::TensorList inputs, const DimMask& reduced, at::TensorList outputs,
                       bool keepdim = false, bool in_order = false);

}  // namespace fastgrad::ops
