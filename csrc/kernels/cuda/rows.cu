// How rows lie and are found; see rows.cuh.
#include "rows.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

RowLayout row_layout(const RowsArgs& a, int streamed) {
  bool packed = true, across = true, floats = true;
  int64_t size = 0;
  for (int k = 0; k < kRowOperands; ++k) {
    const auto& o = a.operand[k];
    if (!(streamed >> k & 1) || !o.data) continue;
    if (size == 0) size = size_of(o.dtype);
    floats &= is_float(o.dtype);
    packed &= size_of(o.dtype) == size && o.element_stride == size && is_aligned(o.data, 16);
    packed &= a.n * size % 16 == 0;
    for (int d = 0; d < a.ndim; ++d) packed &= o.row_strides[d] % 16 == 0;
    across &= 0 < o.row_strides[0] && o.row_strides[0] < o.element_stride;  // a single row has stride 0
  }
  // Not a question of how many rows there are: a row's result must not depend on the others.
  packed &= floats;
  return {packed, across && !packed, floats};
}

RowsPlan plan_rows(const RowsArgs& a) {
  RowsPlan p{};
  p.args = a;
  for (int d = 0; d < a.ndim; ++d) p.shape[d] = WideDivider(a.row_shape[d]);
  return p;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
