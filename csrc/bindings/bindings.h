// Python bindings: from Python arguments to the typed dispatcher handle of an op. One file a family.
//
// The functions defined here carry no docstring and no checks of their own; fastgrad/functional attaches the docstring,
// and csrc/ops checks. Also the precompiled header of this folder.
#pragma once
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/csrc/utils/python_numbers.h>
#include <torch/csrc/utils/tensor_numpy.h>

#include "../ops/common.h"

namespace fastgrad::bindings {

namespace py = pybind11;
using at::Tensor;
using ops::handle;
using OptionalTensor = std::optional<Tensor>;

// The tensor passed as argument `name`; TypeError in torch's words for anything else. One that has __torch_function__,
// or anything in a mode that has, goes to the overload of bind_overrides().
Tensor tensor_argument(py::handle object, const char* function, const char* name, int position);
// The same for an argument that may be None.
OptionalTensor optional_tensor_argument(py::handle object, const char* function, const char* name, int position);
// The arguments `input` and `other`, one of which, in place the latter, may be a Python number: that becomes a 0-d
// tensor that promotes as the number does.
std::pair<Tensor, Tensor> operand_arguments(py::handle input, py::handle other, const char* function,
                                            bool in_place = false);
// The function that a binding is a form of, to name in an error: max of max_dim, var of var_mean, else itself.
std::string public_name(const std::string& binding);
// A Python or numpy int, float or bool, or a 0-d tensor.
at::Scalar scalar_argument(py::handle object, const char* function, const char* name);

// Other Python threads run while an op does; cheaper than pybind11's own, which also switches thread states.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { PyEval_RestoreThread(state_); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Runs f without the GIL, and makes Python warnings of torch's: an out= that is resized.
template <class F>
void without_gil_warning(const F& f) {
  torch::PyWarningHandler warnings;
  try {
    const WithoutGil no_gil;
    f();
  } catch (...) {
    warnings.set_in_exception();
    throw;
  }
}

void bind_activations(py::module_& m);
void bind_arithmetic(py::module_& m);
void bind_matmul(py::module_& m);
void bind_softmax(py::module_& m);
void bind_bce(py::module_& m);
void bind_regression_losses(py::module_& m);
void bind_reductions(py::module_& m);
void bind_cross_entropy(py::module_& m);
// Gives each function bound so far an overload that is taken where no other is: it lets __torch_function__ of the
// arguments, or of a mode, have the call, as torch's functions do, and otherwise raises TypeError.
void bind_overrides(py::module_& m);

}  // namespace fastgrad::bindings
