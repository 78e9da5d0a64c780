// Bindings of elementwise ops; see elementwise.h.
#include "elementwise.h"

namespace fastgrad::bindings {
namespace {

// The tensor that an out= argument names, or nothing.
OptionalTensor out_argument(const py::object& out, const char* name) {
  return optional_tensor_argument(out, name, "out", 0);
}

}  // namespace

void bind_unary(py::module_& m, const char* name, bool in_place) {
  m.def(
      name,
      [name, op = handle<Tensor(const Tensor&)>(name),
       out_op = handle<void(const Tensor&, const Tensor&)>(name, "out")](py::handle input, const py::object& out) {
        const Tensor x = tensor_argument(input, name, "input", 1);
        OptionalTensor result = out_argument(out, name);
        if (!result) {
          const WithoutGil no_gil;
          return op.call(x);
        }
        without_gil_warning([&] { out_op.call(x, *result); });
        return *result;
      },
      py::arg("input"), py::kw_only(), py::arg("out") = py::none());
  if (!in_place) return;
  const std::string name_ = std::string(name) + "_";
  m.def(
      name_.c_str(),
      [name, op = handle<void(const Tensor&)>(name_.c_str())](py::handle input) {
        const Tensor x = tensor_argument(input, name, "input", 1);
        const WithoutGil no_gil;
        op.call(x);
        return x;
      },
      py::arg("input"));
}

void bind_binary(py::module_& m, const char* name, bool in_place) {
  m.def(
      name,
      [name, op = handle<Tensor(const Tensor&, const Tensor&)>(name),
       out_op = handle<void(const Tensor&, const Tensor&, const Tensor&)>(name, "out")](
          py::handle input, py::handle other, const py::object& out) {
        const auto [a, b] = operand_arguments(input, other, name);
        OptionalTensor result = out_argument(out, name);
        if (!result) {
          const WithoutGil no_gil;
          return op.call(a, b);
        }
        without_gil_warning([&] { out_op.call(a, b, *result); });
        return *result;
      },
      py::arg("input"), py::arg("other"), py::kw_only(), py::arg("out") = py::none());
  if (!in_place) return;
  const std::string name_ = std::string(name) + "_";
  m.def(
      name_.c_str(),
      [name, op = handle<void(const Tensor&, const Tensor&)>(name_.c_str())](py::handle input, py::handle other) {
        const auto [a, b] = operand_arguments(input, other, name, /*in_place=*/true);
        const WithoutGil no_gil;
        op.call(a, b);
        return a;
      },
      py::arg("input"), py::arg("other"));
}

void bind_binary_alpha(py::module_& m, const char* name, bool in_place) {
  using at::Scalar;
  m.def(
      name,
      [name, op = handle<Tensor(const Tensor&, const Tensor&, const Scalar&)>(name),
       out_op = handle<void(const Tensor&, const Tensor&, const Scalar&, const Tensor&)>(name, "out")](
          py::handle input, py::handle other, py::handle alpha, const py::object& out) {
        const auto [a, b] = operand_arguments(input, other, name);
        const Scalar s = scalar_argument(alpha, name, "alpha");
        OptionalTensor result = out_argument(out, name);
        if (!result) {
          const WithoutGil no_gil;
          return op.call(a, b, s);
        }
        without_gil_warning([&] { out_op.call(a, b, s, *result); });
        return *result;
      },
      py::arg("input"), py::arg("other"), py::kw_only(), py::arg("alpha") = 1, py::arg("out") = py::none());
  if (!in_place) return;
  const std::string name_ = std::string(name) + "_";
  m.def(
      name_.c_str(),
      [name, op = handle<void(const Tensor&, const Tensor&, const Scalar&)>(name_.c_str())](
          py::handle input, py::handle other, py::handle alpha) {
        const auto [a, b] = operand_arguments(input, other, name, /*in_place=*/true);
        const Scalar s = scalar_argument(alpha, name, "alpha");
        const WithoutGil no_gil;
        op.call(a, b, s);
        return a;
      },
      py::arg("input"), py::arg("other"), py::kw_only(), py::arg("alpha") = 1);
}

}  // namespace fastgrad::bindings
