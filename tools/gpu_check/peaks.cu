// Multiply-adds a second on the ordinary arithmetic units: every multiprocessor full of threads with eight independent
// chains each. Prints JSON. Compiled and run by ceilings.py.
#include <cuda_runtime.h>

#include <cstdio>

template <class T>
__global__ void chains(T* out, T factor, int steps) {
  T x[8];
  for (int i = 0; i < 8; ++i) x[i] = T(threadIdx.x + i);
  for (int s = 0; s < steps; ++s)
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = x[i] * factor + factor;
  T sum = 0;
  for (int i = 0; i < 8; ++i) sum += x[i];
  if (sum == T(-1)) *out = sum;  // never, but the compiler cannot know
}

template <class T>
double measure(int steps) {
  int multiprocessors = 0;
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0);
  const int blocks = multiprocessors * 8, threads = 256;
  T* out = nullptr;
  cudaMalloc(&out, sizeof(T));
  cudaEvent_t start, end;
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  double best = 0;
  for (int repeat = 0; repeat < 10; ++repeat) {
    cudaEventRecord(start);
    chains<T><<<blocks, threads>>>(out, T(0.999), steps);
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, start, end);
    const double rate = 2.0 * 8 * steps * threads * blocks / (ms * 1e-3);
    if (repeat > 0 && rate > best) best = rate;
  }
  cudaFree(out);
  return best;
}

int main() {
  const double f32 = measure<float>(20000), f64 = measure<double>(5000);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) std::fprintf(stderr, "%s\n", cudaGetErrorString(status));
  std::printf("{\"float32 multiply-adds, flop/s\": %g, \"float64 multiply-adds, flop/s\": %g}\n", f32, f64);
  return status != cudaSuccess;
}
