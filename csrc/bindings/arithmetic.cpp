#include "elementwise.h"

namespace fastgrad::bindings {

void bind_arithmetic(py::module_& m) {
  for (const char* name : {"add", "sub"}) bind_binary_alpha(m, name, /*in_place=*/true);
  for (const char* name : {"mul", "div", "div_floor", "div_trunc"}) bind_binary(m, name, /*in_place=*/true);
  for (const char* name : {"eq", "ne", "lt", "le", "gt", "ge", "pow"}) bind_binary(m, name);
  for (const char* name : {"neg", "abs", "sqrt", "exp", "log"}) bind_unary(m, name);
}

}  // namespace fastgrad::bindings
