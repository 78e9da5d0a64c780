// Elementwise ops: shapes, promotion and registration, shared by the families arithmetic and activations.
#pragma once
#include "common.h"

namespace fastgrad::ops {

// The dtype in which an op computes, and the dtype of its result, from the promoted dtype of its inputs.
enum class Result {
  same,      // add, neg
  floating,  // integers become the default dtype: sqrt, true division
  boolean,   // computes in the promoted dtype, gives bool: comparisons
};

struct ElementwiseSpec {
  const char* name;
  Kernel<MapArgs> kernel;
  Result result;
  void (*check)(const Tensor& self, const Tensor& other, at::ScalarType common) = nullptr;  // `other` may be undefined
};

// out = kernel(inputs...). An undefined `out` is allocated with the strides torch would give; a defined one is resized
// (out=), or must have the broadcast shape (in place, where it is also the first input).
Tensor elementwise(const ElementwiseSpec& spec, at::TensorList inputs, Tensor out = {}, bool in_place = false,
                   Number parameter = {1, 1});

// Register `name`, `name.out` and, if asked, `name_`. A backward function gets the saved tensors that its masks name,
// in this order, undefined where no gradient wants them, and for a binary op as values the shapes of self and other,
// where broadcasting changed them, and alpha; no values if nothing was broadcast and alpha is 1.
enum Save { kNothing = 0, kSelf = 1, kOther = 2, kOutput = 4 };
struct Differentiation {
  BackwardFunction backward;                    // null: the result is not differentiable
  int by_self = kNothing, by_other = kNothing;  // what the gradient by self, and that by other, takes
};
void define_unary(torch::Library& m, const ElementwiseSpec& spec, Differentiation d, bool in_place = false);
void define_binary(torch::Library& m, const ElementwiseSpec& spec, Differentiation d, bool in_place = false);
void define_binary_alpha(torch::Library& m, const ElementwiseSpec& spec, Differentiation d, bool in_place = false);

// Sums what broadcasting expanded: the gradient of a tensor of shape `sizes` from that of the result.
Tensor sum_to(const Tensor& grad, c10::SymIntArrayRef sizes);
// sum_to(mul(grad, factor), sizes), in one pass where one kernel can.
Tensor sum_product_to(const Tensor& grad, const Tensor& factor, c10::SymIntArrayRef sizes);
// sum_to() for both gradients of a binary op registered here.
Gradients to_inputs(const Saved& s, const Tensor& input, const Tensor& other);

}  // namespace fastgrad::ops
