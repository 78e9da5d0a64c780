// The table of CUDA kernels: of the GPU, or of the emulator.
#include <cuda_runtime.h>

#include "../backend.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
static const char* error_string(Status status) { return cudaGetErrorString(cudaError_t(status)); }
static Status synchronize(Stream stream) { return cudaStreamSynchronize(static_cast<cudaStream_t>(stream)); }
static constexpr bool leaves_gradients = false;
}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE

#include "../table.inc"
