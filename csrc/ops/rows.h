// From tensors to the argument struct of a row kernel.
#pragma once
#include "common.h"

namespace fastgrad::ops {

// A tensor over the row index space: `row_dims` of its dimensions, in order, run over the rows, and dimension `along`,
// if it has one, over the elements of a row.
struct RowOperand {
  const Tensor& tensor;  // may be undefined
  int64_t along = -1;    // -1: one element a row; a tensor without row dimensions is shared by all rows
};

// `shape` is that of all operands, of which dimension `dim` is the row; a 0-d shape is a row of one element.
RowsArgs rows_args(const char* op, at::IntArrayRef shape, int64_t dim, std::initializer_list<RowOperand> operands);

}  // namespace fastgrad::ops
