// A GPU that is not there: torch's CUDA device on the host's memory, for machines without one (pytest --device
// pretended). Two devices, streams, an allocator; torch's own ops run as on the CPU, fastgrad's on the emulator. So the
// glue meets CUDA tensors, with their dispatch keys, guards and streams, and the whole suite can. What torch itself
// does on a GPU (its kernels, caching allocator, graphs) is not shown.
//
// Counted: launches per stream (the handle is the emulator's stream), and what would make the host wait for the device.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cuda_runtime.h>  // the emulator's
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <atomic>
#include <deque>

namespace {

using at::Tensor;
using c10::Device;

constexpr int kDevices = 2;
std::deque<CUstream_st> streams[kDevices];  // the first is the default stream
thread_local c10::DeviceIndex current = 0;
thread_local int64_t current_stream[kDevices] = {};
std::atomic<long> waits = 0;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  Device getDevice() const override { return {c10::kCUDA, current}; }
  void uncheckedSetDevice(Device d) const noexcept override { current = d.index(); }
  void setDevice(Device d) const override {
    TORCH_CHECK(d.index() >= 0 && d.index() < kDevices, "no such device: ", d);
    current = d.index();
  }
  Device exchangeDevice(Device d) const override {
    const Device before = getDevice();
    setDevice(d);
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Stream stream(Device d, int64_t id) const { return c10::Stream(c10::Stream::UNSAFE, d, id); }
  c10::Stream getStream(Device d) const override { return stream(d, current_stream[d.index()]); }
  c10::Stream getDefaultStream(Device d) const override { return stream(d, 0); }
  c10::Stream exchangeStream(c10::Stream s) const override {
    const c10::Stream before = getStream(s.device());
    current_stream[s.device_index()] = s.id();
    return before;
  }
  void* getStreamNativeHandle(const c10::Stream s) const override { return &streams[s.device_index()].at(s.id()); }
  // Autograd orders streams by events; here all is done when it is launched.
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeDevice(const c10::DeviceIndex) const override { ++waits; }
  void synchronizeStream(const c10::Stream&) const override { ++waits; }
} guard;

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return kDevices; }
  c10::DeviceIndex deviceCount() const override { return kDevices; }
  c10::DeviceIndex current_device() const override { return current; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex d) const override { current = d; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  void deviceSynchronize(c10::DeviceIndex) const override { ++waits; }
};
static_assert(sizeof(Hooks) == sizeof(at::CUDAHooksInterface));

struct Block {
  void* data;
  size_t bytes;
  c10::DeviceIndex device;
};
struct Memory final : c10::Allocator {
  static void give_back(void* context) {
    Block* block = static_cast<Block*>(context);
    c10::reportMemoryUsageToProfiler(block->data, -int64_t(block->bytes), 0, 0, {c10::kCUDA, block->device});
    std::free(block->data);
    delete block;
  }
  c10::DataPtr allocate(size_t bytes) override {
    const Device device(c10::kCUDA, current);
    if (bytes == 0) return {nullptr, device};
    bytes = (bytes + 511) / 512 * 512;
    Block* block = new Block{std::aligned_alloc(512, bytes), bytes, current};
    std::memset(block->data, 0xa5, bytes);  // as little defined as on a GPU
    c10::reportMemoryUsageToProfiler(block->data, int64_t(bytes), bytes, bytes, device);
    return {block->data, block, &give_back, device};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} memory;

// The same memory as a CPU tensor, and as a CUDA tensor.
Tensor on_host(const Tensor& t) {
  if (!t.defined() || !t.is_cuda()) return t;
  c10::DataPtr data(t.storage().mutable_data(), c10::Device(c10::kCPU));
  // An op may resize an output: then it is given new memory.
  c10::Storage storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(data),
                       c10::GetAllocator(c10::kCPU), /*resizable=*/true);
  Tensor host = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                         t.dtype());
  host.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) host.unsafeGetTensorImpl()->set_wrapped_number(true);
  return host;
}
Tensor on_device(const Tensor& t, Device device) {
  if (!t.defined() || !t.is_cpu()) return t;
  c10::DataPtr data(
      t.storage().mutable_data(), new Tensor(t), [](void* kept) { delete static_cast<Tensor*>(kept); }, device);
  c10::Storage storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(data), &memory, true);
  Tensor result = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                           c10::DispatchKeySet(c10::DispatchKey::CUDA), t.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  return result;
}

// Runs an op of torch's on the CPU.
struct Call {
  std::vector<std::pair<Tensor, Tensor>> tensors;  // given, on the host
  std::optional<Device> device;

  Tensor argument(const Tensor& t) {
    if (!t.defined()) return t;
    if (!t.is_cuda()) {
      tensors.emplace_back(t, t);
      return t;
    }
    if (!device) device = t.device();
    const Tensor host = on_host(t);
    tensors.emplace_back(t, host);
    return host;
  }
  c10::IValue argument(const c10::IValue& v) {
    if (v.isTensor()) return argument(v.toTensor());
    if (v.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : v.toTensorVector()) list.push_back(argument(t));
      return list;
    }
    if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const std::optional<Tensor>& t : v.toOptionalTensorVector())
        list.push_back(t ? std::optional<Tensor>(argument(*t)) : std::nullopt);
      return list;
    }
    if (!v.isDevice() || !v.toDevice().is_cuda()) return v;
    if (!device) device = v.toDevice();
    return Device(c10::kCPU);
  }
  void resize_outputs() const {
    for (const auto& [t, host] : tensors) {
      if (!t.is_cuda() || (host.sizes() == t.sizes() && host.storage().data() == t.storage().data())) continue;
      Tensor given = t;
      at::native::set_storage_cpu_(given, on_device(host, t.device()).storage(), host.storage_offset(), host.sizes(),
                                   host.strides());
    }
  }
  Tensor result(const Tensor& r) const {
    for (const auto& [t, host] : tensors)
      if (r.is_same(host)) return t;
    return on_device(r,
                     device ? Device(c10::kCUDA, device->has_index() ? device->index() : current) : guard.getDevice());
  }
  c10::IValue result(const c10::IValue& v) const {
    if (v.isTensor()) return result(v.toTensor());
    if (!v.isTensorList()) return v;
    c10::List<Tensor> list;
    for (const Tensor& t : v.toTensorVector()) list.push_back(result(t));
    return list;
  }
};

bool waits_for_device(const std::string& op, const torch::jit::Stack& stack) {
  if (op == "aten::copy_")
    return stack[stack.size() - 3].toTensor().device() != stack[stack.size() - 2].toTensor().device();
  for (const char* name : {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select"})
    if (op == name) return true;
  return false;
}

void fall_back(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  if (waits_for_device(schema.name(), *stack)) ++waits;
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  Call call;
  for (size_t i = first; i < stack->size(); ++i) (*stack)[i] = call.argument((*stack)[i]);
  op.callBoxed(stack);
  call.resize_outputs();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i)
    (*stack)[i] = call.result((*stack)[i]);
}

Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard on(device.value_or(guard.getDevice()));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   dtype.value_or(at::get_default_dtype_as_scalartype()), format);
}
Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  const c10::DeviceGuard on(device.value_or(guard.getDevice()));
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           dtype.value_or(at::get_default_dtype_as_scalartype()));
}
Tensor& set_storage(Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                    c10::SymIntArrayRef stride) {
  return at::native::set_storage_cpu_(self, source, offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size),
                                      C10_AS_INTARRAYREF_SLOW(stride));
}
const Tensor& resize(const Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard on(self.device());
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}
Tensor as_strided(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                  std::optional<c10::SymInt> offset) {
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                           offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt);
}
Tensor view(const Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}
Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_back>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", TORCH_FN(static_cast<Tensor& (*)(Tensor&, at::Storage)>(&at::native::set_)));
  m.impl("set_.source_Tensor", TORCH_FN(at::native::set_tensor_));
  m.impl("resize_", &resize);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("_reshape_alias", &reshape_alias);
}

// Every op of torch's that has a kernel for the CPU, also where one for all devices would be composed of others; and
// copy_, which is one for all devices.
void run_torch_on_the_host() {
  static torch::Library library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    const auto op = c10::Dispatcher::singleton().findOp(name);
    if (!op || name.getNamespace() != "aten" || op->hasKernelForDispatchKey(c10::DispatchKey::CUDA)) continue;
    if (!op->hasKernelForDispatchKey(c10::DispatchKey::CPU) && name.name != "aten::copy_") continue;
    const std::string full = name.name + (name.overload_name.empty() ? "" : "." + name.overload_name);
    library.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&fall_back>());
  }
}

int new_stream(int device) {
  streams[device].emplace_back();
  return int(streams[device].size()) - 1;
}

}  // namespace

PYBIND11_MODULE(pretended_gpu, m) {
  // Those that torch has made for itself when it was imported cannot be exchanged, but be others.
  new (const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks())) Hooks;
  for (int d = 0; d < kDevices; ++d) new_stream(d);
  static const c10::impl::DeviceGuardImplRegistrar registered(c10::kCUDA, &guard);
  c10::SetAllocator(c10::kCUDA, &memory);
  run_torch_on_the_host();
  m.def("new_stream", &new_stream);
  m.def("set_stream", [](int device, int stream) { current_stream[device] = stream; });
  m.def("set_device", [](int device) { guard.setDevice({c10::kCUDA, c10::DeviceIndex(device)}); });
  m.def("current_device", [] { return int(current); });
  m.def("launches", [](int device) {
    std::vector<long> counts;
    for (const CUstream_st& s : streams[device]) counts.push_back(s.launches);
    return counts;
  });
  m.def("stream_waits", [](int device, int stream) { return streams[device].at(stream).waits; });
  m.def("waits", [] { return waits.load(); });
}
