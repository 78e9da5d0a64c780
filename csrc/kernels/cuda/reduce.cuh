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
#include "map.cuh"
#include "reduce_partial.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kReduceThreads = 256;

struct ReducePlan {
  ReduceArgs args;
  int lanes_kept, lanes_reduced;  // powers of 2, their product is kReduceThreads
  bool inner;                     // threads of one result are neighbours
  int pack_bits;                  // log2 of the elements of a 16-byte access along the reduced dimension, or 0
  int64_t splits, split;          // elements of each
  WideDivider kept_shape[kMaxDims], reduced_shape[kMaxDims];
};

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

// A step of a thread: N elements of an input, of which `valid` exist; what is past them counts as 1.
template <class A, int N>
struct Step {
  int valid;

  // Packs of 16 bytes, or single elements, `distance` bytes apart.
  __device__ __forceinline__ void load_packs(A (&x)[N], Dtype dtype, const char* from, int64_t distance) const {
    with_float_dtype(dtype, [&](auto zero) {
      using T = decltype(zero);
      constexpr int kPack = 16 / int(sizeof(T));
      if constexpr (std::is_floating_point_v<A> && sizeof(T) <= sizeof(A)) {
#pragma unroll
        for (int q = 0; q < N / kPack; ++q, from += distance) {
          Pack<T, kPack> pack;
          if ((q + 1) * kPack - 1 < valid) {
            pack = *reinterpret_cast<const Pack<T, kPack>*>(from);
          } else {
#pragma unroll
            for (int j = 0; j < kPack; ++j)
              pack.v[j] = q * kPack + j < valid ? reinterpret_cast<const T*>(from)[j] : convert<T>(1.0f);
          }
#pragma unroll
          for (int j = 0; j < kPack; ++j) x[q * kPack + j] = convert<A>(pack.v[j]);
        }
      }
    });
  }
  __device__ __forceinline__ void load(A (&x)[N], Dtype dtype, const char* from, int64_t distance) const {
    with_dtype(dtype, [&](auto zero) {
#pragma unroll
      for (int i = 0; i < N; ++i, from += distance)
        x[i] = i < valid ? convert<A>(*reinterpret_cast<const decltype(zero)*>(from)) : A(1);
    });
  }
  // Elements anywhere: the i-th at from + offset(i).
  template <class Offset>
  __device__ __forceinline__ void gather(A (&x)[N], Dtype dtype, const char* from, const Offset& offset) const {
    constexpr int kTogether = N / 2;  // fewer registers for offsets
#pragma unroll
    for (int first = 0; first < N; first += kTogether) {
      int64_t at[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) at[i] = first + i < valid ? offset(first + i) : 0;
      with_dtype(dtype, [&](auto zero) {
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          x[first + i] = first + i < valid ? convert<A>(*reinterpret_cast<const decltype(zero)*>(from + at[i])) : A(1);
      });
    }
  }
};

// The states of a result's threads, merged into that of its first one. All threads of the block take part; those of a
// result are neighbours (`inner`), or `apart` from each other.
template <class State>
__device__ __forceinline__ void merge_threads(State& state, int lane, int lanes, bool inner, int apart) {
  __shared__ State shared[kReduceThreads];
  const int t = int(threadIdx.x);
  int count = lanes;
  if (inner) {
    const int width = lanes < 32 ? lanes : 32;
    for (int d = width / 2; d > 0; d /= 2) {
      const State other = state.down(d, width);
      if (t % width < d) state.merge(other);
    }
    apart = width;
    count = lanes / width;
  }
  if (count == 1) return;
  shared[t] = state;
  __syncthreads();
  for (int d = count / 2; d > 0; d /= 2) {
    if (lane < d * (inner ? apart : 1) && (!inner || lane % apart == 0)) {
      state.merge(shared[t + d * apart]);
      shared[t] = state;
    }
    __syncthreads();
  }
}

// The first element of a result, which means of double are measured from: rounded, they would be off by the magnitude
// of the elements, and not of their deviation. Those of float are double anyway, and other results have none: 0.
template <class A, class Reducer>
constexpr bool kCentered = Partial<wide_t<A>, Reducer>::kCounts && sizeof(A) == 8;
template <class A, class Reducer>
__device__ __forceinline__ A center_of(const ReducePlan& p, int64_t kept) {
  A first[1] = {};
  if constexpr (kCentered<A, Reducer>) {
    const auto& in = p.args.in[0];
    const char* const from = static_cast<const char*>(in.data);
    if (p.args.reduced > 0)
      Step<A, 1>{1}.load(first, in.dtype, from + offset_of(kept, p.args.kept_dims, p.kept_shape, in.kept_strides), 0);
    if (!(first[0] - first[0] == 0)) first[0] = 0;  // not finite
  }
  return first[0];
}

template <class A, class Reducer>
__device__ __forceinline__ void store_result(const ReducePlan& p, int64_t kept,
                                             const Partial<wide_t<A>, Reducer>& partial, A center) {
  auto fields = partial.fields();
  if constexpr (kCentered<A, Reducer>) fields.item[0] += center;
  const auto result = Reducer::finish(fields, double(p.args.reduced), p.args.parameter);
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
__global__ void __launch_bounds__(kReduceThreads, sizeof(A) == 4 ? 3 : 1)
    reduce_first(Formula f, const __grid_constant__ ReducePlan p) {
  using W = wide_t<A>;
  using State = Partial<W, Reducer>;
  constexpr int kInputs = sizeof...(I), N = kItems<A, kInputs>;
  const int t = int(threadIdx.x), lanes = p.lanes_reduced;
  const int lane = p.inner ? t % lanes : t / p.lanes_kept;
  const int64_t kept = int64_t(blockIdx.x) * p.lanes_kept + (p.inner ? t / lanes : t % p.lanes_kept);
  const int64_t begin = int64_t(blockIdx.y) * p.split;
  const int64_t end = begin + p.split < p.args.reduced ? begin + p.split : p.args.reduced;

  State state = State::none();
  A center = 0;
  if (kept < p.args.kept) {
    center = center_of<A, Reducer>(p, kept);
    const int pack = 1 << p.pack_bits;
    const char* from[kInputs];  // the thread's first item of a step
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      const auto& in = p.args.in[k];
      from[k] = static_cast<const char*>(in.data);
      if (!in.data) continue;
      from[k] += offset_of(kept, p.args.kept_dims, p.kept_shape, in.kept_strides);
      if (p.args.reduced_dims == 1) from[k] += (begin + lane * pack) * in.reduced_strides[0];
    }
#pragma unroll 1
    for (int64_t at = begin; at < end; at += int64_t(lanes) * N) {
      // Item i of this thread is element at + position(i). Of the packs that are left it has every lanes-th; what is
      // left after them belongs to the thread after the last pack's.
      const auto position = [&](int i) { return int64_t((i >> p.pack_bits) * lanes + lane) * pack + (i & (pack - 1)); };
      const int64_t left = end - at;
      Step<A, N> step{N};
      if (left < lanes * N) {
        const int packs = int(left) >> p.pack_bits, mine = packs > lane ? (packs - lane - 1) / lanes + 1 : 0;
        step.valid = mine * pack + (packs % lanes == lane ? int(left) & (pack - 1) : 0);
        if (step.valid == 0) break;
      }
      A x[kInputs][N];
#pragma unroll
      for (int k = 0; k < kInputs; ++k) {
        const auto& in = p.args.in[k];
        if (!in.data) {
#pragma unroll
          for (int i = 0; i < N; ++i) x[k][i] = math::value<A>(in.immediate);
        } else if (p.args.reduced_dims > 1) {
          step.gather(x[k], in.dtype, from[k], [&](int i) {
            return offset_of(at + position(i), p.args.reduced_dims, p.reduced_shape, in.reduced_strides);
          });
        } else {
          const int64_t distance = int64_t(lanes) * pack * in.reduced_strides[0];
          if (pack > 1)
            step.load_packs(x[k], in.dtype, from[k], distance);
          else
            step.load(x[k], in.dtype, from[k], distance);
          from[k] += distance * (N >> p.pack_bits);
        }
      }
      A y[N];
#pragma unroll
      for (int i = 0; i < N; ++i) y[i] = i < step.valid ? f(x[I][i]...) - center : y[0];
      const auto block = Reducer::block(RegisterSource<A, N>{y, step.valid});
      math::Tuple<W, Reducer::partials> wide;
#pragma unroll
      for (int k = 0; k < Reducer::partials; ++k) wide.item[k] = W(block.item[k]);
      if constexpr (State::kIndexed) wide.item[1] = W(at + position(int(block.item[1])));
      state.merge({Reducer::widen(wide, double(step.valid), 0), step.valid});
    }
  }
  merge_threads(state, lane, lanes, p.inner, p.lanes_kept);
  if (lane != 0 || kept >= p.args.kept) return;
  if (p.splits == 1) return store_result<A, Reducer>(p, kept, state, center);
  const auto fields = state.fields();
  W* const to = static_cast<W*>(p.args.workspace) + blockIdx.y * p.args.kept + kept;
#pragma unroll
  for (int k = 0; k < State::kFields; ++k) to[k * p.splits * p.args.kept] = fields.item[k];
}

template <class A, class Reducer>
__global__ void __launch_bounds__(kReduceThreads) reduce_second(const __grid_constant__ ReducePlan p, int lanes) {
  using W = wide_t<A>;
  using State = Partial<W, Reducer>;
  constexpr int kInFlight = 4;
  const int lane = int(threadIdx.x) % lanes;
  const int64_t kept = int64_t(blockIdx.x) * (kReduceThreads / lanes) + int(threadIdx.x) / lanes;
  State state = State::none();
  if (kept < p.args.kept) {
    const W* const from = static_cast<const W*>(p.args.workspace) + kept;
#pragma unroll 1
    for (int64_t first = lane; first < p.splits; first += kInFlight * lanes) {
      State others[kInFlight];
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        const int64_t s = first + u * lanes;
        others[u] = State::none();
        if (s >= p.splits) continue;
        typename State::Fields fields;
#pragma unroll
        for (int k = 0; k < State::kFields; ++k) fields.item[k] = from[(k * p.splits + s) * p.args.kept];
        const int64_t left = p.args.reduced - s * p.split;
        others[u] = {fields, left < p.split ? left : p.split};
      }
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) state.merge(others[u]);
    }
  }
  merge_threads(state, lane, lanes, true, 1);
  if (lane == 0 && kept < p.args.kept) store_result<A, Reducer>(p, kept, state, center_of<A, Reducer>(p, kept));
}

// What float32 is reduced in: a product's roundings add up, so it is formed in double.
template <class Reducer>
using single_t = std::conditional_t<std::is_base_of_v<math::Prod, Reducer>, double, float>;

// The least power of 2 that is at least n, or `most`.
constexpr int power_of_two_from(int64_t n, int most) {
  int p = 1;
  while (p < n && p < most) p *= 2;
  return p;
}

// Who works on what; of the shape, the strides and the alignment only.
ReducePlan plan_reduction(const ReduceArgs& args, int items, int fields);

template <class A, class Reducer, class Formula, size_t... I>
Status reduce_typed(const ReduceArgs& args, const Formula& f) {
  const ReducePlan p = plan_reduction(args, kItems<A, sizeof...(I)>, Reducer::fields);
  const Status status = launch({ceil_div(args.kept, p.lanes_kept), kReduceThreads, args.stream, p.splits},
                               &reduce_first<A, Reducer, Formula, I...>, f, p);
  if (status != kSuccess || p.splits == 1) return status;
  const int lanes = power_of_two_from(p.splits, kReduceThreads);
  return launch({ceil_div(args.kept, kReduceThreads / lanes), kReduceThreads, args.stream}, &reduce_second<A, Reducer>,
                p, lanes);
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

template <class Reducer, class Formula = math::Identity, int Inputs = 1>
Status reduce(const ReduceArgs& args) {
  return reduce_indexed<false, Reducer, Formula>(args, std::make_index_sequence<Inputs>());
}
template <class Reducer, class Formula = math::Identity, int Inputs = 1>
Status reduce_with_integers(const ReduceArgs& args) {
  return reduce_indexed<true, Reducer, Formula>(args, std::make_index_sequence<Inputs>());
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
