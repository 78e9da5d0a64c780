// mm, bmm, matmul: name(input, other, *, out=None); linear(input, weight, bias=None, *, activation=None).
#include "bindings.h"

namespace fastgrad::bindings {
namespace {

void bind_product(py::module_& m, const char* name, const char* second) {
  m.def(
      name,
      [name, second, op = handle<Tensor(const Tensor&, const Tensor&)>(name),
       out_op = handle<void(const Tensor&, const Tensor&, const Tensor&)>(name, "out")](
          py::handle input, py::handle other, py::handle out) {
        const Tensor a = tensor_argument(input, name, "input", 1);
        const Tensor b = tensor_argument(other, name, second, 2);
        const OptionalTensor result = optional_tensor_argument(out, name, "out", 0);
        if (result) {
          without_gil_warning([&] { out_op.call(a, b, *result); });
          return *result;
        }
        const WithoutGil no_gil;
        return op.call(a, b);
      },
      py::arg("input"), py::arg(second), py::kw_only(), py::arg("out") = py::none());
}

std::optional<std::string_view> activation_argument(py::handle object) {
  if (object.is_none()) return std::nullopt;
  Py_ssize_t size = 0;
  if (PyUnicode_Check(object.ptr()))
    if (const char* text = PyUnicode_AsUTF8AndSize(object.ptr(), &size)) return std::string_view(text, size);
  PyErr_Clear();
  throw py::type_error(std::string("linear(): argument 'activation' must be str, not ") +
                       Py_TYPE(object.ptr())->tp_name);
}

}  // namespace

void bind_matmul(py::module_& m) {
  bind_product(m, "mm", "mat2");
  bind_product(m, "bmm", "mat2");
  bind_product(m, "matmul", "other");

  using Linear = Tensor(const Tensor&, const Tensor&, const OptionalTensor&, std::optional<std::string_view>);
  m.def(
      "linear",
      [op = handle<Linear>("linear")](py::handle input, py::handle weight, py::handle bias, py::handle activation) {
        const Tensor x = tensor_argument(input, "linear", "input", 1);
        const Tensor w = tensor_argument(weight, "linear", "weight", 2);
        const OptionalTensor b = optional_tensor_argument(bias, "linear", "bias", 3);
        const auto function = activation_argument(activation);
        const WithoutGil no_gil;
        return op.call(x, w, b, function);
      },
      py::arg("input"), py::arg("weight"), py::arg("bias") = py::none(), py::kw_only(),
      py::arg("activation") = py::none());
}

}  // namespace fastgrad::bindings
