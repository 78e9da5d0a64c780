// The row engine: rows<Formula>(args) runs Formula::run(row, args) for every row on the GPU. A formula names its
// streamed operands (a bit mask; the inputs are 0 to kInputs - 1) and how many elements of a row a thread can hold
// (kItems).
//
// Layout: a row belongs to a group of threads, in one of these ways, chosen by its length and strides.
//   HeldRow, in a warp     1 to 32 neighbours, up to kItems (float64: 8) elements each in registers: several rows a
//   block HeldRow, in a block    up to 512 threads, as many elements each in registers StreamedRow, along     a block
//   reads the row anew for every pass StreamedRow, across    neighbours work on neighbouring rows, which lie densely in
//   memory; 8 threads a row
// So a row of up to 16384 (4096) elements is read once and written once. Accesses are of 16 bytes where all streamed
// operands have one size of element and are dense and aligned. Dtypes are looked up at run time, once per pass; rows of
// integers are streamed.
// Numerics: sums of a group are combined in a fixed order, so that a row's result depends on its values only.
// Parallel: rows are independent.
#pragma once
#include "launch.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

enum class Group { warp, block, across };

constexpr int kRowThreads = 256;    // of a block whose groups are not blocks themselves
constexpr int kBlockThreads = 512;  // at most, of a block that is a group
constexpr int kAcrossRows = 32;

struct RowsPlan {
  RowsArgs args;
  int lanes;                         // threads of a group
  int pack;                          // elements of one access
  int64_t groups, groups_per_block;  // of rows; a block does several where it adds up something of theirs
  WideDivider shape[kMaxDims];
};

struct Plus {
  template <class A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return a + b;
  }
};
struct Max {
  template <class A>
  __device__ __forceinline__ A operator()(A a, A b) const {
    return math::max(a, b);
  }
};

// What held and streamed rows share: whose row it is, and how its threads combine values.
template <class A, Group G>
class RowGroup {
 public:
  int64_t row;
  bool active;  // otherwise a row beyond the last: the thread goes along, and writes nothing
  int lane, lanes;

  __device__ __forceinline__ RowGroup(const RowsPlan& p, int64_t group) : plan_(p) {
    const int t = int(threadIdx.x);
    lanes = G == Group::block ? int(blockDim.x) : p.lanes;
    lane = G == Group::warp ? t & (lanes - 1) : G == Group::block ? t : t / kAcrossRows;
    const int64_t first = group * (G == Group::warp ? kRowThreads / lanes : G == Group::block ? 1 : kAcrossRows);
    row = first + (G == Group::warp ? t / lanes : G == Group::block ? 0 : t % kAcrossRows);
    active = row < p.args.rows;
    if (!active) row = p.args.rows - 1;
  }
  __device__ __forceinline__ bool leads() const { return active && lane == 0; }
  __device__ __forceinline__ int64_t length() const { return plan_.args.n; }

  // The row's first element of an operand.
  __device__ __forceinline__ char* base(int operand) const {
    const auto& o = plan_.args.operand[operand];
    char* p = static_cast<char*>(o.data);
    int64_t i = row;
#pragma unroll 1
    for (int d = 0; d < plan_.args.ndim; ++d) {
      const int64_t next = d + 1 < plan_.args.ndim ? int64_t(plan_.shape[d].divide(uint64_t(i))) : 0;
      p += (i - next * int64_t(plan_.shape[d].divisor)) * o.row_strides[d];
      i = next;
    }
    return p;
  }

  // op over v of all threads of the row, the same for each of them.
  template <class Op>
  __device__ __forceinline__ A combine(A v, Op op) const {
    if constexpr (G == Group::across) {
      __shared__ A partial[kRowThreads];
      __syncthreads();  // all have read the previous results
      partial[threadIdx.x] = v;
      __syncthreads();
      const int column = int(threadIdx.x) % kAcrossRows;
      v = partial[column];
      for (int l = 1; l < lanes; ++l) v = op(v, partial[l * kAcrossRows + column]);
      return v;
    } else {
      const int width = G == Group::warp ? lanes : 32;
      for (int d = width / 2; d > 0; d /= 2) v = op(v, __shfl_xor_sync(kFullWarp, v, d));
      if constexpr (G == Group::block) {
        __shared__ A partial[32];
        __syncthreads();  // all have read the previous results
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
        __syncthreads();
        v = partial[0];
        for (int w = 1; w < int(blockDim.x) / 32; ++w) v = op(v, partial[w]);
      }
      return v;
    }
  }

 protected:
  const RowsPlan& plan_;
};

// A row whose streamed operands, 0 to Inputs - 1, are read once, into registers.
template <class A, Group G, int Inputs, int Items>
class HeldRow : public RowGroup<A, G> {
 public:
  static constexpr bool kHeld = true;

  __device__ __forceinline__ HeldRow(const RowsPlan& p, int64_t group) : RowGroup<A, G>(p, group), pack_(p.pack) {
    const int n = short_length();
#pragma unroll
    for (int k = 0; k < Inputs; ++k) {
      const auto& o = p.args.operand[k];
      const char* from = this->base(k);
      with_float_dtype(o.dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int kPack = 16 / int(sizeof(T));
        if (pack_ > 1) {
#pragma unroll
          for (int q = 0; q < Items / kPack; ++q) {
            const int e = (q * this->lanes + this->lane) * kPack;
            Pack<T, kPack> x{};
            if (e < n) x = *reinterpret_cast<const Pack<T, kPack>*>(from + e * int(sizeof(T)));
#pragma unroll
            for (int j = 0; j < kPack; ++j) x_[k][q * kPack + j] = convert<A>(x.v[j]);
          }
        } else {
#pragma unroll
          for (int i = 0; i < Items; ++i) {
            const int e = i * this->lanes + this->lane;
            x_[k][i] = e < n ? convert<A>(*reinterpret_cast<const T*>(from + e * o.element_stride)) : A(0);
          }
        }
      });
    }
  }

  // f(element, x...) for this thread's elements.
  template <class F>
  __device__ __forceinline__ void each(const F& f) {
#pragma unroll
    for (int i = 0; i < Items; ++i) {
      const int e = element(i);
      if (e < short_length()) call(f, e, i);
    }
  }
  // Element e of an operand = f(e, x...).
  template <class F>
  __device__ __forceinline__ void write(int operand, const F& f) {
    const auto& o = this->plan_.args.operand[operand];
    char* const to = this->base(operand);
    if (!this->active) return;
    A y[Items];
#pragma unroll
    for (int i = 0; i < Items; ++i) y[i] = call(f, element(i), i);
    with_float_dtype(o.dtype, [&](auto zero) {
      using T = decltype(zero);
      constexpr int kPack = 16 / int(sizeof(T));
      if (pack_ > 1) {
#pragma unroll
        for (int q = 0; q < Items / kPack; ++q) {
          const int e = (q * this->lanes + this->lane) * kPack;
          Pack<T, kPack> pack;
#pragma unroll
          for (int j = 0; j < kPack; ++j) pack.v[j] = convert<T>(y[q * kPack + j]);
          if (e < short_length()) *reinterpret_cast<Pack<T, kPack>*>(to + e * int(sizeof(T))) = pack;
        }
      } else {
#pragma unroll
        for (int i = 0; i < Items; ++i) {
          const int e = i * this->lanes + this->lane;
          if (e < short_length()) *reinterpret_cast<T*>(to + e * o.element_stride) = convert<T>(y[i]);
        }
      }
    });
  }

 private:
  A x_[Inputs][Items];
  int pack_;

  __device__ __forceinline__ int short_length() const { return int(this->length()); }
  __device__ __forceinline__ int element(int i) const {
    return (i / pack_ * this->lanes + this->lane) * pack_ + i % pack_;
  }
  template <class F>
  __device__ __forceinline__ auto call(const F& f, int64_t e, int i) {
    if constexpr (Inputs == 1)
      return f(e, x_[0][i]);
    else if constexpr (Inputs == 2)
      return f(e, x_[0][i], x_[1][i]);
    else
      return f(e, x_[0][i], x_[1][i], x_[2][i]);
  }
};

// A row that is read again for every pass, a few elements in flight.
template <class A, Group G, int Inputs>
class StreamedRow : public RowGroup<A, G> {
 public:
  static constexpr bool kHeld = false;

  __device__ __forceinline__ StreamedRow(const RowsPlan& p, int64_t group) : RowGroup<A, G>(p, group) {
#pragma unroll
    for (int k = 0; k < Inputs; ++k) from_[k] = this->base(k);
  }
  template <class F>
  __device__ __forceinline__ void each(const F& f) {
    constexpr int kInFlight = 4;
#pragma unroll 1
    for (int64_t first = this->lane; first < this->length(); first += int64_t(this->lanes) * kInFlight) {
      A x[Inputs][kInFlight];
#pragma unroll
      for (int k = 0; k < Inputs; ++k) {
        const auto& o = this->plan_.args.operand[k];
        with_dtype(o.dtype, [&](auto zero) {
#pragma unroll
          for (int u = 0; u < kInFlight; ++u) {
            const int64_t e = first + int64_t(u) * this->lanes;
            x[k][u] = e < this->length()
                          ? convert<A>(*reinterpret_cast<const decltype(zero)*>(from_[k] + e * o.element_stride))
                          : A(0);
          }
        });
      }
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) {
        const int64_t e = first + int64_t(u) * this->lanes;
        if (e >= this->length()) continue;
        if constexpr (Inputs == 1)
          f(e, x[0][u]);
        else if constexpr (Inputs == 2)
          f(e, x[0][u], x[1][u]);
        else
          f(e, x[0][u], x[1][u], x[2][u]);
      }
    }
  }
  template <class F>
  __device__ __forceinline__ void write(int operand, const F& f) {
    const auto& o = this->plan_.args.operand[operand];
    char* const to = this->base(operand);
    if (!this->active) return;
    each([&](int64_t e, auto... x) { store_as(o.dtype, to + e * o.element_stride, f(e, x...)); });
  }

 private:
  const char* from_[Inputs];
};

// What a formula with kSums adds up over all rows; see class_loss.cuh.
struct RowSums {
  double loss, weight;
  int64_t bad_row;  // the first one, or -1
  __device__ __forceinline__ void add(const RowSums& other) {
    loss += other.loss;
    weight += other.weight;
    if (bad_row < 0 || (other.bad_row >= 0 && other.bad_row < bad_row)) bad_row = other.bad_row;
  }
};
constexpr int64_t kMostSums = 1024;  // blocks that leave a RowSums in the workspace

// The block's sum, thread after thread, to its place in the workspace.
__device__ __forceinline__ void store_sums(const RowsArgs& a, const RowSums& sums) {
  __shared__ RowSums shared[kBlockThreads];
  shared[threadIdx.x] = sums;
  __syncthreads();
  for (int d = kBlockThreads / 2; d > 0; d /= 2) {
    if (int(threadIdx.x) < d && int(threadIdx.x) + d < int(blockDim.x))
      shared[threadIdx.x].add(shared[threadIdx.x + d]);
    __syncthreads();
  }
  if (threadIdx.x == 0) static_cast<RowSums*>(a.workspace)[blockIdx.x] = shared[0];
}

template <class A, class Row, class Formula>
__device__ __forceinline__ void do_rows(const Formula& f, const RowsPlan& p) {
  if constexpr (Formula::kSums) {
    RowSums sums{0, 0, -1};
    const int64_t begin = int64_t(blockIdx.x) * p.groups_per_block;
    for (int64_t g = begin; g < begin + p.groups_per_block && g < p.groups; ++g) {
      Row row(p, g);
      f.template run<A>(row, p.args, sums);
    }
    store_sums(p.args, sums);
  } else {
    Row row(p, blockIdx.x);
    f.template run<A>(row, p.args);
  }
}
template <class A, Group G, class Formula, int Items>
__global__ void __launch_bounds__(G == Group::block ? kBlockThreads : kRowThreads, 1)
    rows_held(Formula f, const __grid_constant__ RowsPlan p) {
  do_rows<A, HeldRow<A, G, Formula::kInputs, Items>>(f, p);
}
template <class A, Group G, class Formula>
__global__ void __launch_bounds__(G == Group::block ? kBlockThreads : kRowThreads, 1)
    rows_streamed(Formula f, const __grid_constant__ RowsPlan p) {
  do_rows<A, StreamedRow<A, G, Formula::kInputs>>(f, p);
}

// How the streamed operands (a bit mask) lie.
struct RowLayout {
  bool packed;  // 16-byte accesses
  bool across;  // neighbouring rows are neighbours in memory
  bool floats;  // no integers among them
};
RowLayout row_layout(const RowsArgs& args, int streamed);
RowsPlan plan_rows(const RowsArgs& args);

// `blocks` receives how many blocks ran.
template <class A, class Formula>
Status rows_typed(const RowsArgs& args, const Formula& f, int64_t* blocks = nullptr) {
  if (args.rows == 0 || (args.n == 0 && !Formula::kSums)) return kSuccess;
  RowsPlan p = plan_rows(args);
  const RowLayout layout = row_layout(args, Formula::kStreamed);
  p.pack = layout.packed ? int(16 / size_of(args.operand[0].dtype)) : 1;
  const int64_t n = args.n;
  const auto run = [&](auto kernel, int64_t rows_per_group, int threads) {
    p.groups = ceil_div(args.rows, rows_per_group);
    p.groups_per_block = Formula::kSums ? ceil_div(p.groups, kMostSums) : 1;
    const int64_t count = ceil_div(p.groups, p.groups_per_block);
    if (blocks) *blocks = count;
    return launch({count, threads, args.stream}, kernel, f, p);
  };
  if (layout.across && (n > 32 || !layout.floats)) {
    p.lanes = kRowThreads / kAcrossRows;
    return run(&rows_streamed<A, Group::across, Formula>, kAcrossRows, kRowThreads);
  }
  constexpr int kFew = 8, kMany = sizeof(A) == 8 ? kFew : Formula::kItems;
  if (!layout.floats || n > kMany * kBlockThreads)
    return run(&rows_streamed<A, Group::block, Formula>, 1, kBlockThreads);
  if (n > 32 * kMany) return run(&rows_held<A, Group::block, Formula, kMany>, 1, int(ceil_div(n, kMany * 32)) * 32);
  const int items = n <= 32 * kFew ? kFew : kMany;
  for (p.lanes = 1; p.lanes * items < n;) p.lanes *= 2;
  const int64_t rows = kRowThreads / p.lanes;
  return items == kFew ? run(&rows_held<A, Group::warp, Formula, kFew>, rows, kRowThreads)
                       : run(&rows_held<A, Group::warp, Formula, kMany>, rows, kRowThreads);
}

template <class Formula>
Status rows(const RowsArgs& args, const Formula& f = Formula{}) {
  if (args.compute == Dtype::f32) return rows_typed<float>(args, f);
  if (args.compute == Dtype::f64) return rows_typed<double>(args, f);
  return kUnsupported;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
