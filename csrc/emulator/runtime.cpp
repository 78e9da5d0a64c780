// The host's side of the emulated CUDA runtime: launches within the hardware's limits, attributes, error codes.
#include <map>
#include <mutex>

#include "cuda_runtime.h"

namespace cuda_emulator {
namespace {

constexpr size_t kDefaultShared = 48 << 10, kMaxShared = 227 << 10;

std::mutex one_grid;  // shared memory is static storage
std::map<const void*, size_t> shared_allowed;
bool streams_in_use = false;  // from then on, a launch without a stream is a mistake

}  // namespace

void run_blocks(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

cudaError_t allow_dynamic_shared(const void* kernel, int bytes) {
  if (size_t(bytes) > kMaxShared) return cudaErrorInvalidValue;
  const std::lock_guard<std::mutex> lock(one_grid);
  shared_allowed[kernel] = size_t(bytes);
  return cudaSuccess;
}

cudaError_t run_grid(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_grid);
  const dim3 grid = config.gridDim, block = config.blockDim;
  const auto allowed = shared_allowed.find(kernel);
  const size_t shared = allowed == shared_allowed.end() ? kDefaultShared : std::max(kDefaultShared, allowed->second);
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || config.dynamicSmemBytes > shared)
    return cudaErrorInvalidValue;
  if (config.stream)
    ++config.stream->launches, streams_in_use = true;
  else if (streams_in_use)
    return cudaErrorInvalidResourceHandle;
  run_blocks(grid, block, config.dynamicSmemBytes, body);
  return cudaSuccess;
}

}  // namespace cuda_emulator

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidResourceHandle:
      return "a launch without the stream";
    default:
      return "operation not supported";
  }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {  // a launch returns when its grid has run
  if (stream) ++stream->waits;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = int(cuda_emulator::kMaxShared);
      break;
  }
  return cudaSuccess;
}
