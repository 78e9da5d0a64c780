// What the losses over classes share: the class of a row, class weights, sums over rows in a fixed order.
#pragma once
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

// The class of a row.
struct Class {
  int64_t index;
  bool ignored, valid;
  FASTGRAD_INLINE Class(const RowsArgs& a, const char* target) {
    index = a.operand[kTarget].dtype == Dtype::i64 ? *reinterpret_cast<const int64_t*>(target)
                                                   : *reinterpret_cast<const uint8_t*>(target);
    ignored = index == a.parameter[0].integer;
    valid = !ignored && index >= 0 && index < a.n;
  }
};

// Of every piece of rows: the sum of losses, that of weights, and the first row whose class is out of bounds.
template <class T>
struct ClassLossShared {
  const T* weights;
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

// The forward formulas' part that is summed over rows.
template <class T>
struct ClassLossSums : RowFormula<T> {
  const RowsArgs& args;
  ClassLossShared<T>* shared;
  const T* weights;
  double loss_sum, weight_sum;
  int64_t bad_row;

  ClassLossSums(const RowsArgs& a, ClassLossShared<T>* s) : args(a), shared(s), weights(s->weights) {}
  FASTGRAD_INLINE void begin_piece(int64_t) { loss_sum = weight_sum = 0, bad_row = -1; }
  FASTGRAD_INLINE void end_piece(int64_t piece) { shared->partial[piece] = {loss_sum, weight_sum, bad_row}; }
  FASTGRAD_INLINE void add(T loss, T weight, char* to) {
    loss_sum += double(loss);
    weight_sum += double(weight);
    if (!(args.flags & (kReduceMean | kReduceSum))) store_one(args, kLoss, to, loss);
  }
  FASTGRAD_INLINE void reject(int64_t row, char* to) {
    if (bad_row < 0) bad_row = row;
    add(T(__builtin_nan("")), 1, to);
  }
};

// The incoming gradient of a row's loss.
template <class T>
struct RowGradient {
  const RowsArgs& args;
  T scale = 1;
  explicit RowGradient(const RowsArgs& a) : args(a) {
    if (a.flags & kReduceMean)
      scale = T(1) / load_one<T>(a, kTotalWeight, static_cast<const char*>(a.operand[kTotalWeight].data));
  }
  FASTGRAD_INLINE T operator()(const char* p) const { return load_one<T>(args, kGradient, p) * scale; }
};

template <class T, class Formula>
Status class_loss(const RowsArgs& a) {
  const ClassWeights<T> weights(a);
  ClassLossShared<T> shared;
  shared.weights = weights.get();
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
