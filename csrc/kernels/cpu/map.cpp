// The driver of the elementwise engine; see map.h.
#include "map.h"

#include "convert.h"
#include "parallel.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

constexpr int64_t kBlock = 512;    // elements gathered at a time: a few operands fit L1
constexpr int64_t kGrain = 32768;  // elements worth a thread

FASTGRAD_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct Position {
  int64_t index[kMaxDims];
  FASTGRAD_INLINE Position(const MapArgs& a, int64_t linear) {
    for (int d = 0; d < a.ndim; ++d) {
      index[d] = linear % a.shape[d];
      linear /= a.shape[d];
    }
  }
  FASTGRAD_INLINE void advance(const MapArgs& a, int64_t n) {  // within one run, or to its very end
    index[0] += n;
    for (int d = 0; d + 1 < a.ndim && index[d] == a.shape[d]; ++d) {
      index[d] = 0;
      ++index[d + 1];
    }
  }
  FASTGRAD_INLINE char* of(const MapArgs& a, const Operand& o) const {
    char* p = static_cast<char*>(o.data);
    for (int d = 0; d < a.ndim; ++d) p += index[d] * o.strides[d];
    return p;
  }
};

// Calls run(offset, position, length) for the pieces of [at, at + n) that lie along dimension 0.
template <class F>
FASTGRAD_INLINE void for_runs(const MapArgs& a, Position at, int64_t n, const F& run) {
  for (int64_t done = 0; done < n;) {
    const int64_t length = smaller(n - done, a.shape[0] - at.index[0]);
    run(done, at, length);
    at.advance(a, length);
    done += length;
  }
}

template <class T>
void map_range(const MapArgs& a, int64_t begin, int64_t end, MapBlock block, const void* formula) {
  alignas(64) T scratch[kMaxOperands][kBlock];
  bool direct[kMaxOperands], all_direct = true, constant[kMaxOperands];
  for (int k = 0; k < a.operands; ++k) {
    const Operand& o = a.operand[k];
    constant[k] = !o.data;
    direct[k] = !constant[k] && o.dtype == dtype_of<T> && o.strides[0] == sizeof(T);
    all_direct &= direct[k];
    if (constant[k]) {
      const T x = std::is_integral_v<T> ? T(o.immediate.integer) : T(o.immediate.real);
      for (T& lane : scratch[k]) lane = x;
    }
  }
  Position at(a, begin);
  for (int64_t i = begin; i < end;) {
    const int64_t run = smaller(end - i, a.shape[0] - at.index[0]);
    // A long run is used in place where it can be; short runs are packed together into one block.
    const bool in_place = run >= kBlock / 2 || i + run == end;
    const int64_t n = !in_place ? smaller(end - i, kBlock) : all_direct ? run : smaller(run, kBlock);
    void* operand[kMaxOperands];
    for (int k = 0; k < a.operands; ++k) {
      const Operand& o = a.operand[k];
      operand[k] = in_place && direct[k] ? at.of(a, o) : static_cast<void*>(scratch[k]);
      if (k >= a.outputs && !constant[k] && operand[k] == scratch[k])
        for_runs(a, at, n, [&](int64_t done, const Position& p, int64_t length) {
          load_run<T>(o.dtype, scratch[k] + done, p.of(a, o), o.strides[0], length);
        });
    }
    block(operand, n, formula);
    for (int k = 0; k < a.outputs; ++k) {
      const Operand& o = a.operand[k];
      if (operand[k] == scratch[k])
        for_runs(a, at, n, [&](int64_t done, const Position& p, int64_t length) {
          store_run<T>(o.dtype, scratch[k] + done, p.of(a, o), o.strides[0], length);
        });
    }
    for_runs(a, at, n, [&](int64_t, const Position& p, int64_t length) {
      at = p;
      at.advance(a, length);
    });
    i += n;
  }
}

}  // namespace

Status map_driver(const MapArgs& a, MapBlock block, const void* formula) {
  parallel_for(0, a.numel, kGrain, [&](int64_t begin, int64_t end) {
    switch (a.compute) {
      case Dtype::f32:
        return map_range<float>(a, begin, end, block, formula);
      case Dtype::f64:
        return map_range<double>(a, begin, end, block, formula);
      case Dtype::i64:
        return map_range<int64_t>(a, begin, end, block, formula);
      case Dtype::i32:
        return map_range<int32_t>(a, begin, end, block, formula);
      case Dtype::i16:
        return map_range<int16_t>(a, begin, end, block, formula);
      case Dtype::i8:
        return map_range<int8_t>(a, begin, end, block, formula);
      default:
        return map_range<uint8_t>(a, begin, end, block, formula);
    }
  });
  return kSuccess;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
