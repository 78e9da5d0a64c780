// What the losses over classes share: the class of a row, class weights, sums over rows in a fixed order.
#pragma once
#include <array>
#include <cstdlib>

#include "convert.h"
#include "rows.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

// Places of the operands; see backend.h.
enum { kLogits, kTarget, kWeight, kLoss, kStats, kTotalWeight, kGradInput };
constexpr int kGradient = kLoss;  // of the backward kernels

template <class T>
FASTGRAD_INLINE T load_one(const RowsArgs& a, int k, const char* p) {
  if (a.operand[k].dtype == dtype_of<T>) return *reinterpret_cast<const T*>(p);
  T x;
  load_run<T>(a.operand[k].dtype, &x, p, 0, 1);
  return x;
}
template <class T>
FASTGRAD_INLINE void store_one(const RowsArgs& a, int k, char* p, T x) {
  store_run<T>(a.operand[k].dtype, &x, p, 0, 1);
}

// The class weights in the compute type, or null.
template <class T>
class ClassWeights {
 public:
  explicit ClassWeights(const RowsArgs& a) {
    const auto& o = a.operand[kWeight];
    if (!o.data) return;
    data_ = static_cast<const T*>(o.data);
    if (o.dtype == dtype_of<T> && o.element_stride == sizeof(T)) return;
    copy_ = static_cast<T*>(std::malloc((a.n + 1) * sizeof(T)));
    if (!copy_) std::abort();
    load_run<T>(o.dtype, copy_, static_cast<const char*>(o.data), o.element_stride, a.n);
    data_ = copy_;
  }
  ~ClassWeights() { std::free(copy_); }
  ClassWeights(const ClassWeights&) = delete;
  ClassWeights& operator=(const ClassWeights&) = delete;
  const T* get() const { return data_; }

 private:
  const T* data_ = nullptr;
  T* copy_ = nullptr;
};

// One value a row of the tile, `offset` bytes past the row of operand k: from memory and to it.
template <class T>
FASTGRAD_INLINE void load_rows(const RowTile& tile, int k, int64_t offset, T* to) {
  const auto& o = tile.args->operand[k];
  if (tile.rows == 1) {
    *to = load_one<T>(*tile.args, k, tile.run[0].base[k] + offset);
    return;
  }
  for (int r = 0; r < tile.runs; ++r) {
    const auto& run = tile.run[r];
    load_run<T>(o.dtype, to + run.lane, run.base[k] + offset, o.row_strides[0], run.count, false);
  }
}
template <class T>
FASTGRAD_INLINE void store_rows(const RowTile& tile, int k, int64_t offset, const T* from) {
  const auto& o = tile.args->operand[k];
  for (int r = 0; r < tile.runs; ++r) {
    const auto& run = tile.run[r];
    char* to = run.base[k] + offset;
    if (o.dtype == dtype_of<T> && run.count == 1)
      *reinterpret_cast<T*>(to) = from[run.lane];
    else
      store_run<T>(o.dtype, from + run.lane, to, o.row_strides[0], run.count);
  }
}

// Across, up to so many classes a row's own is found by comparing them all, with no step a row.
constexpr int64_t kFewClasses = 32;
template <class T>
constexpr auto kClassNumber = [] {  // read by the lanes of a comparison at once, where a conversion takes three steps
  std::array<T, kFewClasses> number;
  for (int64_t c = 0; c < kFewClasses; ++c) number[c] = T(c);
  return number;
}();

// The classes of a tile's rows. Loops over lanes, without branches: they are vectorized.
template <class T>
struct RowClasses {
  int64_t index[kTileRows];    // -1 where the row has none: it is ignored, or its class is out of bounds
  RowState<T> number;          // index, for comparisons in the lanes: exact as long as there are few classes
  RowState<T> counts, weight;  // 0 where ignored; of the class, 1 out of bounds
  bool all_within, all_own;    // in bounds, but for rows ignored; no index is -1

  FASTGRAD_INLINE void read(const RowTile& tile, const T* weights) {
    const int64_t ignore = tile.args->parameter[0].integer, n = tile.args->n;
    const int rows = tile.rows;
    using Convertible = std::conditional_t<kVecBytes == 64, int64_t, int32_t>;  // to T, by registers
    load_rows<int64_t>(tile, kTarget, 0, index);
    int64_t outside = 0, none = 0;
    for (int lane = 0; lane < rows; ++lane) {
      const int64_t c = index[lane];
      const bool ignored = c == ignore, within = (c >= 0) & (c < n);
      index[lane] = within & !ignored ? c : -1;
      number.value[lane] = T(Convertible(index[lane]));
      counts.value[lane] = ignored ? T(0) : T(1);
      outside |= !(within | ignored);
      none |= !within | ignored;
    }
    all_within = !outside, all_own = !none;
    if (weights)
      for (int lane = 0; lane < rows; ++lane)
        weight.value[lane] = index[lane] >= 0 ? weights[index[lane]] : counts.value[lane];
    else
      for (int lane = 0; lane < rows; ++lane) weight.value[lane] = counts.value[lane];
  }

  // Streams, in each step of a block along a row, result(step), and own(result) of the row's class: for what is
  // streamed should not be read again.
  template <class B, class Result, class Own>
  FASTGRAD_INLINE void stream(const B& b, const Result& result, const Own& own) const {
    using V = Vec<T>;
    const int64_t at = index[b.lane] - b.begin, step = at < 0 ? -1 : at / V::size * V::size;
    const V place = T(at - step);
    b.each([&](auto s) __attribute__((always_inline)) {
      const V v = result(s);
      b.result(s, s.i == step ? select(V::iota() == place, own(v), v) : v);
    });
  }
};

// Of every piece of rows: the sum of losses, that of weights, and the first row whose class is out of bounds.
template <class T>
struct ClassLossShared {
  const T* weights;
  T incoming;  // the gradient of each row's loss, where forward writes that of the logits
  struct Partial {
    double loss, weight;
    int64_t bad_row;
  } partial[kMaxPieces];

  void combine(const RowsArgs& a, int64_t pieces) const {
    double loss = 0, weight = 0;
    int64_t bad_row = -1;
    for (int64_t p = 0; p < pieces; ++p) {
      loss += partial[p].loss;
      weight += partial[p].weight;
      if (bad_row < 0) bad_row = partial[p].bad_row;
    }
    if (a.bad_row) *a.bad_row = bad_row;
    if (a.flags & kReduceMean) loss /= weight;
    if (a.flags & (kReduceMean | kReduceSum)) store_one(a, kLoss, static_cast<char*>(a.operand[kLoss].data), T(loss));
    store_one(a, kTotalWeight, static_cast<char*>(a.operand[kTotalWeight].data), T(weight));
  }
};

// A sum in double of values that come by the tile. Eight partial sums take the rows of a tile in turn, so that they are
// registers.
template <class T>
class RowSum {
 public:
  FASTGRAD_INLINE void clear() {
    for (W& w : partial_) w = W(0);
  }
  FASTGRAD_INLINE void add(const T* values, int count) {
    int i = 0;
    for (; i + kWays <= count; i += kWays)
      for (int r = 0; r < kRegisters; ++r) partial_[r] = partial_[r] + widened(values + i + r * W::size);
    if (i == count) return;
    double sums[kWays];
    for (int r = 0; r < kRegisters; ++r) partial_[r].store(sums + r * W::size);
    for (int way = 0; i < count; ++i, ++way) sums[way] += double(values[i]);
    for (int r = 0; r < kRegisters; ++r) partial_[r] = W::load(sums + r * W::size);
  }
  FASTGRAD_INLINE double total() const {
    double sum = 0;
    for (int way = 0; way < kWays; ++way) sum += partial_[way / W::size].v[way % W::size];
    return sum;
  }

 private:
  using W = Vec<double>;
  static constexpr int kWays = 8, kRegisters = kWays / W::size;
  static FASTGRAD_INLINE W widened(const T* p) {
    typedef T Values __attribute__((vector_size(W::size * sizeof(T))));
    Values v;
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, W::Register);
  }
  W partial_[kRegisters];
};

// The forward formulas' part that is summed over rows.
template <class T>
struct ClassLossSums : RowFormula<T> {
  const RowsArgs& args;
  ClassLossShared<T>* shared;
  const T* weights;
  RowSum<T> loss_sum, weight_sum;
  int64_t bad_row;
  RowClasses<T> classes;
  alignas(64) T loss[kTileRows];

  ClassLossSums(const RowsArgs& a, ClassLossShared<T>* s) : args(a), shared(s), weights(s->weights) {}
  FASTGRAD_INLINE void begin_piece(int64_t) {
    loss_sum.clear();
    weight_sum.clear();
    bad_row = -1;
  }
  FASTGRAD_INLINE void end_piece(int64_t piece) {
    shared->partial[piece] = {loss_sum.total(), weight_sum.total(), bad_row};
  }
  // Takes loss[] and classes.weight[] of the tile's rows.
  FASTGRAD_INLINE void add_losses(const RowTile& tile) {
    if (!(args.flags & (kReduceMean | kReduceSum))) store_rows<T>(tile, kLoss, 0, loss);
    loss_sum.add(loss, tile.rows);
    weight_sum.add(classes.weight.value, tile.rows);
  }
  FASTGRAD_INLINE void read_classes(const RowTile& tile) {
    classes.read(tile, weights);
    if (classes.all_within || bad_row >= 0) return;
    for (int lane = tile.rows - 1; lane >= 0; --lane)
      if (classes.index[lane] < 0 && classes.counts.value[lane] != 0) bad_row = tile.first + lane;
  }
  // The logit of a row's class, from memory; NaN where the class is out of bounds.
  FASTGRAD_INLINE void load_logits(const RowTile& tile, T* logit) const {
    const auto& o = args.operand[kLogits];
    const int64_t row = o.row_strides[0], element = o.element_stride;
    // Each lies in a line, or a page, of its own: without branches, and few instructions apart, many are on their way.
    const auto gather = [&]<bool All>(std::bool_constant<All>, auto load) __attribute__((always_inline)) {
      for (int r = 0; r < tile.runs; ++r) {
        const auto& run = tile.run[r];
        const char* at = run.base[kLogits];
        for (int lane = run.lane; lane < run.lane + run.count; ++lane, at += row) {
          const int64_t c = classes.index[lane];
          const T x = load(at + (All || c >= 0 ? c : 0) * element);
          logit[lane] = All || c >= 0 ? x : T(__builtin_nan(""));
        }
      }
    };
    const auto in_place = [](const char* p) { return *reinterpret_cast<const T*>(p); };
    if (args.n == 0)
      for (int lane = 0; lane < tile.rows; ++lane) logit[lane] = T(__builtin_nan(""));
    else if (o.dtype != dtype_of<T>)
      gather(std::false_type(), [&](const char* p) { return load_one<T>(args, kLogits, p); });
    else if (classes.all_own)
      gather(std::true_type(), in_place);
    else
      gather(std::false_type(), in_place);
  }
};

// The incoming gradients of the losses of rows.
template <class T>
struct RowGradient {
  const RowsArgs& args;
  T scale = 1;
  explicit RowGradient(const RowsArgs& a) : args(a) {
    if (a.flags & kReduceMean)
      scale = T(1) / load_one<T>(a, kTotalWeight, static_cast<const char*>(a.operand[kTotalWeight].data));
  }
  FASTGRAD_INLINE void load(const RowTile& tile, T* to) const {
    load_rows<T>(tile, kGradient, 0, to);
    for (int lane = 0; lane < tile.rows; ++lane) to[lane] *= scale;
  }
};

template <class T, class Formula>
Status class_loss(const RowsArgs& a, T incoming = 0) {
  const ClassWeights<T> weights(a);
  ClassLossShared<T> shared;
  shared.weights = weights.get();
  shared.incoming = incoming;
  shared.combine(a, rows_of<T, Formula>(a, &shared));
  return kSuccess;
}
template <class T, class Formula>
Status class_loss_backward(const RowsArgs& a) {
  const ClassWeights<T> weights(a);
  rows_of<T, Formula>(a, weights.get());
  return kSuccess;
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
