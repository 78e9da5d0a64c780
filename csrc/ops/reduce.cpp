// From tensors to ReduceArgs; see reduce.h.
#include "reduce.h"

namespace fastgrad::ops {
namespace {

// One dimension of the index space, with the strides of every operand over it.
struct Dim {
  int64_t size;
  int64_t strides[3 + 2];  // inputs, then outputs

  // What dimensions are sorted by. Expanded dimensions come last: they are worth no locality.
  int64_t key(size_t operands) const {
    for (size_t k = 0; k < operands; ++k)
      if (strides[k] != 0) return strides[k];
    return std::numeric_limits<int64_t>::max();
  }
};

using Dims = c10::SmallVector<Dim, 4>;

void sort_and_coalesce(Dims& dims, size_t operands, bool in_order) {
  if (!in_order && dims.size() > 1)  // a stable sort allocates
    std::stable_sort(dims.begin(), dims.end(),
                     [&](const Dim& a, const Dim& b) { return a.key(operands) < b.key(operands); });
  size_t n = 0;
  for (const Dim& d : dims) {
    bool merges = n > 0;
    for (size_t k = 0; merges && k < operands; ++k) merges = d.strides[k] == dims[n - 1].strides[k] * dims[n - 1].size;
    if (merges)
      dims[n - 1].size *= d.size;
    else
      dims[n++] = d;
  }
  dims.resize(n);
}

}  // namespace

DimMask dim_mask(at::OptionalIntArrayRef dim, int64_t ndim) {
  if (!dim || dim->empty()) return DimMask().flip();
  return at::dim_list_to_bitset(*dim, ndim);
}

at::DimVector reduced_shape(at::IntArrayRef shape, const DimMask& reduced, bool keepdim) {
  at::DimVector result;
  for (size_t d = 0; d < shape.size(); ++d)
    if (!reduced[d])
      result.push_back(shape[d]);
    else if (keepdim)
      result.push_back(1);
  return result;
}

ReduceArgs reduce_args(const char* op, at::TensorList inputs, const DimMask& reduced, at::TensorList outputs,
                       bool keepdim, bool in_order) {
  ReduceArgs a{};
  a.inputs = int(inputs.size());
  a.outputs = int(outputs.size());
  a.kept = a.reduced = 1;
  Dims kept, gone;
  const Tensor& first = inputs[0];
  int64_t output_dim = outputs[0].dim();
  for (int64_t d = first.dim() - 1; d >= 0; --d) {
    if (!reduced[d] || keepdim) --output_dim;
    if (first.size(d) == 1) continue;
    Dim dim{first.size(d), {}};
    for (int k = 0; k < a.inputs; ++k) dim.strides[k] = inputs[k].stride(d) * inputs[k].element_size();
    for (int k = 0; k < a.outputs && !reduced[d]; ++k)
      dim.strides[a.inputs + k] = outputs[k].stride(output_dim) * outputs[k].element_size();
    (reduced[d] ? gone : kept).push_back(dim);
    (reduced[d] ? a.reduced : a.kept) *= dim.size;
  }
  sort_and_coalesce(kept, inputs.size() + outputs.size(), false);
  sort_and_coalesce(gone, inputs.size(), in_order);
  TORCH_CHECK_NOT_IMPLEMENTED(kept.size() <= kMaxDims && gone.size() <= kMaxDims, "fastgrad::", op, ": more than ",
                              kMaxDims, " dimensions");
  a.kept_dims = int(kept.size());
  a.reduced_dims = int(gone.size());
  for (int k = 0; k < a.inputs; ++k) {
    a.in[k].data = inputs[k].const_data_ptr();
    a.in[k].dtype = dtype_of(inputs[k].scalar_type());
    for (size_t d = 0; d < kept.size(); ++d) a.in[k].kept_strides[d] = kept[d].strides[k];
    for (size_t d = 0; d < gone.size(); ++d) a.in[k].reduced_strides[d] = gone[d].strides[k];
  }
  for (int k = 0; k < a.outputs; ++k) {
    a.out[k].data = outputs[k].mutable_data_ptr();
    a.out[k].dtype = dtype_of(outputs[k].scalar_type());
    for (size_t d = 0; d < kept.size(); ++d) a.out[k].strides[d] = kept[d].strides[a.inputs + k];
  }
  for (size_t d = 0; d < kept.size(); ++d) a.kept_shape[d] = kept[d].size;
  for (size_t d = 0; d < gone.size(); ++d) a.reduced_shape[d] = gone[d].size;
  return a;
}

}  // namespace fastgrad::ops
