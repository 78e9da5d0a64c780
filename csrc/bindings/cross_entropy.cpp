#include "bindings.h"

namespace fastgrad::bindings {
namespace {

using Dtype = std::optional<at::ScalarType>;

}  // namespace

// Of an op's outputs, the loss; the others are for its backward.
void bind_cross_entropy(py::module_& m) {
  m.def(
      "cross_entropy",
      [op = handle<std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&, int64_t,
                                                      int64_t, double, Dtype)>("cross_entropy")](
          py::handle input, py::handle target, py::handle weight, int64_t reduction, int64_t ignore_index,
          py::handle label_smoothing) {
        const Tensor x = tensor_argument(input, "cross_entropy", "input", 1);
        const Tensor t = tensor_argument(target, "cross_entropy", "target", 2);
        const OptionalTensor w = optional_tensor_argument(weight, "cross_entropy", "weight", 3);
        const double smoothing = scalar_argument(label_smoothing, "cross_entropy", "label_smoothing").toDouble();
        const WithoutGil no_gil;
        return std::get<0>(op.call(x, t, w, reduction, ignore_index, smoothing, std::nullopt));
      },
      py::arg("input"), py::arg("target"), py::arg("weight"), py::arg("reduction"), py::arg("ignore_index"),
      py::arg("label_smoothing"));
  m.def(
      "nll_loss",
      [op = handle<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const OptionalTensor&, int64_t, int64_t,
                                              Dtype)>("nll_loss")](
          py::handle input, py::handle target, py::handle weight, int64_t reduction, int64_t ignore_index) {
        const Tensor x = tensor_argument(input, "nll_loss", "input", 1);
        const Tensor t = tensor_argument(target, "nll_loss", "target", 2);
        const OptionalTensor w = optional_tensor_argument(weight, "nll_loss", "weight", 3);
        const WithoutGil no_gil;
        return std::get<0>(op.call(x, t, w, reduction, ignore_index, std::nullopt));
      },
      py::arg("input"), py::arg("target"), py::arg("weight"), py::arg("reduction"), py::arg("ignore_index"));
}

}  // namespace fastgrad::bindings
