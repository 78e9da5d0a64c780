// How slices of an operand come to shared memory, for the products of float32 and float64.
//
// Layout: a slice holds Depth elements along k of Rows rows (of a; of b: columns). Element (row, k) is at
// row * RowPitch + k * DepthPitch, one of which is 1, whatever the operand's strides; elements outside the matrix
// arrive as 0. Parallel: every thread of the block starts a few asynchronous copies of 16 bytes or of one element; the
// caller commits them as one group per slice.
#pragma once
#include "async_copy.cuh"
#include "gemm.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// How a panel is read: packs of 16 bytes along its rows or along k, or single elements.
enum class Reading { row_packs, rows, k_packs, k };

// KFastest: in shared memory.
template <class T, bool KFastest = false>
Reading reading_of(const void* data, int64_t row, int64_t k, const int64_t* batch, int batch_dims) {
  const bool packed = is_packed_panel(data, KFastest ? row : k, batch, batch_dims, 16);
  if constexpr (KFastest) return k == int64_t(sizeof(T)) && packed ? Reading::k_packs : Reading::k;
  if (row != int64_t(sizeof(T))) return Reading::k;
  return packed ? Reading::row_packs : Reading::rows;
}

// What one thread copies of a panel's slices.
template <class T, int Rows, int Depth, int RowPitch, int DepthPitch, int Threads>
class PanelLoader {
 public:
  __device__ __forceinline__ PanelLoader(const Panel& p, Reading reading, int64_t row, int64_t rows)
      : reading_(reading == Reading::row_packs && row % kPack != 0 ? Reading::rows : reading),
        whole_(rows - row >= Rows) {
    const int t = int(threadIdx.x);
    int r = 0;
    switch (reading_) {
      case Reading::row_packs:
        r = t % (Rows / kPack) * kPack, depth_ = t / (Rows / kPack);
        break;
      case Reading::rows:
        r = t % Rows, depth_ = t / Rows;
        break;
      case Reading::k_packs:
        r = t / (Depth / kPack), depth_ = t % (Depth / kPack) * kPack;
        break;
      case Reading::k:
        r = t / kSector, depth_ = t % kSector;
    }
    rows_left_ = (whole_ ? Rows : int(rows - row)) - r;
    to_ = r * RowPitch + depth_ * DepthPitch;
    from_ = p.data + (row + r) * p.row + depth_ * p.k;
  }
  // Starts the copies of the next slice, of which `depth` elements along k exist. The panel with its strides is a
  // kernel parameter: passed anew, it takes no registers. Its data must be readable, no more.
  __device__ __forceinline__ void load(T* to, int depth, const Panel& p) {
    to += to_;
    if (RowPitch == 1 && reading_ == Reading::row_packs)
      along_rows<kPack>(to, depth, p);
    else if (DepthPitch == 1 && reading_ == Reading::k_packs)
      copy<1, kPack, Rows * Depth / kPack / Threads, Threads / (Depth / kPack), 0>(to, depth, p);
    else if (RowPitch == 1 && reading_ == Reading::rows)
      along_rows<1>(to, depth, p);
    else
      copy<1, 1, Rows * kSector / Threads, Threads / kSector, kSector>(to, depth, p);
    from_ += Depth * p.k;
  }

 private:
  // Elements of 32 bytes, what one access to memory brings: along k, a warp reads as many for each of some rows.
  static constexpr int kPack = 16 / sizeof(T), kSector = 32 / sizeof(T);

  template <int Elements>
  __device__ __forceinline__ void along_rows(T* to, int depth, const Panel& p) const {
    constexpr int kWide = Rows / Elements;
    if constexpr (kWide > Threads)
      copy<Elements, 1, kWide / Threads, Elements * Threads, 1>(to, depth, p);
    else
      copy<Elements, 1, 1, 0, Threads / kWide>(to, depth, p);
  }
  // Copies at PerPass places, RowStep rows apart, then at the same DepthStep further along k, and so on.
  template <int AlongRows, int AlongK, int PerPass, int RowStep, int DepthStep>
  __device__ __forceinline__ void copy(T* to, int depth, const Panel& p) const {
    constexpr int kElements = AlongRows * AlongK, kCopies = Rows * Depth / kElements / Threads;
    constexpr int kBytes = kElements * int(sizeof(T));
    static_assert(kCopies * kElements * Threads == Rows * Depth && kCopies % PerPass == 0);
    if (whole_ && depth == Depth) {
      const char* line = from_;
#pragma unroll
      for (int j = 0; j < kCopies / PerPass; ++j, line += DepthStep * p.k) {
        const char* from = line;
#pragma unroll
        for (int i = 0; i < PerPass; ++i, from += RowStep * p.row)
          copy_async<kBytes>(to + i * RowStep * RowPitch + j * DepthStep * DepthPitch, from, kBytes);
      }
      return;
    }
    // Loops, which the compiler leaves out of the way of whole slices: unrolled, their instructions were predicated.
    const char* line = from_;
#pragma unroll 1
    for (int j = 0; j < kCopies / PerPass; ++j, line += DepthStep * p.k) {
      const char* from = line;
#pragma unroll 1
      for (int i = 0; i < PerPass; ++i, from += RowStep * p.row) {
        const int r = rows_left_ - i * RowStep, d = depth - depth_ - j * DepthStep, left = AlongK > 1 ? d : r;
        const int valid = r <= 0 || d <= 0 ? 0 : (left < kElements ? left : kElements) * int(sizeof(T));
        copy_async<kBytes>(to + i * RowStep * RowPitch + j * DepthStep * DepthPitch, valid ? from : p.data, valid);
      }
    }
  }

  Reading reading_;
  bool whole_;  // all rows exist
  const char* from_;
  int to_, depth_, rows_left_;
};

// The slices of both operands, a ring of S::kStages of them in shared memory: a's panel, then b's.
template <class T, class S>
class SliceRing {
 public:
  __device__ __forceinline__ SliceRing(const GemmArgs& g, const Matrices& at, Reading read_a, Reading read_b,
                                       int64_t m0, int64_t n0)
      : a_({at.a, g.a_row, g.a_col}, read_a, m0, g.m), b_({at.b, g.b_col, g.b_row}, read_b, n0, g.n), left_(g.k) {
    for (int s = 0; s < S::kStages - 1; ++s) load(g, s);
    arrive();
  }
  // The slice to work on, the first one to begin with.
  __device__ __forceinline__ const T* slice() const {
    return reinterpret_cast<const T*>(dynamic_shared()) + stage_ * S::kStage;
  }
  __device__ __forceinline__ bool more() const { return left_ > -(S::kStages - 1) * S::kDepth; }
  // Has the last stage filled, which all have left.
  __device__ __forceinline__ void load_ahead(const GemmArgs& g) {
    load(g, stage_ == 0 ? S::kStages - 1 : stage_ - 1);
    stage_ = stage_ == S::kStages - 1 ? 0 : stage_ + 1;
  }
  // Waits until slice() is there for all, and all have left the one before: it is filled next.
  __device__ __forceinline__ void arrive() {
    copy_async_wait<S::kStages - 2>();
    __syncthreads();
  }

 private:
  __device__ __forceinline__ void load(const GemmArgs& g, int stage) {
    if (left_ > 0) {
      T* const to = reinterpret_cast<T*>(dynamic_shared()) + stage * S::kStage;
      const int depth = left_ < S::kDepth ? int(left_) : S::kDepth;
      a_.load(to, depth, {static_cast<const char*>(g.a), g.a_row, g.a_col});
      b_.load(to + S::kPanelA, depth, {static_cast<const char*>(g.b), g.b_col, g.b_row});
    }
    left_ -= S::kDepth;
    copy_async_commit();  // an empty group too: waiting counts groups
  }

  PanelLoader<T, S::kTileM, S::kDepth, S::kRowA, S::kDepthA, S::kThreads> a_;
  PanelLoader<T, S::kTileN, S::kDepth, S::kRowB, S::kDepthB, S::kThreads> b_;
  int64_t left_;  // along k, to be loaded; below 0 once empty slices are
  int stage_ = 0;
};

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
