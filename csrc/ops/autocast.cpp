// Autocast rules. One boxed function a rule serves every op: it casts the floating-point tensors among the arguments
// and calls the op again without autocast.
#include <ATen/autocast_mode.h>

#include "common.h"

namespace fastgrad::ops {
namespace {

c10::DeviceType device_type_of(c10::DispatchKey key) {
  return key == c10::DispatchKey::AutocastCPU ? c10::kCPU : c10::kCUDA;
}

bool eligible(const Tensor& t, c10::DeviceType device) {
  return t.defined() && t.is_floating_point() && t.scalar_type() != at::kDouble && t.device().type() == device;
}

void cast_arguments(torch::jit::Stack* stack, size_t count, at::ScalarType to, c10::DeviceType device) {
  for (size_t i = stack->size() - count; i < stack->size(); ++i) {
    c10::IValue& v = (*stack)[i];
    if (v.isTensor() && eligible(v.toTensor(), device)) v = at::autocast::cached_cast(to, v.toTensor(), device);
  }
}

template <Autocast Rule, c10::DispatchKey Key>
void autocast(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  constexpr auto all =
      c10::DispatchKeySet(c10::DispatchKey::AutocastCPU) | c10::DispatchKeySet(c10::DispatchKey::AutocastCUDA);
  const c10::impl::ExcludeDispatchKeyGuard guard(all);
  const c10::DeviceType device = device_type_of(Key);
  const auto& arguments = op.schema().arguments();
  const size_t count = arguments.size();
  const size_t first = stack->size() - count;
  at::ScalarType to = at::kFloat;
  if (Rule == Autocast::lower_precision) to = at::autocast::get_autocast_dtype(device);
  if (Rule == Autocast::fp32_set_dtype) {  // the op computes in float32 from the tensors as they are
    if (eligible((*stack)[first].toTensor(), device))
      for (size_t i = 0; i < count; ++i)
        if (arguments[i].name() == "dtype" && (*stack)[first + i].isNone()) (*stack)[first + i] = at::kFloat;
  } else {
    cast_arguments(stack, count, to, device);
  }
  op.callBoxed(stack);
}

template <c10::DispatchKey Key>
void implement(torch::Library& m, const char* name, Autocast rule) {
  using torch::CppFunction;
  const auto add = [&](CppFunction f) { m.impl(name, torch::dispatch(Key, std::move(f))); };
  switch (rule) {
    case Autocast::lower_precision:
      return add(CppFunction::makeFromBoxedFunction<&autocast<Autocast::lower_precision, Key>>());
    case Autocast::fp32:
      return add(CppFunction::makeFromBoxedFunction<&autocast<Autocast::fp32, Key>>());
    case Autocast::fp32_set_dtype:
      return add(CppFunction::makeFromBoxedFunction<&autocast<Autocast::fp32_set_dtype, Key>>());
  }
}

}  // namespace

void define_autocast(torch::Library& m, const char* name, Autocast cuda) {
  implement<c10::DispatchKey::AutocastCUDA>(m, name, cuda);
}
void define_autocast(torch::Library& m, const char* name, Autocast cuda, Autocast cpu) {
  implement<c10::DispatchKey::AutocastCUDA>(m, name, cuda);
  implement<c10::DispatchKey::AutocastCPU>(m, name, cpu);
}
void define_cpu_autocast(torch::Library& m, const char* name, Autocast cpu) {
  implement<c10::DispatchKey::AutocastCPU>(m, name, cpu);
}

}  // namespace fastgrad::ops
