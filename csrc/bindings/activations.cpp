#include "elementwise.h"

namespace fastgrad::bindings {

void bind_activations(py::module_& m) {
  bind_unary(m, "relu", /*in_place=*/true);
  bind_unary(m, "sigmoid", /*in_place=*/true);
  bind_unary(m, "tanh");
}

}  // namespace fastgrad::bindings
