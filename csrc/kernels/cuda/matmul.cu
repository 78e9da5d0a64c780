// gemm(args): c = activation(a @ b + bias), batched; picks the engine for the dtype, the shape and the device.
//
// Integers: one thread per element of c, sums in the width of the type, wrapping as torch's do.
#include "gemm.cuh"
#include "gemm_dmma.cuh"
#include "gemm_mma.cuh"
#include "gemm_simt.cuh"
#include "gemm_wgmma.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int kIntegerThreads = 256;

template <class T>
__global__ void __launch_bounds__(kIntegerThreads) gemm_integer(const __grid_constant__ GemmArgs g) {
  using U = std::make_unsigned_t<T>;
  using Sum = std::conditional_t<sizeof(T) < 4, unsigned, U>;
  const int64_t at = int64_t(blockIdx.x) * kIntegerThreads + threadIdx.x;
  if (at >= g.batches * g.m * g.n) return;
  const int64_t column = at % g.n, row = at / g.n % g.m;
  const Matrices matrices = matrices_of(g, at / g.n / g.m);
  const char *a = matrices.a + row * g.a_row, *b = matrices.b + column * g.b_col;
  Sum sum = g.bias ? Sum(*reinterpret_cast<const T*>(static_cast<const char*>(g.bias) + column * g.bias_stride)) : 0;
  for (int64_t k = 0; k < g.k; ++k)
    sum += Sum(*reinterpret_cast<const T*>(a + k * g.a_col)) * Sum(*reinterpret_cast<const T*>(b + k * g.b_row));
  T value = T(U(sum));
  if constexpr (std::is_signed_v<T>)
    if (g.activation == Activation::relu && value < 0) value = 0;
  reinterpret_cast<T*>(matrices.c + row * g.c_row)[column] = value;
}

template <class T>
Status integers(const GemmArgs& g) {
  return launch({ceil_div(g.batches * g.m * g.n, kIntegerThreads), kIntegerThreads, g.stream}, &gemm_integer<T>, g);
}

struct Device {
  int multiprocessors = 0, major = 0, minor = 0, most_shared = 0;
};
Device current_device() {
  Device device;
  int index = 0;
  cudaGetDevice(&index);
  cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, index);
  cudaDeviceGetAttribute(&device.major, cudaDevAttrComputeCapabilityMajor, index);
  cudaDeviceGetAttribute(&device.minor, cudaDevAttrComputeCapabilityMinor, index);
  cudaDeviceGetAttribute(&device.most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  return device;
}

// Small tiles where large ones would leave multiprocessors idle.
bool fills_device(const GemmArgs& g, const Device& device) {
  return ceil_div(g.m, 128) * ceil_div(g.n, 128) * g.batches >= 2 * device.multiprocessors;
}

template <class T>
Status tensor_cores(const GemmArgs& g, const Device& device) {
  if (device.major == 9 && device.minor == 0) {
    const int columns = wgmma_tile_columns(g.m, g.n, g.k, g.batches, device.multiprocessors);
    const Status status = columns == 256   ? launch_wgmma<T, 256>(g, device.multiprocessors)
                          : columns == 128 ? launch_wgmma<T, 128>(g, device.multiprocessors)
                                           : kUnsupported;
    if (status != kUnsupported) return status;
  }
  return fills_device(g, device) ? launch_mma<T, 4>(g) : launch_mma<T, 2>(g);
}

}  // namespace

Status gemm(const GemmArgs& g) {
  if (g.m == 0 || g.n == 0 || g.batches == 0) return kSuccess;
  const Device device = current_device();
  switch (g.dtype) {
    case Dtype::f32:
      return gemm_float32(g, device.multiprocessors);
    case Dtype::bf16:
      return tensor_cores<bf16>(g, device);
    case Dtype::f16:
      return tensor_cores<f16>(g, device);
    case Dtype::f64:
      return gemm_float64(g, device.multiprocessors, device.most_shared);
    case Dtype::i64:
      return integers<int64_t>(g);
    case Dtype::i32:
      return integers<int32_t>(g);
    case Dtype::i16:
      return integers<int16_t>(g);
    case Dtype::i8:
      return integers<int8_t>(g);
    case Dtype::u8:
      return integers<uint8_t>(g);
    default:
      return kUnsupported;
  }
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
