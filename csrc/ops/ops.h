// The ops that other ops' backward functions are composed of: typed calls through the dispatcher.
#pragma once
#include "common.h"

namespace fastgrad::ops {

// A number as a 0-d tensor that promotes as it does, in an op with `like`.
Tensor constant(const at::Scalar& s, const Tensor& like);

Tensor add(const Tensor& self, const Tensor& other, const at::Scalar& alpha = 1);
Tensor sub(const Tensor& self, const Tensor& other, const at::Scalar& alpha = 1);
Tensor mul(const Tensor& self, const Tensor& other);
Tensor mul(const Tensor& self, const at::Scalar& other);
Tensor div(const Tensor& self, const Tensor& other);
Tensor pow(const Tensor& self, const Tensor& other);
Tensor pow(const Tensor& self, const at::Scalar& other);
Tensor neg(const Tensor& self);
Tensor log(const Tensor& self);
Tensor exp(const Tensor& self);
Tensor sum_along(const Tensor& x, int64_t dim);  // keeps the dimension
Tensor softmax(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype = {});
Tensor log_softmax(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype = {});

Tensor mm(const Tensor& input, const Tensor& mat2);
Tensor bmm(const Tensor& input, const Tensor& mat2);
Tensor matmul(const Tensor& input, const Tensor& other);

// y is the activation's output.
Tensor relu_backward(const Tensor& grad, const Tensor& y);
Tensor sigmoid_backward(const Tensor& grad, const Tensor& y);
Tensor tanh_backward(const Tensor& grad, const Tensor& y);

Tensor sum(const Tensor& input, at::OptionalIntArrayRef dim = std::nullopt, bool keepdim = false);
Tensor sum_product(const Tensor& self, const Tensor& other, at::IntArrayRef dim);  // of one shape and dtype; keeps dims

// 1 - x^2 and the like: a + b x
Tensor affine(const at::Scalar& a, const at::Scalar& b, const Tensor& x);

}  // namespace fastgrad::ops
