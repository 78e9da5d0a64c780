// What the glue of every op shares. Also the precompiled header of this folder.
#pragma once
#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/TypeProperties.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "../kernels/backend.h"
#include "autograd.h"

namespace fastgrad::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
inline OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

// backends.cpp: the table that serves a device; FASTGRAD_BACKEND, or force_backend, overrides the CPU's.
const Backend& backend_for(c10::Device device);
void emulate_cuda();  // the emulator serves CUDA tensors, whose memory a test has made the host's
bool debugging();     // FASTGRAD_DEBUG=1
// Whether values that a kernel finds unfit (a class out of bounds, a probability above 1) raise. On CUDA asking costs a
// synchronization: there they give NaN, unless debugging().
bool checks_values(c10::Device device);
std::string active_backend();
void force_backend(const std::string& name);
std::vector<std::string> list_backends();

// tensors.cpp: from tensors to what backend.h speaks of; also constant() of ops.h.
Dtype dtype_of(at::ScalarType type);       // raises NotImplementedError for what no kernel takes
Dtype compute_dtype(at::ScalarType type);  // the arithmetic done for values of this type
Stream stream_of(c10::Device device);
Number number(const at::Scalar& s);
// The device a kernel runs on, if it is not given: that of the tensors with dimensions; a 0-d CPU tensor may join any
// of them. RuntimeError if there are two.
c10::Device device_of(const char* op, at::TensorList tensors, std::optional<c10::Device> given = {});
void check_status(const char* op, const Backend& backend, Status status, Stream stream);
Tensor workspace_for(c10::Device device);  // undefined where the kernels want none

// pages.cpp: the memory of large CPU outputs.
void place_output(const Tensor& output);  // moves a new tensor, before its first touch, to pages that are kept
void empty_cache();
size_t cached_bytes();

template <class Args>
using Kernel = Status (*Backend::*)(const Args&);

// Runs a kernel on the device its arguments live on.
template <class Args>
void run_kernel(const char* op, Kernel<Args> kernel, Args& args, c10::Device device) {
  const c10::DeviceGuard guard(device);
  args.stream = stream_of(device);
  Tensor workspace;
  if constexpr (requires { args.workspace; }) {
    workspace = workspace_for(device);
    args.workspace = workspace.defined() ? workspace.mutable_data_ptr() : nullptr;
  }
  const Backend& backend = backend_for(device);
  check_status(op, backend, (backend.*kernel)(args), args.stream);
}

template <class Signature>
c10::TypedOperatorHandle<Signature> handle(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("fastgrad::") + name).c_str(), overload)
      .template typed<Signature>();
}

// Declares an op's schema; implement() then registers `kernel` for all devices, and `autograd` above it.
template <class Signature>
c10::TypedOperatorHandle<Signature> declare(torch::Library& m, const std::string& schema) {
  m.def(schema.c_str(), {at::Tag::pt2_compliant_tag});
  const std::string name = schema.substr(0, schema.find('('));
  const size_t dot = name.find('.');
  return handle<Signature>(name.substr(0, dot).c_str(), dot == std::string::npos ? "" : name.c_str() + dot + 1);
}
template <class K, class A>
void implement(torch::Library& m, const std::string& name, K kernel, A autograd) {
  m.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CPU, kernel));
  m.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CUDA, kernel));
  m.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Autograd, autograd));
}

// autocast.cpp: what autocast does to the arguments of an op, as torch's lists say for its own op of that name.
enum class Autocast { lower_precision, fp32, fp32_set_dtype };
void define_autocast(torch::Library& m, const char* name, Autocast cuda);                // CUDA only
void define_autocast(torch::Library& m, const char* name, Autocast cuda, Autocast cpu);  // both
void define_cpu_autocast(torch::Library& m, const char* name, Autocast cpu);

}  // namespace fastgrad::ops
