// The elementwise engine: map<Inputs, Formula>(args) on the GPU. Element i of each output = formula(element i of each
// input), with any mix of dtypes, strides, broadcasting and constants.
//
// Layout: map_packed where all operands are dense, aligned and of one dtype, or one element or a constant for all: 16
// bytes an access, one per thread and operand: two were 3% slower on an H200. map_strided for the rest: dtypes are
// looked up at run time, offsets are 32-bit and found by multiplication; what 32 bits cannot index is cut in halves on
// the host first. Numerics: the arithmetic of args.compute, whatever the path. Parallel: one thread per element or
// pack; elements are independent.
#pragma once
#include <utility>

#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

constexpr int kMapThreads = 256;

template <class T, class Out, int Outputs, int Inputs>
struct PackedOperands {
  int64_t n;
  Out* out[Outputs];
  struct {
    const T* data;  // null for a constant
    bool broadcast;
    arithmetic_t<T> constant;
  } in[Inputs];
};

template <class T, class Out, class Formula, int Outputs, size_t... I>
__global__ void __launch_bounds__(kMapThreads)
    map_packed(Formula f, const __grid_constant__ PackedOperands<T, Out, Outputs, sizeof...(I)> a) {
  using A = arithmetic_t<T>;
  constexpr int kInputs = sizeof...(I), kPack = 16 / sizeof(T), kTile = kMapThreads * kPack;
  const int64_t tile = int64_t(blockIdx.x) * kTile;
  const int t = int(threadIdx.x);
  if (tile + kTile <= a.n) {
    Pack<T, kPack> x[kInputs];
    A constant[kInputs];
    bool varies[kInputs];
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      varies[k] = a.in[k].data && !a.in[k].broadcast;
      constant[k] = a.in[k].data && a.in[k].broadcast ? convert<A>(*a.in[k].data) : a.in[k].constant;
      if (varies[k]) x[k] = *reinterpret_cast<const Pack<T, kPack>*>(a.in[k].data + tile + t * kPack);
    }
    Pack<Out, kPack> y[Outputs];
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const auto r = f((varies[I] ? convert<A>(x[I].v[j]) : constant[I])...);
#pragma unroll
      for (int o = 0; o < Outputs; ++o) y[o].v[j] = convert<Out>(item(r, o));
    }
#pragma unroll
    for (int o = 0; o < Outputs; ++o) *reinterpret_cast<Pack<Out, kPack>*>(a.out[o] + tile + t * kPack) = y[o];
  } else {
#pragma unroll 1
    for (int64_t i = tile + t; i < a.n; i += kMapThreads) {
      const auto r = f((a.in[I].data ? convert<A>(a.in[I].data[a.in[I].broadcast ? 0 : i]) : a.in[I].constant)...);
#pragma unroll
      for (int o = 0; o < Outputs; ++o) a.out[o][i] = convert<Out>(item(r, o));
    }
  }
}

template <class A, int Operands>
struct StridedOperands {
  int ndim;
  unsigned n;
  Divider shape[kMaxDims];
  struct {
    char* data;
    Dtype dtype;
    A constant;
    int strides[kMaxDims];
  } operand[Operands];
};

template <class A, class Formula, int Outputs, size_t... I>
__global__ void __launch_bounds__(kMapThreads)
    map_strided(Formula f, const __grid_constant__ StridedOperands<A, Outputs + int(sizeof...(I))> a) {
  constexpr int kInputs = sizeof...(I), kOperands = Outputs + kInputs, kInFlight = 4;
  const unsigned first = blockIdx.x * (kMapThreads * kInFlight) + threadIdx.x;
  unsigned rest[kInFlight];
  int offset[kOperands][kInFlight] = {};
#pragma unroll
  for (int u = 0; u < kInFlight; ++u) {
    rest[u] = first + u * kMapThreads;
    if (rest[u] >= a.n) rest[u] = a.n - 1;  // loaded, not stored
  }
#pragma unroll 1
  for (int d = 0; d < a.ndim; ++d) {
    const Divider shape = a.shape[d];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const unsigned next = d + 1 < a.ndim ? shape.divide(rest[u]) : 0;
      const int index = int(rest[u] - next * shape.divisor);
      rest[u] = next;
#pragma unroll
      for (int k = 0; k < kOperands; ++k) offset[k][u] += index * a.operand[k].strides[d];
    }
  }
  A x[kInputs][kInFlight];
#pragma unroll
  for (int k = 0; k < kInputs; ++k) {
    const auto& operand = a.operand[Outputs + k];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) x[k][u] = operand.constant;
    if (operand.data)
      with_dtype(operand.dtype, [&](auto zero) {
#pragma unroll
        for (int u = 0; u < kInFlight; ++u)
          x[k][u] = convert<A>(*reinterpret_cast<const decltype(zero)*>(operand.data + offset[Outputs + k][u]));
      });
  }
  A y[Outputs][kInFlight];
#pragma unroll
  for (int u = 0; u < kInFlight; ++u) {
    const auto r = f(x[I][u]...);
#pragma unroll
    for (int o = 0; o < Outputs; ++o) y[o][u] = item(r, o);
  }
#pragma unroll
  for (int o = 0; o < Outputs; ++o)
    with_dtype(a.operand[o].dtype, [&](auto zero) {
#pragma unroll
      for (int u = 0; u < kInFlight; ++u)
        if (first + u * kMapThreads < a.n)
          *reinterpret_cast<decltype(zero)*>(a.operand[o].data + offset[o][u]) = convert<decltype(zero)>(y[o][u]);
    });
}

// Dense operands of T, or one element for all.
template <class T, class Out>
bool is_packed(const MapArgs& a) {
  if (a.ndim != 1) return false;
  for (int k = 0; k < a.operands; ++k) {
    const Operand& o = a.operand[k];
    if (!o.data) continue;
    const bool output = k < a.outputs;
    if (o.dtype != (output ? dtype_of<Out>() : dtype_of<T>())) return false;
    if (!output && o.strides[0] == 0) continue;
    if (o.strides[0] != size_of(o.dtype) ||
        !is_aligned(o.data, output ? 16 / int64_t(sizeof(T)) * int64_t(sizeof(Out)) : 16))
      return false;
  }
  return true;
}

template <class T, class Out, class Formula, int Outputs, size_t... I>
Status launch_packed(const MapArgs& a, const Formula& f) {
  PackedOperands<T, Out, Outputs, sizeof...(I)> p;
  p.n = a.numel;
  for (int o = 0; o < Outputs; ++o) p.out[o] = static_cast<Out*>(a.operand[o].data);
  for (int k = 0; k < int(sizeof...(I)); ++k) {
    const Operand& o = a.operand[Outputs + k];
    p.in[k] = {static_cast<const T*>(o.data), o.strides[0] == 0, math::value<arithmetic_t<T>>(o.immediate)};
  }
  constexpr int64_t kTile = kMapThreads * (16 / int64_t(sizeof(T)));
  return launch({ceil_div(a.numel, kTile), kMapThreads, a.stream}, &map_packed<T, Out, Formula, Outputs, I...>, f, p);
}

template <class A, class Formula, int Outputs, size_t... I>
Status launch_strided(const MapArgs& a, const Formula& f) {
  constexpr int kOperands = Outputs + int(sizeof...(I));
  constexpr int64_t kLimit = 0x7fffffff - 4 * kMapThreads;
  const auto stride = [&](int k, int d) { return a.operand[k].data ? a.operand[k].strides[d] : 0; };
  int64_t largest = a.numel > kLimit ? a.numel : 0;
  int cut = 0;
  for (int k = 0; k < kOperands; ++k) {
    int64_t extent = 0;
    for (int d = 0; d < a.ndim; ++d) extent += (a.shape[d] - 1) * stride(k, d);
    if (extent > kLimit && extent > largest) largest = extent;
  }
  if (largest > 0) {
    // The dimension that spans most, in elements or in any operand's bytes, is cut in two.
    int64_t widest = -1;
    for (int d = 0; d < a.ndim; ++d) {
      if (a.shape[d] < 2) continue;
      int64_t span = a.shape[d];
      for (int k = 0; k < kOperands; ++k)
        if ((a.shape[d] - 1) * stride(k, d) > span) span = (a.shape[d] - 1) * stride(k, d);
      if (span > widest) widest = span, cut = d;
    }
    MapArgs half = a;
    const int64_t count = a.shape[cut], low = count / 2;
    half.shape[cut] = low;
    half.numel = a.numel / count * low;
    const Status status = launch_strided<A, Formula, Outputs, I...>(half, f);
    if (status != kSuccess) return status;
    half.shape[cut] = count - low;
    half.numel = a.numel / count * (count - low);
    for (int k = 0; k < kOperands; ++k)
      if (half.operand[k].data)
        half.operand[k].data = static_cast<char*>(half.operand[k].data) + low * half.operand[k].strides[cut];
    return launch_strided<A, Formula, Outputs, I...>(half, f);
  }
  StridedOperands<A, kOperands> s{};
  s.ndim = a.ndim;
  s.n = unsigned(a.numel);
  for (int d = 0; d < a.ndim; ++d) s.shape[d] = Divider(a.shape[d]);
  for (int k = 0; k < kOperands; ++k) {
    const Operand& o = a.operand[k];
    auto& to = s.operand[k];
    to.data = static_cast<char*>(o.data);
    to.dtype = o.dtype;
    to.constant = math::value<A>(o.immediate);
    for (int d = 0; d < a.ndim; ++d) to.strides[d] = int(stride(k, d));
  }
  return launch({ceil_div(a.numel, 4 * kMapThreads), kMapThreads, a.stream}, &map_strided<A, Formula, Outputs, I...>, f,
                s);
}

enum class Results { same, boolean };  // the outputs' usual dtype: the inputs', or bool

template <class T, Results R, class Formula, size_t... I>
Status map_typed(const MapArgs& a, const Formula& f) {
  using A = arithmetic_t<T>;
  using Out = std::conditional_t<R == Results::boolean, bool, T>;
  constexpr int kOutputs = output_count<decltype(f(((void)I, A())...))>;
  if (is_packed<T, Out>(a)) return launch_packed<T, Out, Formula, kOutputs, I...>(a, f);
  if constexpr (std::is_same_v<T, float>) {
    if (is_packed<bf16, std::conditional_t<R == Results::boolean, bool, bf16>>(a))
      return map_typed<bf16, R, Formula, I...>(a, f);
    if (is_packed<f16, std::conditional_t<R == Results::boolean, bool, f16>>(a))
      return map_typed<f16, R, Formula, I...>(a, f);
  }
  return launch_strided<A, Formula, kOutputs, I...>(a, f);
}

template <bool Integers, Results R, class Formula, size_t... I>
Status map_indexed(const MapArgs& a, std::index_sequence<I...>) {
  const Formula f = make_formula<Formula>(a.parameter);
  switch (a.compute) {
    case Dtype::f32:
      return map_typed<float, R, Formula, I...>(a, f);
    case Dtype::f64:
      return map_typed<double, R, Formula, I...>(a, f);
    case Dtype::i32:
      if constexpr (Integers) return map_typed<int32_t, R, Formula, I...>(a, f);
      break;
    case Dtype::i64:
      if constexpr (Integers) return map_typed<int64_t, R, Formula, I...>(a, f);
      break;
    case Dtype::i16:  // computed in 32 bits and truncated: the same modulo 2^16 and 2^8
    case Dtype::i8:
    case Dtype::u8:
      if constexpr (Integers) return launch_strided<int32_t, Formula, 1, I...>(a, f);
      break;
    default:
      break;
  }
  return kUnsupported;
}

template <int Inputs, class Formula>
Status map(const MapArgs& a) {
  return map_indexed<false, Results::same, Formula>(a, std::make_index_sequence<Inputs>());
}
template <int Inputs, class Formula>
Status map_with_integers(const MapArgs& a) {
  return map_indexed<true, Results::same, Formula>(a, std::make_index_sequence<Inputs>());
}
template <int Inputs, class Formula>
Status map_comparison(const MapArgs& a) {
  return map_indexed<true, Results::boolean, Formula>(a, std::make_index_sequence<Inputs>());
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
