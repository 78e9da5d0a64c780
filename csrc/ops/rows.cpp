// Row kernels' arguments; see rows.h.
#include "rows.h"

namespace fastgrad::ops {

RowsArgs rows_args(const char* op, at::IntArrayRef shape, int64_t dim, std::initializer_list<RowOperand> operands) {
  RowsArgs a{};
  const int64_t dims = shape.size();
  a.n = dims ? shape[dim] : 1;
  a.rows = 1;
  // The row dimensions innermost first: their sizes, and the strides of every operand.
  std::vector<int64_t> sizes;
  std::vector<std::array<int64_t, kRowOperands>> strides;
  for (int64_t d = dims - 1; d >= 0; --d) {
    if (d == dim || dims == 0) continue;
    a.rows *= shape[d];
    if (shape[d] == 1) continue;
    std::array<int64_t, kRowOperands> stride{};
    int k = 0;
    for (const RowOperand& o : operands) {
      const int64_t own = o.tensor.defined() ? o.tensor.dim() - (o.along >= 0) : 0;
      if (own > 0) {
        const int64_t row_dim = d - (d > dim);  // among the row dimensions
        const int64_t at = row_dim + (o.along >= 0 && row_dim >= o.along);
        stride[k] = o.tensor.stride(at) * o.tensor.element_size();
      }
      ++k;
    }
    // A dimension that continues the one inside it, for every operand, is joined to it.
    bool joins = !sizes.empty();
    for (int i = 0; i < k && joins; ++i) joins = stride[i] == strides.back()[i] * sizes.back();
    if (joins) {
      sizes.back() *= shape[d];
    } else {
      sizes.push_back(shape[d]);
      strides.push_back(stride);
    }
  }
  TORCH_CHECK_NOT_IMPLEMENTED(sizes.size() <= kMaxDims, "fastgrad::", op, ": more than ", kMaxDims, " dimensions");
  a.ndim = std::max<int>(sizes.size(), 1);
  a.row_shape[0] = 1;
  std::copy(sizes.begin(), sizes.end(), a.row_shape);
  int k = 0;
  for (const RowOperand& o : operands) {
    auto& operand = a.operand[k];
    if (o.tensor.defined()) {
      operand.data = const_cast<void*>(o.tensor.const_data_ptr());
      operand.dtype = dtype_of(o.tensor.scalar_type());
      const bool scalar = o.tensor.dim() == 0;
      operand.element_stride =
          o.along < 0 ? 0 : (scalar ? 1 : o.tensor.stride(o.along)) * int64_t(o.tensor.element_size());
      for (size_t d = 0; d < sizes.size(); ++d) operand.row_strides[d] = strides[d][k];
    }
    ++k;
  }
  return a;
}

}  // namespace fastgrad::ops
