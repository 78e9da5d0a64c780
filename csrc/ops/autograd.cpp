// The one autograd function; see autograd.h.
#include "autograd.h"

#include <ATen/FuncTorchTLS.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <optional>

namespace fastgrad::ops {
namespace {

using torch::autograd::AutogradContext;

// All that the node keeps besides tensors is one entry of its table, since each entry costs as much as a small kernel:
// a number, or a list of that and the step's values. In the number are the backward function, which inputs are present
// and whether tensors are saved: the address takes the lower 48 bits, which is what user space has.
constexpr int kAddressBits = 48;
constexpr uint64_t kNothingSaved = 1 << 15;  // a bit of `present`: then backward may come again, as in torch
int64_t pack(BackwardFunction backward, uint64_t present) {
  TORCH_INTERNAL_ASSERT(present < uint64_t(1) << (64 - kAddressBits));
  return static_cast<int64_t>(present << kAddressBits | reinterpret_cast<uint64_t>(backward));
}
std::pair<BackwardFunction, uint64_t> unpack(int64_t plan) {
  const auto bits = static_cast<uint64_t>(plan);
  return {reinterpret_cast<BackwardFunction>(bits & ((uint64_t(1) << kAddressBits) - 1)), bits >> kAddressBits};
}

// Whether backward builds no graph and carries no tangents: then its ops need no autograd layer.
bool is_final(const Gradients& grads) {
  if (c10::GradMode::is_enabled()) return false;
  return std::none_of(grads.begin(), grads.end(),
                      [](const at::Tensor& g) { return g.defined() && g._fw_grad(/*level=*/0).defined(); });
}

// `Outputs` is a list of tensors, or one. `Named` is the class, whose name torch prints as that of the grad_fn.
template <class Named, class Outputs>
struct Recorded : torch::autograd::Function<Named> {
  static Outputs forward(AutogradContext* ctx, at::TensorList inputs, int64_t present, BackwardFunction backward,
                         c10::function_ref<Step()> run) {
    Step step = [&] {
      const BelowAutograd below;
      return run();
    }();
    ctx->set_materialize_grads(false);
    const bool saves = !step.saved.empty();
    ctx->save_for_backward(std::move(step.saved));
    if (step.in_place) ctx->mark_dirty({inputs[0]});
    if (!step.non_differentiable.empty()) {
      Gradients list;
      for (size_t i = 0; i < step.outputs.size(); ++i)
        if (step.non_differentiable[i]) list.push_back(step.outputs[i]);
      ctx->mark_non_differentiable(list);
    }
    c10::IValue plan = pack(backward, present | (saves ? 0 : kNothingSaved));
    if (!step.values.empty()) {
      c10::impl::GenericList list(c10::AnyType::get());
      list.reserve(step.values.size() + 1);
      list.push_back(std::move(plan));
      for (c10::IValue& v : step.values) list.push_back(std::move(v));
      plan = std::move(list);
    }
    ctx->saved_data["plan"] = std::move(plan);
    if (step.early.gradient.defined()) {
      ctx->saved_data["early"] = std::move(step.early.gradient);
      ctx->saved_data["early for"] = step.early.incoming;
    }
    if constexpr (std::is_same_v<Outputs, at::Tensor>)
      return std::move(step.outputs[0]);
    else
      return Gradients(step.outputs.begin(), step.outputs.end());
  }

  static Gradients backward(AutogradContext* ctx, const Gradients& grads) {
    const c10::IValue& plan = ctx->saved_data.at("plan");
    const bool has_values = plan.isList();
    const auto [function, present] = unpack((has_values ? plan.toListRef()[0] : plan).toInt());
    Saved saved;
    if (!(present & kNothingSaved)) saved.tensors = ctx->get_saved_variables();
    if (has_values) saved.values.assign(plan.toListRef().begin() + 1, plan.toListRef().end());
    const size_t inputs = std::bit_width(present & ~kNothingSaved) - 1;
    for (size_t i = 0, edge = 0; i < inputs; ++i)
      saved.needed.push_back((present >> i & 1) && ctx->needs_input_grad(edge++));
    bool any_grad = false;
    for (const at::Tensor& g : grads) any_grad |= g.defined();
    std::optional<at::AutoDispatchBelowAutograd> below;
    if (is_final(grads)) {
      below.emplace();
      // Handed out once: whoever has it may write to it.
      if (const auto early = ctx->saved_data.find("early"); early != ctx->saved_data.end()) {
        saved.early = {ctx->saved_data.at("early for").toDouble(), std::move(early->second).toTensor()};
        ctx->saved_data.erase(early);
      }
    }
    Gradients all = any_grad ? function(saved, grads) : Gradients(inputs);
    Gradients result;
    result.reserve(inputs + 3);
    for (size_t i = 0; i < inputs; ++i)
      if (present >> i & 1) result.push_back(saved.needed[i] ? std::move(all[i]) : at::Tensor());
    for (int i = 0; i < 3; ++i) result.emplace_back();  // present, backward and run are no tensors
    return result;
  }
};

struct FastgradBackward : Recorded<FastgradBackward, at::Tensor> {};
struct FastgradListBackward : Recorded<FastgradListBackward, Gradients> {};

}  // namespace
}  // namespace fastgrad::ops

#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 13  // whose definition this follows
// torch's definition of apply differs in the last argument, name(): it demangles a symbol at each call, for the words
// of an error that no op here can cause, and takes longer than a small kernel.
namespace torch::autograd {
template <>
variable_list CppNode<fastgrad::ops::FastgradBackward>::apply(variable_list&& grads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return CppNode_apply_functional<fastgrad::ops::FastgradBackward>(std::move(grads), ctx_, is_variable_input_,
                                                                   output_info_, "fastgrad");
}
template <>
variable_list CppNode<fastgrad::ops::FastgradListBackward>::apply(variable_list&& grads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return CppNode_apply_functional<fastgrad::ops::FastgradListBackward>(std::move(grads), ctx_, is_variable_input_,
                                                                       output_info_, "fastgrad");
}
}  // namespace torch::autograd
#endif

namespace fastgrad::ops {

c10::IValue as_value(c10::SymIntArrayRef sizes) { return sizes.empty() ? c10::IValue(0) : c10::IValue(sizes); }
c10::SymDimVector sizes_of(const c10::IValue& value) {
  if (value.isInt()) return {};
  const auto sizes = value.toSymIntVector();
  return c10::SymDimVector(sizes.begin(), sizes.end());
}

bool needs_recording(const char* op, at::TensorList inputs) {
  bool requires_grad = false;
  for (const at::Tensor& t : inputs) {
    if (!t.defined()) continue;
    requires_grad |= t.requires_grad();
    TORCH_CHECK_NOT_IMPLEMENTED(!t._fw_grad(/*level=*/0).defined(), "fastgrad::", op,
                                " does not support forward-mode automatic differentiation");
  }
  if (!requires_grad || !c10::GradMode::is_enabled()) return false;
  if (const auto& transforms = at::functorch::functorchTLSAccessor()) {
    try {
      transforms->checkSupportsCppAutogradFunction();
    } catch (const c10::Error&) {
      TORCH_CHECK_NOT_IMPLEMENTED(false, "fastgrad::", op,
                                  " does not support gradients inside torch.func transforms (grad, vjp, jacrev, vmap)");
    }
  }
  return true;
}

namespace {

template <class Function>
auto record_as(at::TensorList inputs, BackwardFunction backward, c10::function_ref<Step()> forward) {
  int64_t present = int64_t(1) << inputs.size();  // a bit an input, and one that marks their number
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined()) present |= int64_t(1) << i;
  if (present == (int64_t(2) << inputs.size()) - 1) return Function::apply(inputs, present, backward, forward);
  c10::SmallVector<at::Tensor, 6> defined;
  for (const at::Tensor& t : inputs)
    if (t.defined()) defined.push_back(t);
  return Function::apply(at::TensorList(defined), present, backward, forward);
}

}  // namespace

Gradients record(at::TensorList inputs, BackwardFunction backward, c10::function_ref<Step()> forward) {
  const Gradients outputs = record_as<FastgradListBackward>(inputs, backward, forward);
  // What the step said of its outputs has been heeded. Compiled autograd takes no node that still has it.
  for (const at::Tensor& out : outputs)
    if (auto* const node = dynamic_cast<torch::autograd::CppNode<FastgradListBackward>*>(out.grad_fn().get())) {
      node->ctx_.mark_dirty({});
      node->ctx_.mark_non_differentiable({});
      break;
    }
  return outputs;
}
at::Tensor record_one(at::TensorList inputs, BackwardFunction backward, c10::function_ref<Step()> forward) {
  return record_as<FastgradBackward>(inputs, backward, forward);
}

void check_writable(const at::Tensor& t) {
  TORCH_CHECK(!t.is_inference() || c10::InferenceMode::is_enabled(),
              "Inplace update to inference tensor outside InferenceMode is not allowed. You can make a clone to get a "
              "normal tensor before doing inplace update.");
}

void check_in_place(const char* op, const at::Tensor& t) {
  if (!t.requires_grad() || !c10::GradMode::is_enabled()) return;
  TORCH_CHECK(!t.is_leaf(), "fastgrad::", op,
              ": a leaf Variable that requires grad is being used in an in-place operation.");
  TORCH_CHECK(!(t.is_view() && t._base().is_leaf()), "fastgrad::", op,
              ": a view of a leaf Variable that requires grad is being used in an in-place operation.");
}

void bump_version(const at::Tensor& t) {
  if (!t.is_inference()) t.unsafeGetTensorImpl()->bump_version();
}

void check_out(const char* op, at::TensorList inputs, const at::Tensor& out) {
  if (!c10::GradMode::is_enabled()) return;
  bool requires_grad = out.requires_grad();
  for (const at::Tensor& t : inputs) requires_grad |= t.defined() && t.requires_grad();
  TORCH_CHECK(!requires_grad, op,
              "(): functions with out=... arguments don't support automatic differentiation, but one of the arguments "
              "requires grad.");
}

}  // namespace fastgrad::ops
