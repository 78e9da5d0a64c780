// The row engine: rows<Formula>(args) runs Formula::run(row, args) for every row on the GPU. A formula names its
// streamed operands (a bit mask; the inputs are 0 to kInputs - 1), how many elements of a row a thread can hold
// (kItems), what its inputs are taken to be beyond the row's end (kFill), and whether they may be integers.
//
// Layout: a row belongs to a group of threads, in one of three ways, chosen by its length and strides.
//   warp    1 to 32 neighbours, several rows a block
//   block   a block of up to 512 threads
//   across  1 to 32 threads of a block of 512, whose neighbours work on neighbouring rows: these lie densely in memory
// A row is held or streamed. A held one is read once, into registers: up to 32 * kItems elements (float64: 32 * 8) in a
// warp, 512 * kItems in a block, 32 * 8 across. A streamed one is read anew for every pass, in pieces of a few elements
// a thread, all in flight together. What is written is written in the last pass, which goes through the pieces
// backwards: those that were read last are still in L2. Accesses are of 16 bytes where all streamed operands have one
// size of element and are dense and aligned. Dtypes are looked up at run time, once per piece; rows of integers are
// streamed.
// Numerics: a thread adds up its elements in four sums, those of streamed pieces in double (float64: with the rounding
// errors kept apart), and sums of a group are combined in a fixed order, so that a row's result depends on its values
// only, and the roundings of long rows do not add up.
// Parallel: rows are independent. A row's threads are as many however many rows there are.
#pragma once
#include <utility>

#include "row_group.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// A row as its formula sees it: pieces of Items elements a thread, a single one where it is held.
template <class A, Group G, bool Held, int Items, class Formula>
class Row : public RowGroup<G> {
 public:
  static constexpr bool kHeld = Held;
  using Piece = A[Formula::kInputs][Items];  // what lies beyond the row's end is kFill

  __device__ __forceinline__ Row(const RowsPlan& p, int64_t group) : RowGroup<G>(p, group) {
#pragma unroll
    for (int k = 0; k < Formula::kInputs; ++k) from_[k] = this->base(k);
    if constexpr (Held) load(0, x_);
  }

  // f(first element, piece) for every piece.
  template <bool Backwards = false, class F>
  __device__ __forceinline__ void pieces(const F& f) {
    if constexpr (Held) {
      f(int64_t(0), x_);
    } else {
      const int64_t n = this->length(), size = this->lanes * Items;
      const int64_t last = (n - 1) / size * size;
#pragma unroll 1
      for (int64_t i = 0; i < n; i += size) {
        const int64_t first = Backwards ? last - i : i;
        Piece x;
        load(first, x);
        f(first, x);
      }
    }
  }
  // The sum of f(i) for i below Items.
  template <class F>
  static __device__ __forceinline__ A sum_of_items(const F& f) {
    A part[4];
#pragma unroll
    for (int i = 0; i < Items; ++i) part[i % 4] = i < 4 ? f(i) : part[i % 4] + f(i);
    return (part[0] + part[2]) + (part[1] + part[3]);
  }
  // The sums of what f(element, x...) gives, a number or a Tuple, over the row and a few elements beyond its end.
  template <class F>
  __device__ __forceinline__ auto sum(const F& f) {
    using R = decltype(call(f, 0, std::declval<Piece&>(), 0));
    constexpr int kCount = output_count<R>;
    A piece[kCount];
    LongSum<A> all[kCount];
    pieces([&](int64_t first, Piece& x) {
      A part[kCount][4];
#pragma unroll
      for (int i = 0; i < Items; ++i) {
        const R r = call(f, first + element(i), x, i);
#pragma unroll
        for (int k = 0; k < kCount; ++k) part[k][i % 4] = i < 4 ? item(r, k) : part[k][i % 4] + item(r, k);
      }
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        piece[k] = (part[k][0] + part[k][2]) + (part[k][1] + part[k][3]);
        if constexpr (!Held) all[k].add(piece[k]);
      }
    });
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if constexpr (Held)
        piece[k] = this->combine(piece[k], Plus());
      else
        piece[k] = A(this->combine(all[k].value(), Plus()));
    }
    if constexpr (kCount == 1)
      return piece[0];
    else
      return R{{piece[0], piece[1]}};
  }
  // Element e of an operand = f(e, x...).
  template <class F>
  __device__ __forceinline__ void write(int operand, const F& f) {
    const auto& o = this->plan_.args.operand[operand];
    char* const to = this->base(operand);
    if (!this->active) return;
    pieces<true>([&](int64_t first, Piece& x) {
      A y[Items];
#pragma unroll
      for (int i = 0; i < Items; ++i) y[i] = call(f, first + element(i), x, i);
      with_float_dtype(o.dtype, [&](auto zero) { store(zero, to + first * o.element_stride, o, left(first), y); });
    });
  }

 private:
  A x_[Held ? Formula::kInputs : 1][Held ? Items : 1];
  const char* from_[Formula::kInputs];

  static constexpr bool kMayPack = G != Group::across;
  __device__ __forceinline__ int pack_bits() const { return kMayPack ? this->plan_.pack_bits : 0; }
  // How many elements of the piece there are.
  __device__ __forceinline__ int left(int64_t first) const {
    const int64_t n = this->length() - first;
    return Held || n < this->lanes * Items ? int(n) : this->lanes * Items;
  }
  // Where in a piece this thread's i-th element lies.
  __device__ __forceinline__ int element(int i) const {
    const int bits = pack_bits();
    return ((((i >> bits) * this->lanes) + this->lane) << bits) + (i & ((1 << bits) - 1));
  }
  template <class F>
  static __device__ __forceinline__ auto call(const F& f, int64_t e, const Piece& x, int i) {
    if constexpr (Formula::kInputs == 1)
      return f(e, x[0][i]);
    else
      return f(e, x[0][i], x[1][i]);
  }

  __device__ __forceinline__ void load(int64_t first, Piece& x) const {
#pragma unroll
    for (int k = 0; k < Formula::kInputs; ++k) {
      const auto& o = this->plan_.args.operand[k];
      const char* const from = from_[k] + first * o.element_stride;
      const int n = left(first);
      const auto load_as = [&](auto zero) {
        using T = decltype(zero);
        constexpr int kPack = 16 / int(sizeof(T));
        if (kMayPack && !std::is_integral_v<T> && pack_bits() > 0) {
#pragma unroll
          for (int q = 0; q < Items / kPack; ++q) {
            const int e = (q * this->lanes + this->lane) * kPack;
            Pack<T, kPack> pack{};
            if (e < n) pack = *reinterpret_cast<const Pack<T, kPack>*>(from + e * int(sizeof(T)));
#pragma unroll
            for (int j = 0; j < kPack; ++j) x[k][q * kPack + j] = e < n ? convert<A>(pack.v[j]) : A(Formula::kFill);
          }
        } else {
#pragma unroll
          for (int i = 0; i < Items; ++i) {
            const int e = i * this->lanes + this->lane;
            x[k][i] = e < n ? convert<A>(*reinterpret_cast<const T*>(from + e * o.element_stride)) : A(Formula::kFill);
          }
        }
      };
      if constexpr (Formula::kIntegers && !Held)
        with_dtype(o.dtype, load_as);
      else
        with_float_dtype(o.dtype, load_as);
    }
  }
  template <class T>
  __device__ __forceinline__ void store(T, char* to, const RowsArgs::Operand& o, int n, const A (&y)[Items]) const {
    constexpr int kPack = 16 / int(sizeof(T));
    if (kMayPack && pack_bits() > 0) {
#pragma unroll
      for (int q = 0; q < Items / kPack; ++q) {
        const int e = (q * this->lanes + this->lane) * kPack;
        Pack<T, kPack> pack;
#pragma unroll
        for (int j = 0; j < kPack; ++j) pack.v[j] = convert<T>(y[q * kPack + j]);
        if (e < n) *reinterpret_cast<Pack<T, kPack>*>(to + e * int(sizeof(T))) = pack;
      }
    } else {
#pragma unroll
      for (int i = 0; i < Items; ++i) {
        const int e = i * this->lanes + this->lane;
        if (e < n) *reinterpret_cast<T*>(to + e * o.element_stride) = convert<T>(y[i]);
      }
    }
  }
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
constexpr int64_t kMostSums = 4096;  // blocks that leave a RowSums in the workspace

// The block's sum, for thread 0.
__device__ __forceinline__ RowSums block_sum(const RowSums& sums) {
  __shared__ RowSums shared[kBlockThreads];
  shared[threadIdx.x] = sums;
  __syncthreads();
  for (int d = kBlockThreads / 2; d > 0; d /= 2) {
    if (int(threadIdx.x) < d && int(threadIdx.x) + d < int(blockDim.x))
      shared[threadIdx.x].add(shared[threadIdx.x + d]);
    __syncthreads();
  }
  return shared[0];
}
// Thread 0's sum to the block's place in the workspace.
__device__ __forceinline__ void store_sums(const RowsArgs& a, const RowSums& sums) {
  if (threadIdx.x == 0) static_cast<RowSums*>(a.workspace)[blockIdx.x] = sums;
}

// Of a block, at most. A streamed row in float32 leaves room for another block on the multiprocessor, as one works
// where the other waits; the formulas that add up over rows need more than the 64 registers that 512 threads leave.
template <Group G, bool Held, class Formula>
constexpr int most_threads() {
  if (G == Group::warp) return kRowThreads;
  return G == Group::block && !Held && Formula::kSums ? kBlockThreads * 3 / 4 : kBlockThreads;
}
template <class A, Group G, bool Held, int Items, class Formula>
__global__ void __launch_bounds__((most_threads<G, Held, Formula>()), Held || sizeof(A) == 8 ? 1 : 2)
    do_rows(Formula f, const __grid_constant__ RowsPlan p) {
  using ThisRow = Row<A, G, Held, Items, Formula>;
  if constexpr (Formula::kSums) {
    RowSums sums{0, 0, -1};
    const int64_t begin = int64_t(blockIdx.x) * p.groups_per_block;
    for (int64_t g = begin; g < begin + p.groups_per_block && g < p.groups; ++g) {
      ThisRow row(p, g);
      f.template run<A>(row, p.args, sums);
    }
    store_sums(p.args, G == Group::block ? sums : block_sum(sums));
  } else {
    ThisRow row(p, blockIdx.x);
    f.template run<A>(row, p.args);
  }
}

// How the streamed operands (a bit mask) lie.
struct RowLayout {
  bool packed;  // 16-byte accesses
  bool across;  // neighbouring rows are neighbours in memory
  bool floats;  // no integers among them
};
RowLayout row_layout(const RowsArgs& args, int streamed);

// `blocks` receives how many blocks ran.
template <class A, class Formula>
Status rows_typed(const RowsArgs& args, const Formula& f, int64_t* blocks = nullptr) {
  if (args.rows == 0 || (args.n == 0 && !Formula::kSums)) return kSuccess;
  RowsPlan p = plan_rows(args);
  const RowLayout layout = row_layout(args, Formula::kStreamed);
  if (!layout.floats && !Formula::kIntegers) return kUnsupported;
  while (layout.packed && size_of(args.operand[0].dtype) << p.pack_bits < 16) ++p.pack_bits;
  const auto run = [&](auto kernel, int64_t rows_per_group, int threads) {
    p.groups = ceil_div(args.rows, rows_per_group);
    p.groups_per_block = Formula::kSums ? ceil_div(p.groups, kMostSums) : 1;
    const int64_t count = ceil_div(p.groups, p.groups_per_block);
    if (blocks) *blocks = count;
    return launch({count, threads, args.stream}, kernel, f, p);
  };
  constexpr int kFew = 8, kMany = sizeof(A) == 8 ? kFew : Formula::kItems;
  constexpr int kStreamed = sizeof(A) == 8 || Formula::kInputs > 1 ? 8 : 16;
  const int64_t n = args.n;
  const auto lanes_bits = [&](int items) {
    int bits = 0;
    while (bits < kMostLanesBits && items << bits < n) ++bits;
    return bits;
  };
  if (layout.across) {
    const bool held = layout.floats && n <= kFew << kMostLanesBits;
    p.lanes_bits = held ? lanes_bits(kFew) : kMostLanesBits;
    const int64_t rows = kBlockThreads >> p.lanes_bits;
    return held ? run(&do_rows<A, Group::across, true, kFew, Formula>, rows, kBlockThreads)
                : run(&do_rows<A, Group::across, false, kFew, Formula>, rows, kBlockThreads);
  }
  if (!layout.floats || n > kMany * kBlockThreads)
    return run(&do_rows<A, Group::block, false, kStreamed, Formula>, 1, most_threads<Group::block, false, Formula>());
  if (n > kMany << kMostLanesBits)
    return run(&do_rows<A, Group::block, true, kMany, Formula>, 1, int(ceil_div(n, kMany * 32)) * 32);
  const bool few = n <= kFew << kMostLanesBits;
  p.lanes_bits = lanes_bits(few ? kFew : kMany);
  const int64_t rows = kRowThreads >> p.lanes_bits;
  return few ? run(&do_rows<A, Group::warp, true, kFew, Formula>, rows, kRowThreads)
             : run(&do_rows<A, Group::warp, true, kMany, Formula>, rows, kRowThreads);
}

template <class Formula>
Status rows(const RowsArgs& args, const Formula& f = Formula{}) {
  if (args.compute == Dtype::f32) return rows_typed<float>(args, f);
  if (args.compute == Dtype::f64) return rows_typed<double>(args, f);
  return kUnsupported;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
