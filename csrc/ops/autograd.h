// Recording an op for autograd.
//
// One torch::autograd::Function subclass serves every op: it keeps the saved tensors, a few plain values and a pointer
// to the op's backward function, which must compute with differentiable ops (so that double backward works).
#pragma once
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/FunctionRef.h>
#include <c10/util/SmallVector.h>

namespace fastgrad::ops {

using Gradients = std::vector<at::Tensor>;  // one an input; undefined where there is none

// The gradient of an input that a step left for backward, for an incoming gradient that is foreseen; see
// early_gradient.h.
struct EarlyGradient {
  double incoming = 0;
  at::Tensor gradient{};
};

// What a backward function sees.
struct Saved {
  Gradients tensors;                // as saved by the forward step
  std::vector<c10::IValue> values;  // likewise
  std::vector<bool> needed;         // which of the inputs want a gradient
  // Of inputs[0]; only where backward builds no graph and is the first. It is taken out.
  mutable EarlyGradient early;
};
// `grads` has one tensor an output, undefined where no gradient came.
using BackwardFunction = Gradients (*)(const Saved&, const Gradients& grads);

// A shape among the values. An empty list, of which compiled autograd cannot tell the type, is the number 0.
c10::IValue as_value(c10::SymIntArrayRef sizes);
c10::SymDimVector sizes_of(const c10::IValue& value);

// What a forward step gives: its outputs, and what backward needs (inputs and outputs only).
struct Step {
  c10::SmallVector<at::Tensor, 2> outputs;
  Gradients saved;
  std::vector<c10::IValue> values;
  bool in_place = false;                   // outputs[0] is inputs[0], modified
  std::vector<bool> non_differentiable{};  // per output; empty if all are differentiable
  EarlyGradient early{};                   // of inputs[0]
};

// Whether an input requires grad in grad mode. Raises NotImplementedError for forward-mode AD, which no op supports.
bool needs_recording(const char* op, at::TensorList inputs);

// Runs `forward` below autograd and records it. Undefined inputs (absent optional tensors) are allowed.
Gradients record(at::TensorList inputs, BackwardFunction backward, c10::function_ref<Step()> forward);
// The same for an op of one output: cheaper.
at::Tensor record_one(at::TensorList inputs, BackwardFunction backward, c10::function_ref<Step()> forward);

using BelowAutograd = at::AutoDispatchBelowADInplaceOrView;

// A kernel that writes to `t` calls this above the dispatcher's autograd layer: it raises where torch forbids writing
// in place (a leaf that requires grad), before anything is written.
void check_in_place(const char* op, const at::Tensor& t);
void bump_version(const at::Tensor& t);
// Below that layer, of which inference tensors have none.
void check_writable(const at::Tensor& t);
// out= arguments do not support automatic differentiation.
void check_out(const char* op, at::TensorList inputs, const at::Tensor& out);

}  // namespace fastgrad::ops
