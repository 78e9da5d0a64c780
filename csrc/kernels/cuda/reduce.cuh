// The reduce engine: reduce<Reducer, Formula, Inputs>(args) on the GPU; reducers are those of math/reductions.h.
//
// Layout: a block of 256 threads works on `lanes_kept` results with `lanes_reduced` threads each. Where the reduced
// dimension is the dense one ("inner", "full"), the threads of a result are neighbours and read 16 bytes at a time;
// else ("outer") neighbours work on neighbouring results. Dtypes and strides are looked up at run time, once per step.
// Numerics: a thread reduces kItems elements at a time in the compute type, all else is merged in double (int64).
// Parallel: where results are few, the reduced dimension is cut in splits, whose partial results go to the workspace;
// a second kernel merges them, one warp a result. Cuts depend on the shape only, merges have a fixed order, there are
// no atomics: the same bits every time.
#pragma once
#include "../math/arithmetic.h"
#include "../math/reductions.h"
#include "map.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kReduceThreads = 256;

struct ReducePlan {
  ReduceArgs args;
  int lanes_kept, lanes_reduced;  // powers of 2, their product is kReduceThreads
  bool inner;                     // threads of one result are neighbours
  int pack;                       // elements of a 16-byte access along the reduced dimension, or 1
  int64_t splits, split;          // elements of each
  WideDivider kept_shape[kMaxDims], reduced_shape[kMaxDims];
};

template <class T>
using wide_t = std::conditional_t<std::is_integral_v<T>, int64_t, double>;

// The byte offset of element i of a shape.
__device__ __forceinline__ int64_t offset_of(int64_t i, int dims, const WideDivider* shape, const int64_t* strides) {
  int64_t offset = 0;
#pragma unroll 1
  for (int d = 0; d < dims; ++d) {
    const int64_t next = d + 1 < dims ? int64_t(shape[d].divide(uint64_t(i))) : 0;
    offset += (i - next * int64_t(shape[d].divisor)) * strides[d];
    i = next;
  }
  return offset;
}

// Up to N elements of one result in registers.
template <class V, int N, bool Full>
struct RegisterSource {
  using Value = V;
  static constexpr bool kLanesTogether = false;
  static constexpr int64_t n = N;
  const V (&x)[N];
  int valid;

  __device__ __forceinline__ int64_t count() const { return Full ? N : valid; }
  __device__ __forceinline__ V at(int64_t i) const { return x[i]; }
  template <int Fields, class Map, class Op>
  __device__ __forceinline__ math::Tuple<V, Fields> reduce(V init, V fill, Map map, Op op) const {
    math::Tuple<V, Fields> sum[2];
#pragma unroll
    for (int k = 0; k < Fields; ++k) sum[0].item[k] = sum[1].item[k] = init;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const math::Tuple<V, Fields> y = map(Full || i < valid ? x[i] : fill);
#pragma unroll
      for (int k = 0; k < Fields; ++k) sum[i % 2].item[k] = op(sum[i % 2].item[k], y.item[k]);
    }
#pragma unroll
    for (int k = 0; k < Fields; ++k) sum[0].item[k] = op(sum[0].item[k], sum[1].item[k]);
    return sum[0];
  }
};

// A partial result, and of how many elements.
template <class W, class Reducer>
struct Partial {
  static constexpr int kFields = Reducer::fields;
  math::Tuple<W, kFields> value;
  int64_t count;

  // Of two results the one with the lower index is the first: then ties go where they should, whatever the order here.
  __device__ __forceinline__ void merge(const Partial& other) {
    if (other.count == 0) return;
    if (count == 0) {
      *this = other;
      return;
    }
    if constexpr (kIndexed) {
      const bool first = value.item[1] < other.value.item[1];
      value =
          Reducer::merge(first ? value : other.value, first ? other.value : value, double(count), double(other.count));
    } else {
      value = Reducer::merge(value, other.value, double(count), double(other.count));
    }
    count += other.count;
  }
  __device__ __forceinline__ Partial down(int lanes, int width) const {
    Partial r;
#pragma unroll
    for (int k = 0; k < kFields; ++k)
      r.value.item[k] = __shfl_down_sync(kFullWarp, value.item[k], unsigned(lanes), width);
    r.count = __shfl_down_sync(kFullWarp, count, unsigned(lanes), width);
    return r;
  }
  static constexpr bool kIndexed =
      std::is_base_of_v<math::ExtremeIndex<true>, Reducer> || std::is_base_of_v<math::ExtremeIndex<false>, Reducer>;
};

// Reads N elements of an input, those at data + offset[i], i in [0, valid), or, if `packed`, packs at every so many of
// these.
template <class A, int N>
__device__ __forceinline__ void load_items(A (&x)[N], const ReduceArgs::Input& in, const char* data, bool packed,
                                           int valid, const int64_t (&offset)[N]) {
  with_dtype(in.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_floating_point_v<A> && std::is_floating_point_v<arithmetic_t<T>> && sizeof(T) <= sizeof(A)) {
      constexpr int kPack = 16 / int(sizeof(T)) < N ? 16 / int(sizeof(T)) : N;
      if (packed) {
#pragma unroll
        for (int q = 0; q < N / kPack; ++q) {
          const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(data + offset[q * kPack]);
#pragma unroll
          for (int j = 0; j < kPack; ++j) x[q * kPack + j] = convert<A>(pack.v[j]);
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = i < valid ? convert<A>(*reinterpret_cast<const T*>(data + offset[i])) : A(1);
  });
}

template <class W, class Reducer>
__device__ __forceinline__ void store_result(const ReducePlan& p, int64_t kept, const Partial<W, Reducer>& partial) {
  const auto result = Reducer::finish(partial.value, double(p.args.reduced), p.args.parameter);
#pragma unroll
  for (int o = 0; o < Reducer::outputs; ++o) {
    if (o >= p.args.outputs) continue;
    const auto& out = p.args.out[o];
    store_as(out.dtype, static_cast<char*>(out.data) + offset_of(kept, p.args.kept_dims, p.kept_shape, out.strides),
             result.item[o]);
  }
}

template <class A, int Inputs>
constexpr int kItems = sizeof(A) == 8 || Inputs > 1 ? 8 : 16;

template <class A, class Reducer, class Formula, size_t... I>
__global__ void __launch_bounds__(kReduceThreads, 1) reduce_first(Formula f, const __grid_constant__ ReducePlan p) {
  using W = wide_t<A>;
  using State = Partial<W, Reducer>;
  constexpr int kInputs = sizeof...(I), N = kItems<A, kInputs>;
  const int t = int(threadIdx.x), lanes = p.lanes_reduced;
  const int lane = p.inner ? t % lanes : t / p.lanes_kept;
  const int64_t kept = int64_t(blockIdx.x) * p.lanes_kept + (p.inner ? t / lanes : t % p.lanes_kept);
  const int64_t begin = int64_t(blockIdx.y) * p.split;
  const int64_t end = begin + p.split < p.args.reduced ? begin + p.split : p.args.reduced;

  State state{};
  if (kept < p.args.kept) {
    const char* data[kInputs];
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      const auto& in = p.args.in[k];
      data[k] = static_cast<const char*>(in.data);
      if (in.data) data[k] += offset_of(kept, p.args.kept_dims, p.kept_shape, in.kept_strides);
    }
#pragma unroll 1
    for (int64_t at = begin; at < end; at += int64_t(lanes) * N) {
      // Item i of this thread is element at + position(i).
      const bool whole = at + int64_t(lanes) * N <= end, packed = whole && p.pack > 1;
      const int pack = packed ? p.pack : 1;
      const auto position = [&](int i) { return int64_t(i / pack * lanes + lane) * pack + i % pack; };
      const int64_t left = end - at - lane;
      const int valid = whole ? N : left <= 0 ? 0 : int((left + lanes - 1) / lanes);
      if (valid == 0) break;
      A x[kInputs][N];
#pragma unroll
      for (int k = 0; k < kInputs; ++k) {
        const auto& in = p.args.in[k];
        if (!in.data) {
#pragma unroll
          for (int i = 0; i < N; ++i) x[k][i] = math::value<A>(in.immediate);
          continue;
        }
        int64_t offset[N];
#pragma unroll
        for (int i = 0; i < N; ++i)
          offset[i] = packed ? at + int64_t(i * lanes) + int64_t(lane) * pack : at + int64_t(i) * lanes + lane;
        if (p.args.reduced_dims <= 1) {
#pragma unroll
          for (int i = 0; i < N; ++i) offset[i] *= in.reduced_strides[0];
        } else {
#pragma unroll
          for (int i = 0; i < N; ++i)
            offset[i] = offset_of(offset[i], p.args.reduced_dims, p.reduced_shape, in.reduced_strides);
        }
        load_items<A, N>(x[k], in, data[k], packed, valid, offset);
      }
      A y[N];
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = i < valid ? f(x[I][i]...) : y[0];
      const auto block = valid == N ? Reducer::block(RegisterSource<A, N, true>{y, N})
                                    : Reducer::block(RegisterSource<A, N, false>{y, valid});
      math::Tuple<W, Reducer::partials> wide;
#pragma unroll
      for (int k = 0; k < Reducer::partials; ++k) wide.item[k] = W(block.item[k]);
      if constexpr (State::kIndexed) wide.item[1] = W(at + position(int(block.item[1])));
      state.merge({Reducer::widen(wide, double(valid), 0), valid});
    }
  }

  // Together with the other threads of the result: neighbours by shuffles, the rest through shared memory.
  __shared__ State shared[kReduceThreads];
  int step = p.inner ? 1 : p.lanes_kept, count = lanes;
  if (p.inner) {
    const int width = lanes < 32 ? lanes : 32;
    for (int d = width / 2; d > 0; d /= 2) {
      const State other = state.down(d, width);
      if (t % width < d) state.merge(other);
    }
    step = width;
    count = lanes / width;
  }
  if (count > 1) {
    shared[t] = state;
    __syncthreads();
    for (int d = count / 2; d > 0; d /= 2) {
      if (lane < d * (p.inner ? step : 1) && (!p.inner || lane % step == 0)) {
        state.merge(shared[t + d * step]);
        shared[t] = state;
      }
      __syncthreads();
    }
  }
  if (lane != 0 || kept >= p.args.kept) return;
  if (p.splits == 1) return store_result(p, kept, state);
  W* const to = static_cast<W*>(p.args.workspace) + blockIdx.y * p.args.kept + kept;
#pragma unroll
  for (int k = 0; k < Reducer::fields; ++k) to[k * p.splits * p.args.kept] = state.value.item[k];
}

template <class A, class Reducer>
__global__ void __launch_bounds__(kReduceThreads) reduce_second(const __grid_constant__ ReducePlan p) {
  using W = wide_t<A>;
  using State = Partial<W, Reducer>;
  const int lane = int(threadIdx.x) % 32;
  const int64_t kept = int64_t(blockIdx.x) * (kReduceThreads / 32) + threadIdx.x / 32;
  if (kept >= p.args.kept) return;  // whole warps
  State state{};
  const W* const from = static_cast<const W*>(p.args.workspace) + kept;
  for (int64_t s = lane; s < p.splits; s += 32) {
    State other;
#pragma unroll
    for (int k = 0; k < Reducer::fields; ++k) other.value.item[k] = from[(k * p.splits + s) * p.args.kept];
    other.count = p.args.reduced - s * p.split < p.split ? p.args.reduced - s * p.split : p.split;
    state.merge(other);
  }
  for (int d = 16; d > 0; d /= 2) {
    const State other = state.down(d, 32);
    if (lane < d) state.merge(other);
  }
  if (lane == 0) store_result(p, kept, state);
}

// What float32 is reduced in: a product's roundings add up, so it is formed in double.
template <class Reducer>
using single_t = std::conditional_t<std::is_base_of_v<math::Prod, Reducer>, double, float>;

// Who works on what; of the shape, the strides and the alignment only.
ReducePlan plan_reduction(const ReduceArgs& args, int items, int fields);

template <class A, class Reducer, class Formula, size_t... I>
Status reduce_typed(const ReduceArgs& args, const Formula& f) {
  const ReducePlan p = plan_reduction(args, kItems<A, sizeof...(I)>, Reducer::fields);
  const Status status = launch({ceil_div(args.kept, p.lanes_kept), kReduceThreads, args.stream, p.splits},
                               &reduce_first<A, Reducer, Formula, I...>, f, p);
  if (status != kSuccess || p.splits == 1) return status;
  return launch({ceil_div(args.kept, kReduceThreads / 32), kReduceThreads, args.stream}, &reduce_second<A, Reducer>, p);
}
template <bool Integers, class Reducer, class Formula, size_t... I>
Status reduce_indexed(const ReduceArgs& args, std::index_sequence<I...>) {
  const Formula f = make_formula<Formula>(args.parameter);
  if (args.compute == Dtype::f32) return reduce_typed<single_t<Reducer>, Reducer, Formula, I...>(args, f);
  if (args.compute == Dtype::f64) return reduce_typed<double, Reducer, Formula, I...>(args, f);
  if constexpr (Integers) {
    if (args.compute == Dtype::i32) return reduce_typed<int32_t, Reducer, Formula, I...>(args, f);
    if (args.compute == Dtype::i64) return reduce_typed<int64_t, Reducer, Formula, I...>(args, f);
  }
  return kUnsupported;
}

template <class Reducer, class Formula = math::Copy, int Inputs = 1>
Status reduce(const ReduceArgs& args) {
  return reduce_indexed<false, Reducer, Formula>(args, std::make_index_sequence<Inputs>());
}
template <class Reducer, class Formula = math::Copy, int Inputs = 1>
Status reduce_with_integers(const ReduceArgs& args) {
  return reduce_indexed<true, Reducer, Formula>(args, std::make_index_sequence<Inputs>());
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
