// Negative log-likelihood: loss = -w_t x_t per row of log-probabilities x with class t, and its gradient.
//
// Forward gathers one element a row; backward writes every element of the gradient once, zeros but for the row's class.
// Row losses are summed in double, piece after piece.
#include "class_loss.h"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {
namespace {

template <class T>
struct NllLoss : ClassLossSums<T> {
  using Base = ClassLossSums<T>;
  using Base::args;
  using Base::weights;
  static constexpr RowStreams streams = {0, 0, {}};
  static constexpr int64_t along_block = 1 << 14;

  NllLoss(const RowsArgs& a, ClassLossShared<T>* s) : Base(a, s) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    tile.for_rows([&](int lane, const auto& at) {
      const Class c(args, at(kTarget));
      if (c.ignored) return this->add(0, 0, at(kLoss));
      if (!c.valid) return this->reject(tile.first + lane, at(kLoss));
      const T x = load_one<T>(args, kLogits, at(kLogits) + c.index * args.operand[kLogits].element_stride);
      const T w = weights ? weights[c.index] : T(1);
      this->add(-w * x, w, at(kLoss));
    });
  }
};

template <class T>
struct NllLossBackward : RowFormula<T> {
  using V = Vec<T>;
  static constexpr RowStreams streams = {0, 1, {kGradInput}};
  static constexpr int64_t along_block = 1 << 14;
  const RowsArgs& args;
  const T* weights;
  RowGradient<T> gradient;
  int64_t target[kTileRows];
  T value[kTileRows];

  NllLossBackward(const RowsArgs& a, const T* w) : args(a), weights(w), gradient(a) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    tile.for_rows([&](int lane, const auto& at) {
      const Class c(args, at(kTarget));
      target[lane] = c.valid ? c.index : -1;
      if (c.valid) value[lane] = -gradient(at(kGradient)) * (weights ? weights[c.index] : T(1));
    });
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool) {
    b.each([&](auto s) { b.store(0, s, V(0)); });
    for (int j = 0; j < b.rows; ++j) {
      const int64_t i = target[b.lane + j] - b.begin;
      if (target[b.lane + j] >= 0 && i >= 0 && i < b.n) b.at(0, i)[j] = value[b.lane + j];
    }
  }
};

}  // namespace

Status nll_loss(const RowsArgs& a) {
  return a.compute == Dtype::f32 ? class_loss<float, NllLoss<float>>(a) : class_loss<double, NllLoss<double>>(a);
}
Status nll_loss_backward(const RowsArgs& a) {
  return a.compute == Dtype::f32 ? class_loss_backward<float, NllLossBackward<float>>(a)
                                 : class_loss_backward<double, NllLossBackward<double>>(a);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
