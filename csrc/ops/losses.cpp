// Pointwise losses with a reduction; see losses.h.
#include "losses.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/full.h>
#include <ATen/ops/result_type.h>
#include <c10/core/GradMode.h>

#include <limits>

#include "outputs.h"

namespace fastgrad::ops {
namespace {

constexpr int kTensors = 6;

// The index space of some tensors broadcast to one shape: dimensions ordered innermost first and merged where all
// tensors allow it. Undefined tensors are left out.
struct IndexSpace {
  int dims;
  int64_t shape[kMaxDims], numel;
  int64_t strides[kTensors][kMaxDims];  // in bytes
};

// As in at::TensorIterator: the first tensor that tells two dimensions apart decides which is the inner one.
bool is_inside(const IndexSpace& s, int tensors, int a, int b) {
  for (int k = 0; k < tensors; ++k) {
    const int64_t x = s.strides[k][a], y = s.strides[k][b];
    if (x != 0 && y != 0 && x != y) return x < y;
  }
  return false;
}

void swap_dimensions(IndexSpace& s, int tensors, int a, int b) {
  std::swap(s.shape[a], s.shape[b]);
  for (int k = 0; k < tensors; ++k) std::swap(s.strides[k][a], s.strides[k][b]);
}

IndexSpace index_space(const char* op, at::IntArrayRef shape, at::TensorList tensors) {
  IndexSpace s;
  s.numel = c10::multiply_integers(shape);
  const int count = tensors.size();
  bool plain = true;
  for (const Tensor& t : tensors) plain &= !t.defined() || t.dim() == 0 || (t.is_contiguous() && t.sizes() == shape);
  if (plain) {
    s.dims = 1;
    s.shape[0] = s.numel;
    for (int k = 0; k < count; ++k)
      s.strides[k][0] = tensors[k].defined() && tensors[k].dim() > 0 ? tensors[k].element_size() : 0;
    return s;
  }
  s.dims = 0;
  for (int64_t d = int64_t(shape.size()) - 1; d >= 0; --d) {
    if (shape[d] == 1) continue;
    TORCH_CHECK_NOT_IMPLEMENTED(s.dims < kMaxDims, "fastgrad::", op, ": more than ", kMaxDims, " dimensions");
    s.shape[s.dims] = shape[d];
    for (int k = 0; k < count; ++k) {
      const Tensor& t = tensors[k];
      const int64_t at = t.defined() ? d - (int64_t(shape.size()) - t.dim()) : -1;
      s.strides[k][s.dims] = at >= 0 && t.size(at) != 1 ? t.stride(at) * int64_t(t.element_size()) : 0;
    }
    ++s.dims;
  }
  for (int i = 1; i < s.dims; ++i)
    for (int j = i; j > 0 && is_inside(s, count, j, j - 1); --j) swap_dimensions(s, count, j, j - 1);
  int last = 0;
  for (int d = 1; d < s.dims; ++d) {
    bool together = true;
    for (int k = 0; k < count; ++k) together &= s.strides[k][d] == s.strides[k][last] * s.shape[last];
    if (together) {
      s.shape[last] *= s.shape[d];
      continue;
    }
    ++last;
    s.shape[last] = s.shape[d];
    for (int k = 0; k < count; ++k) s.strides[k][last] = s.strides[k][d];
  }
  if (s.dims == 0) {
    s.shape[0] = 1;
    for (int k = 0; k < count; ++k) s.strides[k][0] = 0;
  }
  s.dims = last + 1;
  return s;
}

// Broadcasts `shape` with the weights, which must not enlarge it.
void check_weights(at::IntArrayRef shape, at::TensorList weights) {
  for (const Tensor& w : weights) {
    if (!w.defined() || w.sizes() == shape) continue;
    const auto common = at::infer_size(shape, w.sizes());
    TORCH_CHECK(at::IntArrayRef(common) == shape, "output with shape ", shape, " doesn't match the broadcast shape ",
                at::IntArrayRef(common));
  }
}

at::DimVector broadcast_shape(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() ? at::DimVector(a.sizes()) : at::infer_size_dimvector(a.sizes(), b.sizes());
}

// A constant in place of an input: 1 for an absent weight, the value of a tensor of one element.
bool is_constant(const Tensor& t, const IndexSpace& space, c10::Device device, Number& value) {
  if (!t.defined()) {
    value = {1, 1};
    return true;
  }
  if (!t.is_cpu() || t.numel() != 1 || (device.is_cpu() && space.numel == 1)) return false;
  if (t.scalar_type() == at::kFloat)
    value = number(at::Scalar(*t.const_data_ptr<float>()));
  else if (t.scalar_type() == at::kDouble)
    value = number(at::Scalar(*t.const_data_ptr<double>()));
  else
    value = number(t.item());
  return true;
}

void run_map(const char* op, Kernel<MapArgs> kernel, const Tensor& out, at::TensorList inputs, Dtype compute,
             Number first, Number second) {
  if (out.numel() == 0) return;
  const c10::Device device = device_of(op, inputs);
  place_output(out);
  std::array<Tensor, kTensors> tensors;
  tensors[0] = out;
  std::copy(inputs.begin(), inputs.end(), tensors.begin() + 1);
  const at::TensorList all(tensors.data(), inputs.size() + 1);
  const IndexSpace space = index_space(op, out.sizes(), all);
  MapArgs a;
  a.ndim = space.dims;
  std::copy_n(space.shape, space.dims, a.shape);
  a.numel = space.numel;
  a.outputs = 1;
  a.operands = all.size();
  a.compute = compute;
  a.parameter[0] = first;
  a.parameter[1] = second;
  for (size_t k = 0; k < all.size(); ++k) {
    Operand& o = a.operand[k];
    if (k > 0 && is_constant(all[k], space, device, o.immediate)) {
      o.data = nullptr;
      o.dtype = compute;
      continue;
    }
    o.data = k > 0 ? const_cast<void*>(all[k].const_data_ptr()) : out.mutable_data_ptr();
    o.dtype = dtype_of(all[k].scalar_type());
    std::copy_n(space.strides[k], space.dims, o.strides);
  }
  run_kernel(op, kernel, a, device);
}

Dtype compute_of(const Tensor& input, const Tensor& target, at::ScalarType result) {
  at::ScalarType type = input.scalar_type();
  if (target.defined()) type = c10::promoteTypes(type, target.scalar_type());
  return compute_dtype(c10::isFloatingType(type) ? c10::promoteTypes(type, result) : result);
}

void run_sum(const char* op, Kernel<ReduceArgs> kernel, const Tensor& out, at::IntArrayRef shape, at::TensorList inputs,
             Dtype compute, Number divisor, Number second, EarlyGradient* early) {
  const c10::Device device = device_of(op, inputs);
  const IndexSpace space = index_space(op, shape, inputs);
  ReduceArgs a;
  a.kept_dims = 0;
  a.kept = 1;
  a.reduced_dims = space.dims;
  std::copy_n(space.shape, space.dims, a.reduced_shape);
  a.reduced = space.numel;
  a.inputs = inputs.size();
  for (size_t k = 0; k < inputs.size(); ++k) {
    auto& in = a.in[k];
    if (is_constant(inputs[k], space, device, in.immediate)) {
      in.data = nullptr;
      in.dtype = compute;
      continue;
    }
    in.data = inputs[k].const_data_ptr();
    in.dtype = dtype_of(inputs[k].scalar_type());
    std::copy_n(space.strides[k], space.dims, in.reduced_strides);
  }
  a.outputs = 1;
  a.out[0].data = out.mutable_data_ptr();
  a.out[0].dtype = dtype_of(out.scalar_type());
  a.compute = compute;
  a.parameter[0] = divisor;
  a.parameter[1] = second;
  const Tensor& input = inputs[0];
  if (early && space.dims == 1 && input.sizes() == shape &&
      compute == compute_of(input, inputs[1], input.scalar_type())) {
    early->gradient = new_tensor(shape, input.options());
    place_output(early->gradient);
    a.gradient.data = early->gradient.mutable_data_ptr();
    a.gradient.dtype = dtype_of(input.scalar_type());
    a.gradient.incoming = early->incoming;
    a.gradient.parameter[0] = {1 / divisor.real, 0};
    a.gradient.parameter[1] = second;
  }
  run_kernel(op, kernel, a, device);
}

Tensor result_of_binary_op(const Tensor& a, const Tensor& b, at::ScalarType dtype, c10::Device device) {
  Tensor out;
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).check_all_same_device(false).declare_static_dtype_and_device(dtype, device);
  config.add_output(out).add_const_input(a).add_const_input(b);
  return config.build().output();
}

}  // namespace

Tensor loss_forward(EarlyGradient* early, const Loss& loss, at::TensorList inputs, int64_t reduction,
                    at::ScalarType result, const Tensor& like, double beta) {
  const Tensor &input = inputs[0], &target = inputs[1];
  TORCH_CHECK_NOT_IMPLEMENTED(c10::isFloatingType(result), "fastgrad::", loss.name, " is not implemented for dtype ",
                              result);
  TORCH_CHECK(reduction >= 0 && reduction < at::Reduction::END, "fastgrad::", loss.name, ": unknown reduction ",
              reduction);
  const auto shape = broadcast_shape(input, target);
  check_weights(shape, inputs.slice(2));
  const Dtype compute = compute_of(input, target, result);
  const c10::Device device = device_of(loss.name, inputs);
  const Number second{beta, 0};
  if (reduction == at::Reduction::None) {
    const bool plain = input.sizes() == target.sizes() && input.is_contiguous() && target.is_contiguous();
    Tensor out = like.defined() ? at::empty_like(like, like.options().dtype(result))
                 : plain        ? new_tensor(shape, input.options().dtype(result).device(device))
                                : result_of_binary_op(input, target, result, device);
    run_map(loss.name, loss.map, out, inputs, compute, {1, 1}, second);
    return out;
  }
  const auto options = input.options().dtype(result).device(device);
  const int64_t numel = c10::multiply_integers(shape);
  const bool mean = reduction == at::Reduction::Mean;
  if (numel == 0) return at::full({}, mean ? std::numeric_limits<double>::quiet_NaN() : 0.0, options);
  Tensor out = new_tensor({}, options);
  run_sum(loss.name, loss.sum, out, shape, inputs, compute, number(mean ? numel : int64_t(1)), second, early);
  return out;
}

double loss_scale(const Tensor& input, const Tensor& target, int64_t reduction) {
  if (reduction != at::Reduction::Mean) return 1;
  return 1.0 / double(c10::multiply_integers(broadcast_shape(input, target)));
}

Tensor loss_backward(const char* op, Kernel<MapArgs> kernel, const Tensor& grad, at::TensorList inputs,
                     const Tensor& other, int64_t reduction, const Tensor& like, double beta) {
  const auto shape = broadcast_shape(inputs[0], other);
  check_weights(shape, grad);
  std::array<Tensor, kTensors - 1> all;
  all[0] = grad;
  std::copy(inputs.begin(), inputs.end(), all.begin() + 1);
  const Tensor out = like.sizes() == shape ? new_like(like) : new_tensor(shape, like.options());
  const double scale = loss_scale(inputs[0], other, reduction);
  run_map(op, kernel, out, at::TensorList(all.data(), inputs.size() + 1),
          compute_of(inputs[0], other, like.scalar_type()), {scale, 0}, {beta, 0});
  return out;
}

bool counts_any(const char* op, Kernel<ReduceArgs> kernel, const Tensor& input) {
  const Tensor count = new_tensor({}, input.options().dtype(at::kDouble));
  run_sum(op, kernel, count, input.sizes(), input, compute_dtype(input.scalar_type()), {1, 1}, {0, 0}, nullptr);
  return (count.is_cpu() ? *count.const_data_ptr<double>() : count.item<double>()) != 0;
}

void refuse_weight_gradient(const char* op, const char* argument, const OptionalTensor& weight) {
  TORCH_CHECK(!weight || !weight->requires_grad() || !c10::GradMode::is_enabled(), "The function '", op,
              "' is not differentiable with respect to argument '", argument,
              "'. This input cannot have requires_grad True.");
}

}  // namespace fastgrad::ops
