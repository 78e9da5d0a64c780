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
  using Base::classes;
  using Base::loss;
  static constexpr RowStreams streams = {0, 0, {}};
  static constexpr int64_t along_block = 1 << 14;

  NllLoss(const RowsArgs& a, ClassLossShared<T>* s) : Base(a, s) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    this->read_classes(tile);
    this->load_logits(tile, loss);
    for (int lane = 0; lane < tile.rows; ++lane)
      loss[lane] = classes.counts.value[lane] != 0 ? -classes.weight.value[lane] * loss[lane] : T(0);
    this->add_losses(tile);
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
  RowClasses<T> classes;
  alignas(64) T value[kTileRows];

  NllLossBackward(const RowsArgs& a, const T* w) : args(a), weights(w), gradient(a) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    classes.read(tile, weights);
    gradient.load(tile, value);
    for (int lane = 0; lane < tile.rows; ++lane) value[lane] *= -classes.weight.value[lane];
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool) {
    if constexpr (B::streamed) return classes.stream(b, [](auto) { return V(0); }, [&](V) { return V(value[b.lane]); });
    b.each([&](auto s) { b.result(s, V(0)); });
    for (int j = 0; j < b.rows; ++j) {
      const int64_t c = classes.index[b.lane + j], i = c - b.begin;
      if (c >= 0 && i >= 0 && i < b.n) b.at(0, i)[j] = value[b.lane + j];
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
