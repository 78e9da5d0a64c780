// The driver of the reduce engine; see reduce.h.
#include "reduce.h"

#include <cstdlib>

#include "convert.h"
#include "parallel.h"
#include "reduce_plan.h"
#include "stream.h"
#include "transpose.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

// Where the gradient of in[0] goes: into place, or to a block in L1 that is converted or streamed when a run is done.
template <class T>
class GradientWriter {
 public:
  GradientWriter(const ReduceArgs& a, const void* formula)
      : a_(a), formula_(formula), item_(size_of(a.gradient.dtype)), streamed_(a.reduced * item_ >= kStreamFrom) {}
  ~GradientWriter() {
    if (streamed_) stream_fence();
  }
  // Of n elements from `at` on; of several `parts`, as many in each part of a window.
  RunGradient<T> of(int64_t at, int64_t n, int64_t parts) {
    T* const to = reinterpret_cast<T*>(place(at));
    const bool native = a_.gradient.dtype == dtype_of<T>, streams = streamed_ && native && place_in_line(to) == 0;
    direct_ = native && streamed_ == streams;
    const int64_t apart = direct_ ? apart_ : n;
    return {formula_, T(a_.gradient.incoming), direct_ ? to : block_, parts > 1 ? apart : Vec<T>::size, streams};
  }
  void written(int64_t at, int64_t n, int64_t parts) {
    if (direct_) return;
    for (int64_t part = 0; part < parts; ++part, at += apart_) {
      if (streamed_)
        stream_run<T>(a_.gradient.dtype, block_ + part * n, place(at), n, writer_);
      else
        store_run<T>(a_.gradient.dtype, block_ + part * n, place(at), item_, n);
    }
  }

 private:
  char* place(int64_t at) const { return static_cast<char*>(a_.gradient.data) + at * item_; }
  const ReduceArgs& a_;
  const void* const formula_;
  const int64_t item_, apart_ = window_of(dtype_of<T>) / kParts;  // from one part of a window to the next
  const bool streamed_;
  bool direct_ = false;
  StreamWriter writer_;
  alignas(64) T block_[kLossRun];
};

template <class T>
struct Driver {
  using W = wide_t<T>;
  const ReduceArgs& a;
  const ReduceBlocks<T>& blocks;
  const void *formula, *gradient_formula;
  const Plan plan;
  // Of inputs in place, and their type.
  const typename ReduceBlocks<T>::Run widening_run = widening_run_of(blocks, a.in[0].dtype),
                                      run_in_place = widening_run ? widening_run : blocks.run;
  const Dtype stored = widening_run ? a.in[0].dtype : dtype_of<T>;
  const int64_t window = window_of(stored), apart = window / kParts;

  static typename ReduceBlocks<T>::Run widening_run_of(const ReduceBlocks<T>& blocks, Dtype dtype) {
    return dtype == Dtype::bf16 ? blocks.run_bf16 : dtype == Dtype::f16 ? blocks.run_f16 : nullptr;
  }

  // A run of each input, in place or gathered.
  struct Gathered {
    alignas(64) T buffer[kMaxInputs][kRun];
  };
  static constexpr int64_t kTile = kTileBytes / sizeof(T);
  struct Tile {
    alignas(64) T buffer[kMaxInputs][kTileRows * kTile];
  };

  static void gather(const ReduceArgs::Input& in, const char* base, const Strided& s, int64_t begin, int64_t n, T* to) {
    if (!in.data) {
      const T x = math::value<T>(in.immediate);
      for (int64_t i = 0; i < n; ++i) to[i] = x;
      return;
    }
    s.for_runs(begin, n, [&](int64_t done, int64_t offset, int64_t length) {
      load_run<T>(in.dtype, to + done, base + offset, s.stride(), length);
    });
  }
  // n elements from `at` on of result `j`.
  void one_run(int64_t j, int64_t at, int64_t n, int64_t before, W* state, int64_t pitch, Gathered& gathered,
               const RunGradient<T>* gradient = nullptr) const {
    const void* in[kMaxInputs];
    bool in_place = true;
    for (int k = 0; k < a.inputs; ++k) {
      const ReduceArgs::Input& input = a.in[k];
      const Strided reduced = reduced_of(a, input.reduced_strides);
      const char* base = static_cast<const char*>(input.data);
      if (base) base += kept_of(a, input.kept_strides).offset(j);
      if ((n == 1 || direct(input, reduced, stored)) && input.data && input.dtype == stored &&
          reduced.run(at, n) == n) {
        in[k] = base + reduced.offset(at);
      } else {
        gather(input, base, reduced, at, n, gathered.buffer[k]);
        in[k] = gathered.buffer[k];
        in_place = false;
      }
    }
    constexpr int64_t step[kMaxInputs] = {};
    (in_place ? run_in_place : blocks.run)(in, step, 1, n, 0, in_place ? n : 0, formula, gradient, state, pitch, before,
                                           at);
  }

  // How many results from j on have their n elements from `at` on in place, at a constant distance.
  int64_t adjacent(int64_t j, int64_t j1, int64_t at, int64_t n, const void** in, int64_t* step) const {
    int64_t count = j1 - j;
    for (int k = 0; k < a.inputs; ++k) {
      const ReduceArgs::Input& input = a.in[k];
      const Strided kept = kept_of(a, input.kept_strides), reduced = reduced_of(a, input.reduced_strides);
      if (!direct(input, reduced, stored) || reduced.run(at, n) < n || kept.stride() % size_of(stored) != 0) return 0;
      count = smaller(count, kept.run(j, count));
      in[k] = static_cast<const char*>(input.data) + kept.offset(j) + reduced.offset(at);
      step[k] = kept.stride() / size_of(stored);
    }
    return count;
  }

  // Elements of a block along a run. The same whether the gradient is wanted or not, and so is the result.
  FASTGRAD_INLINE int64_t most() const { return blocks.gradient ? kLossRun : kRun; }
  // Blocks end where a run of memory does, if that leaves them long enough.
  FASTGRAD_INLINE int64_t block_length(int64_t at, int64_t end) const {
    const int64_t n = smaller(most(), end - at);
    const int64_t run = reduced_of(a, nullptr).run(at, n);
    return run >= most() / 4 ? run : n;
  }

  // Elements [begin, end) of result j.
  void one_result(int64_t j, int64_t begin, int64_t end, W* state, int64_t pitch, Gathered& gathered,
                  GradientWriter<T>* writer = nullptr) const {
    const void* in[kMaxInputs];
    int64_t step[kMaxInputs], at = begin, n;
    const auto run = [&](int64_t at, int64_t n, int64_t parts, const auto& run) {
      if (!writer) return run(nullptr);
      const RunGradient<T> gradient = writer->of(at, n, parts);
      run(&gradient);
      writer->written(at, n, parts);
    };
    const bool windows =
        a.inputs >= kInputsInParts && !blocks.ordered && a.inputs * a.kept * a.reduced * size_of(stored) > kFarBytes;
    while (blocks.folds && end - at > kRun) {
      n = smaller(end - at, reduced_of(a, a.in[0].reduced_strides).run(at, end - at));
      if (n <= kRun || !adjacent(j, j + 1, at, n, in, step)) break;
      int64_t part = windows ? smaller(n, window) / kParts / Vec<T>::size * Vec<T>::size : 0;
      if (part * size_of(stored) < kPageBytes) part = 0;
      if (part > 0) n = part * kParts;
      run_in_place(in, step, 1, n, part, 0, formula, nullptr, state, pitch, at - begin, at);
      at += n;
    }
    for (; windows && end - at >= window && adjacent(j, j + 1, at, window, in, step); at += window)
      for (int64_t done = 0; done < apart; done += n) {
        n = smaller(most() / kParts, apart - done);
        run(at + done, n, kParts, [&](const RunGradient<T>* gradient) {
          run_in_place(in, step, 1, n * kParts, apart, n, formula, gradient, state, pitch, at - begin + done * kParts,
                       at);
        });
        for (int k = 0; k < a.inputs; ++k) in[k] = static_cast<const char*>(in[k]) + n * size_of(stored);
      }
    for (; at < end; at += n) {
      n = block_length(at, end);
      run(at, n, 1,
          [&](const RunGradient<T>* gradient) { one_run(j, at, n, at - begin, state, pitch, gathered, gradient); });
    }
  }

  void runs(int64_t j0, int64_t j1, int64_t begin, int64_t end, W* state, int64_t pitch) const {
    Gathered gathered;
    if (a.gradient.data) {  // then the result is one
      GradientWriter<T> writer(a, gradient_formula);
      return one_result(0, begin, end, state, pitch, gathered, &writer);
    }
    const void* in[kMaxInputs];
    if (plan.results_inside) {
      int64_t n;
      for (int64_t at = begin; at < end; at += n) {
        n = block_length(at, end);
        for (int64_t j = j0; j < j1; ++j) one_run(j, at, n, at - begin, state + (j - j0), pitch, gathered);
      }
      return;
    }
    int64_t count, step[kMaxInputs];
    for (int64_t j = j0; j < j1; j += count) {
      const int64_t n = end - begin;
      count = n <= most() ? adjacent(j, j1, begin, n, in, step) : 0;
      if (count > 0) {
        run_in_place(in, step, count, n, 0, n, formula, nullptr, state + (j - j0), pitch, 0, begin);
      } else {
        count = 1;
        one_result(j, begin, end, state + (j - j0), pitch, gathered);
      }
    }
  }

  // What lies behind a tile, while that is worked on.
  FASTGRAD_INLINE static void fetch_next(const void* tile, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += kLine)
      __builtin_prefetch(static_cast<const char*>(tile) + bytes + line, 0, 2);
  }
  // Rows of columns at a time. A register that is a part of a line leaves the rest of it to the next one, in L1; and
  // from memory the hardware follows few rows better.
  FASTGRAD_INLINE int64_t rows_at_once(int64_t width, bool narrow) const {
    const int64_t most = narrow ? kTileRows * kNarrow : kTileRows;
    if (kVecBytes >= kLine) return most;
    if (narrow) return smaller(most, kNarrowBytes / (width * int64_t(sizeof(T))));
    return a.kept * a.reduced * size_of(stored) >= kStreamFrom ? kFarRows : most;
  }
  void columns(int64_t j0, int64_t j1, int64_t begin, int64_t end, W* state, int64_t pitch) const {
    Tile tile;
    const int64_t width = j1 - j0;
    const bool narrow = width <= kTile / kNarrow;
    const int64_t pitch_in = narrow ? kTile / kNarrow : kTile, most = rows_at_once(width, narrow);
    // Whole registers are read: what lies behind columns that are gathered must be numbers.
    for (int k = 0; k < a.inputs && width <= kTile; ++k)
      for (int64_t r = 0; r < most; ++r)
        for (int64_t c = width; c % 16 != 0; ++c) tile.buffer[k][r * pitch_in + c] = 0;
    const T* in[kMaxInputs];
    int64_t row_stride[kMaxInputs], rows;
    for (int64_t at = begin; at < end; at += rows) {
      rows = smaller(most, end - at);
      bool padded = true;
      for (int k = 0; k < a.inputs; ++k) {
        const ReduceArgs::Input& input = a.in[k];
        const Strided kept = kept_of(a, input.kept_strides), reduced = reduced_of(a, input.reduced_strides);
        const char* base = static_cast<const char*>(input.data);
        if (direct(input, kept, dtype_of<T>) && kept.run(j0, width) == width && reduced.run(at, rows) == rows) {
          in[k] = reinterpret_cast<const T*>(base + kept.offset(j0) + reduced.offset(at));
          row_stride[k] = reduced.stride() / int64_t(sizeof(T));
          padded = false;
          if (blocks.ordered && narrow && row_stride[k] == width) fetch_next(in[k], rows * reduced.stride());
        } else if (input.data && input.dtype == dtype_of<T> && reduced.stride() == sizeof(T) &&
                   kept.stride() % int64_t(sizeof(T)) == 0 && kept.run(j0, width) == width &&
                   reduced.run(at, rows) == rows) {  // short rows
          const char* const from = base + kept.offset(j0) + reduced.offset(at);
          if (kept.stride() == rows * int64_t(sizeof(T))) fetch_next(from, width * kept.stride());
          transpose(reinterpret_cast<const T*>(from), kept.stride() / int64_t(sizeof(T)), tile.buffer[k], pitch_in,
                    width, rows);
          in[k] = tile.buffer[k];
          row_stride[k] = pitch_in;
        } else {
          for (int64_t r = 0; r < rows; ++r)
            gather(input, base ? base + reduced.offset(at + r) : base, kept, j0, width, tile.buffer[k] + r * pitch_in);
          in[k] = tile.buffer[k];
          row_stride[k] = pitch_in;
        }
      }
      blocks.columns(in, row_stride, rows, width, padded, formula, state, pitch, at - begin, at);
    }
  }

  void piece(int64_t tile, int64_t split, W* state) const {
    const int64_t j0 = tile * plan.width, j1 = smaller(j0 + plan.width, a.kept);
    const int64_t begin = split * plan.depth, end = smaller(begin + plan.depth, a.reduced);
    if (plan.columns)
      columns(j0, j1, begin, end, state, plan.pitch);
    else
      runs(j0, j1, begin, end, state, plan.pitch);
  }

  void finish(int64_t tile, W* state) const {
    const int64_t j0 = tile * plan.width, width = smaller(plan.width, a.kept - j0);
    blocks.finish(state, plan.pitch, width, a.reduced, a.parameter);
    for (int k = 0; k < smaller(a.outputs, blocks.outputs); ++k) {
      const Strided kept = kept_of(a, a.out[k].strides);
      kept.for_runs(j0, width, [&](int64_t done, int64_t offset, int64_t length) {
        store_run<W>(a.out[k].dtype, state + k * plan.pitch + done, static_cast<char*>(a.out[k].data) + offset,
                     kept.stride(), length);
      });
    }
  }
};

}  // namespace

template <class T>
Status reduce_driver(const ReduceArgs& a, const ReduceBlocks<T>& blocks, const void* formula,
                     const void* gradient_formula) {
  using W = wide_t<T>;
  const Driver<T> driver{a, blocks, formula, gradient_formula, make_plan<T>(a, blocks.short_row)};
  const Plan& plan = driver.plan;
  const int64_t grain = larger(1, kGrain / larger(1, plan.width * smaller(plan.depth, a.reduced)));
  if (plan.splits == 1) {
    parallel_for(0, plan.tiles, grain, [&](int64_t begin, int64_t end) {
      alignas(64) W state[kMaxFields * kMaxResults];
      std::memset(state, 0, blocks.fields * plan.pitch * sizeof(W));
      for (int64_t tile = begin; tile < end; ++tile) {
        driver.piece(tile, 0, state);
        driver.finish(tile, state);
      }
    });
    return kSuccess;
  }
  const int64_t size = blocks.fields * plan.pitch;
  W* const states = static_cast<W*>(std::calloc(plan.tiles * plan.splits * size, sizeof(W)));
  if (!states) return kOutOfMemory;
  parallel_for(0, plan.tiles * plan.splits, grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) driver.piece(p / plan.splits, p % plan.splits, states + p * size);
  });
  for (int64_t tile = 0; tile < plan.tiles; ++tile) {
    W* const state = states + tile * plan.splits * size;
    for (int64_t s = 1; s < plan.splits; ++s)
      blocks.merge(state, state + s * size, plan.pitch, smaller(plan.width, a.kept - tile * plan.width), s * plan.depth,
                   smaller(plan.depth, a.reduced - s * plan.depth));
    driver.finish(tile, state);
  }
  std::free(states);
  return kSuccess;
}

template Status reduce_driver<float>(const ReduceArgs&, const ReduceBlocks<float>&, const void*, const void*);
template Status reduce_driver<double>(const ReduceArgs&, const ReduceBlocks<double>&, const void*, const void*);
template Status reduce_driver<int32_t>(const ReduceArgs&, const ReduceBlocks<int32_t>&, const void*, const void*);
template Status reduce_driver<int64_t>(const ReduceArgs&, const ReduceBlocks<int64_t>&, const void*, const void*);

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
