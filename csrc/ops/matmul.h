// Between the matrix products (matmul.cpp) and their derivatives (matmul_backward.cpp).
#pragma once
#include "common.h"

namespace fastgrad::ops {

using ProductSignature = Tensor(const Tensor&, const Tensor&);
using ProductOutSignature = void(const Tensor&, const Tensor&, const Tensor&);
using LinearSignature = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, std::optional<std::string_view>);

// None, "relu", "sigmoid", "tanh"; NotImplementedError for another name.
Activation activation_named(std::optional<std::string_view> name);

// What is registered above autograd.
ProductSignature mm_autograd, bmm_autograd, matmul_autograd;
LinearSignature linear_autograd;

// Registers an op and its out= overload; `schema` is the op's, without the end of its arguments.
void define_product(torch::Library& m, const std::string& schema, ProductSignature* kernel, ProductOutSignature* out,
                    ProductSignature* autograd);

}  // namespace fastgrad::ops
