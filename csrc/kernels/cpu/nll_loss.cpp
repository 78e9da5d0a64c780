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
  using Base::bad_row;
  using Base::classes;
  using Base::loss;
  using Base::weights;
  static constexpr RowStreams streams = {0, 0, {}};
  static constexpr int64_t along_block = 1 << 14;

  NllLoss(const RowsArgs& a, ClassLossShared<T>* s) : Base(a, s) {}
  FASTGRAD_INLINE void begin(const RowTile& tile) {
    // One loop, unlike RowClasses: the work hides behind the logits, which come from memory.
    tile.for_rows([&](int lane, const auto& at) {
      const int64_t c = load_one<int64_t>(args, kTarget, at(kTarget));
      const bool ignored = c == args.parameter[0].integer, valid = !ignored && c >= 0 && c < args.n;
      classes.weight[lane] = ignored ? T(0) : weights && valid ? weights[c] : T(1);
      loss[lane] = ignored ? T(0) : T(__builtin_nan(""));
      if (valid)
        loss[lane] =
            -classes.weight[lane] * load_one<T>(args, kLogits, at(kLogits) + c * args.operand[kLogits].element_stride);
      else if (!ignored && bad_row < 0)
        bad_row = tile.first + lane;
    });
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
    for (int lane = 0; lane < tile.rows; ++lane) value[lane] *= -classes.weight[lane];
  }
  template <class B>
  FASTGRAD_INLINE void emit(const B& b, bool) {
    b.each([&](auto s) { b.store(0, s, V(0)); });
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
