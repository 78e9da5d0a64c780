// parallel_for(begin, end, grain, f): f(begin, end) over pieces of the range, on torch's own thread pool.
// The C shim is called rather than at::parallel_for, whose template would bring an OpenMP runtime of ours.
// How the range is cut depends on the thread count, so f must give the same results for any cut: where a result
// combines several items, the items themselves are the fixed pieces.
#pragma once
#include <cstdint>

extern "C" int32_t torch_parallel_for(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

template <class F>
inline __attribute__((always_inline)) void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (end - begin <= grain) return f(begin, end);
  torch_parallel_for(
      begin, end, grain, [](int64_t b, int64_t e, void* g) { (*static_cast<const F*>(g))(b, e); }, const_cast<F*>(&f));
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
