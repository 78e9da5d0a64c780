// Partial results of a reduction: of a thread's elements in registers, and what they are merged in.
//
// Layout: N elements of one result in a thread's registers; a partial result is a few numbers, and where merging weighs
// by it, how many elements they are of. Numerics: merged in double, or int64. Parallel: a thread's own, passed on by
// shuffles and shared memory (merge_threads() in reduce.cuh).
#pragma once
#include "../math/reductions.h"
#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

template <class T>
using wide_t = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

// Up to N elements of one result in registers.
template <class V, int N>
struct RegisterSource {
  using Value = V;
  static constexpr bool kLanesTogether = true;
  const V (&x)[N];
  int valid;

  __device__ __forceinline__ int64_t count() const { return valid; }
  // The index of the first element that is `best`, or NaN if that is.
  __device__ __forceinline__ V find(V best, V) const {
    int found = 0;
#pragma unroll
    for (int i = N - 1; i >= 0; --i) found = x[i] == best || (best != best && x[i] != x[i]) ? i : found;
    return V(found);
  }
  template <int Fields, class Map, class Op>
  __device__ __forceinline__ math::Tuple<V, Fields> reduce(V init, V fill, Map map, Op op) const {
    math::Tuple<V, Fields> sum[2];
#pragma unroll
    for (int k = 0; k < Fields; ++k) sum[0].item[k] = sum[1].item[k] = init;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const math::Tuple<V, Fields> y = map(i < valid ? x[i] : fill);
#pragma unroll
      for (int k = 0; k < Fields; ++k) sum[i % 2].item[k] = op(sum[i % 2].item[k], y.item[k]);
    }
#pragma unroll
    for (int k = 0; k < Fields; ++k) sum[0].item[k] = op(sum[0].item[k], sum[1].item[k]);
    return sum[0];
  }
};

// A partial result. That of no elements changes nothing it is merged with.
template <class W, class Reducer>
class Partial {
 public:
  static constexpr bool kCounts = std::is_base_of_v<math::Moments, Reducer>;  // merging weighs by numbers of elements
  static constexpr bool kLargest = std::is_base_of_v<math::ExtremeIndex<true>, Reducer>;
  static constexpr bool kIndexed = kLargest || std::is_base_of_v<math::ExtremeIndex<false>, Reducer>;
  static constexpr int kFields = Reducer::fields, kItems = kFields + (kCounts ? 1 : 0);
  using Fields = math::Tuple<W, kFields>;

  Partial() = default;
  __device__ __forceinline__ Partial(const Fields& fields, int64_t count) {
#pragma unroll
    for (int k = 0; k < kFields; ++k) item_[k] = fields.item[k];
    if constexpr (kCounts) item_[kFields] = W(count);
  }
  static __device__ __forceinline__ Partial none() {
    if constexpr (kCounts) {
      return {Fields{}, 0};
    } else if constexpr (kIndexed) {
      return {Fields{{math::worst<kLargest, W>(), W(int64_t(1) << 62)}}, 0};  // behind any index
    } else {
      const W nothing[1] = {};
      return {Reducer::widen(Reducer::block(RegisterSource<W, 1>{nothing, 0}), 0.0, 0), 0};
    }
  }
  __device__ __forceinline__ Fields fields() const {
    Fields r;
#pragma unroll
    for (int k = 0; k < kFields; ++k) r.item[k] = item_[k];
    return r;
  }

  // Of two results the one with the lower index is the first: then ties go where they should, whatever the order here.
  __device__ __forceinline__ void merge(const Partial& other) {
    if constexpr (kCounts) {
      const W mine = item_[kFields], theirs = other.item_[kFields];
      if (theirs == 0) return;
      if (mine == 0)
        *this = other;
      else
        *this = {Reducer::merge(fields(), other.fields(), mine, theirs), int64_t(mine + theirs)};
    } else if constexpr (kIndexed) {
      // Field by field: of two tuples one is selected by its address, in local memory.
      const bool first = item_[1] < other.item_[1];
      Fields a, b;
#pragma unroll
      for (int k = 0; k < kFields; ++k) {
        a.item[k] = first ? item_[k] : other.item_[k];
        b.item[k] = first ? other.item_[k] : item_[k];
      }
      *this = {Reducer::merge(a, b, 0.0, 0.0), 0};
    } else {
      *this = {Reducer::merge(fields(), other.fields(), 0.0, 0.0), 0};
    }
  }
  __device__ __forceinline__ Partial down(int lanes, int width) const {
    Partial r;
#pragma unroll
    for (int k = 0; k < kItems; ++k) r.item_[k] = __shfl_down_sync(kFullWarp, item_[k], unsigned(lanes), width);
    return r;
  }

 private:
  W item_[kItems];
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
