// Argument checks of the losses over classes; see class_loss.h.
#include "class_loss.h"

#include <ATen/ops/result_type.h>

#include "outputs.h"

namespace fastgrad::ops {
namespace {

void check_class_indices(const char* name, const Tensor& input, const Tensor& target) {
  TORCH_CHECK_VALUE(input.dim() > 0, "Expected 1 or more dimensions (got 0)");
  TORCH_CHECK(target.scalar_type() == at::kLong || target.scalar_type() == at::kByte,
              "expected target dtype to be Long or Byte, but got ", target.scalar_type());
  if (input.dim() == 1) {
    TORCH_CHECK(target.dim() <= 1, "0D or 1D target tensor expected, multi-target not supported");
    TORCH_CHECK_VALUE(target.numel() == 1,
                      "For 1D input, 1D target must have size 1, but got target size: ", target.numel());
    return;
  }
  TORCH_CHECK_VALUE(target.dim() > 0 && input.size(0) == target.size(0), "Expected input batch_size (", input.size(0),
                    ") to match target batch_size (", target.dim() > 0 ? target.size(0) : 1, ").");
  TORCH_CHECK(input.dim() > 2 || target.dim() == 1, "0D or 1D target tensor expected, multi-target not supported");
  std::vector<int64_t> expected = input.sizes().vec();
  expected.erase(expected.begin() + 1);
  TORCH_CHECK(target.sizes() == expected, name, ": Expected target size ", at::IntArrayRef(expected), ", got ",
              target.sizes());
}

}  // namespace

ClassLoss::ClassLoss(const char* name, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                     int64_t reduction, int64_t ignore_index, double label_smoothing,
                     std::optional<at::ScalarType> dtype, bool allow_probabilities)
    : name(name),
      input(input),
      target(target),
      weight(weight.value_or(Tensor())),
      reduction(reduction),
      ignore_index(ignore_index),
      label_smoothing(label_smoothing) {
  TORCH_CHECK(label_smoothing >= 0 && label_smoothing <= 1,
              "label_smoothing must be between 0.0 and 1.0. Got: ", label_smoothing);
  probabilities = allow_probabilities && input.sizes() == target.sizes();
  if (probabilities) {
    TORCH_CHECK(at::isFloatingType(target.scalar_type()),
                "Expected floating point type for target with class probabilities, got ", target.scalar_type());
    TORCH_CHECK(ignore_index < 0, "ignore_index is not supported for floating point target");
  } else {
    check_class_indices(name, input, target);
    if (input.dim() == 1) this->target = target.view(at::IntArrayRef());
  }
  TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(input.scalar_type()), "\"", name, "\" not implemented for '",
                              input.scalar_type(), "'");
  dim = input.dim() == 1 ? 0 : 1;
  TORCH_CHECK(input.dim() != 0, name, ": input has no class dimension");
  this->dtype = dtype.value_or(input.scalar_type());
  TORCH_CHECK(target.device() == input.device(), "fastgrad::", name,
              ": expected all tensors to be on the same device, but input is on ", input.device(), " and target is on ",
              target.device());
  if (this->weight.defined()) {
    const Tensor& w = this->weight;
    TORCH_CHECK(w.dim() == 1 && w.numel() == input.size(dim), "weight tensor should be defined either for all ",
                input.size(dim), " classes or no classes but got weight tensor of shape: ", w.sizes());
    TORCH_CHECK(w.device() == input.device(), "fastgrad::", name,
                ": expected all tensors to be on the same device, but input is on ", input.device(),
                " and weight is on ", w.device());
    TORCH_CHECK(probabilities || w.scalar_type() == input.scalar_type() || w.scalar_type() == this->dtype,
                "expected scalar type ", input.scalar_type(), " but found ", w.scalar_type(), " for argument 'weight'");
  }
  if (probabilities && !dtype) {
    this->dtype = at::result_type(input, target);
    if (this->weight.defined()) this->dtype = c10::promoteTypes(this->dtype, this->weight.scalar_type());
  }
  row_sizes = input.sizes().vec();
  row_sizes.erase(row_sizes.begin() + dim);
}

RowsArgs ClassLoss::args(const Tensor& x, const Tensor& loss_or_grad, const Tensor& stats, const Tensor& total_weight,
                         const Tensor& grad_input) const {
  RowsArgs a = rows_args(name, input.sizes(), dim,
                         {{x, x.defined() ? dim : -1},
                          {target, probabilities ? dim : -1},
                          {weight, weight.defined() ? 0 : -1},
                          {loss_or_grad},
                          {stats, stats.defined() ? 0 : -1},
                          {total_weight},
                          {grad_input, grad_input.defined() ? dim : -1}});
  a.compute = compute_dtype(dtype);
  a.parameter[0] = number(ignore_index);
  a.parameter[1] = number(label_smoothing);
  a.flags = (reduction == at::Reduction::Mean  ? kReduceMean
             : reduction == at::Reduction::Sum ? kReduceSum
                                               : 0) |
            (probabilities ? kProbabilities : 0);
  return a;
}

at::TensorOptions ClassLoss::compute_options() const {
  return input.options().dtype(compute_dtype(dtype) == Dtype::f64 ? at::kDouble : at::kFloat);
}
Tensor ClassLoss::empty_loss() const {
  const bool reduced = reduction != at::Reduction::None;
  return new_tensor(reduced ? at::IntArrayRef() : at::IntArrayRef(row_sizes), input.options().dtype(dtype));
}
Tensor ClassLoss::empty_gradient() const {
  const Tensor grad_input = new_tensor(input.sizes(), input.options());
  place_output(grad_input);
  return grad_input;
}

void ClassLoss::run(Kernel<RowsArgs> kernel, RowsArgs& a) const {
  int64_t bad_row = -1;
  Tensor on_device;
  if (checks_values(input.device())) {
    if (!input.is_cpu()) on_device = at::empty({}, input.options().dtype(at::kLong));
    a.bad_row = on_device.defined() ? on_device.mutable_data_ptr<int64_t>() : &bad_row;
  }
  run_kernel(name, kernel, a, input.device());
  if (on_device.defined()) bad_row = on_device.item<int64_t>();
  if (bad_row < 0) return;
  std::vector<int64_t> position(row_sizes.size());
  Tensor bad = target;
  for (size_t d = row_sizes.size(), linear = bad_row; d-- > 0; linear /= row_sizes[d])
    position[d] = linear % row_sizes[d];
  for (const int64_t i : position) bad = bad[i];
  TORCH_CHECK_INDEX(false, "Target ", bad.item<int64_t>(), " is out of bounds. It is at position ",
                    at::IntArrayRef(position), " of target, and input has ", input.size(dim), " classes.");
}

}  // namespace fastgrad::ops
