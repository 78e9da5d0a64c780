// Bindings of the losses, each with the arguments of its op; fastgrad/functional has torch's signatures.
#include "bindings.h"

namespace fastgrad::bindings {
namespace {

void bind_weighted(py::module_& m, const char* name) {
  using Op = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t);
  m.def(name, [name, op = handle<Op>(name)](py::handle input, py::handle target, py::handle weight, int64_t reduction) {
    const Tensor x = tensor_argument(input, name, "input", 1), t = tensor_argument(target, name, "target", 2);
    const OptionalTensor w = optional_tensor_argument(weight, name, "weight", 3);
    const WithoutGil no_gil;
    return op.call(x, t, w, reduction);
  });
}

}  // namespace

void bind_regression_losses(py::module_& m) {
  bind_weighted(m, "mse_loss");
  bind_weighted(m, "l1_loss");
  using SmoothL1 = Tensor(const Tensor&, const Tensor&, int64_t, double);
  m.def("smooth_l1_loss", [op = handle<SmoothL1>("smooth_l1_loss")](py::handle input, py::handle target,
                                                                    int64_t reduction, py::handle beta) {
    const Tensor x = tensor_argument(input, "smooth_l1_loss", "input", 1);
    const Tensor t = tensor_argument(target, "smooth_l1_loss", "target", 2);
    const double b = scalar_argument(beta, "smooth_l1_loss", "beta").toDouble();
    const WithoutGil no_gil;
    return op.call(x, t, reduction, b);
  });
}

void bind_bce(py::module_& m) {
  bind_weighted(m, "binary_cross_entropy");
  constexpr const char* name = "binary_cross_entropy_with_logits";
  using Op = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&, int64_t);
  m.def(name, [op = handle<Op>(name)](py::handle input, py::handle target, py::handle weight, py::handle pos_weight,
                                      int64_t reduction) {
    const Tensor x = tensor_argument(input, name, "input", 1), t = tensor_argument(target, name, "target", 2);
    const OptionalTensor w = optional_tensor_argument(weight, name, "weight", 3);
    const OptionalTensor p = optional_tensor_argument(pos_weight, name, "pos_weight", 4);
    const WithoutGil no_gil;
    return op.call(x, t, w, p, reduction);
  });
}

}  // namespace fastgrad::bindings
