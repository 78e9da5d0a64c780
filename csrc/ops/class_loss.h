// The arguments of the losses over classes, checked once for all of them.
#pragma once
#include <ATen/core/Reduction.h>

#include "rows.h"

namespace fastgrad::ops {

struct ClassLoss {
  const char* name;
  Tensor input, target, weight;  // weight may be undefined; an unbatched target is 0-d
  int64_t reduction, ignore_index;
  double label_smoothing;
  bool probabilities;
  int64_t dim;                     // of the classes
  std::vector<int64_t> row_sizes;  // the input's without the classes
  at::ScalarType dtype;            // of the loss

  // Raises torch's exceptions for what torch refuses.
  ClassLoss(const char* name, const Tensor& input, const Tensor& target, const OptionalTensor& weight,
            int64_t reduction, int64_t ignore_index, double label_smoothing, std::optional<at::ScalarType> dtype,
            bool allow_probabilities);

  // The kernel's arguments; undefined tensors are absent operands.
  RowsArgs args(const Tensor& input, const Tensor& loss_or_grad, const Tensor& stats, const Tensor& total_weight,
                const Tensor& grad_input = {}) const;
  at::TensorOptions compute_options() const;
  // An uninitialized loss, or a gradient of the input.
  Tensor empty_loss() const;
  Tensor empty_gradient() const;
  // Runs a forward kernel; IndexError for a class that is out of bounds, if checks_values.
  void run(Kernel<RowsArgs> kernel, RowsArgs& a) const;
};

}  // namespace fastgrad::ops
