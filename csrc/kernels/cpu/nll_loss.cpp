// Negative log-likelihood: loss = -w_t x_t per row of log-probabilities x with class t, and its gradient.
//
// Forward gathers one element a row; backward writes every element of the gradient once, zeros but for the row's class.
// If rows are adjacent, it fills a block of them with zeros, whatever their length, and puts the others in while it is
// in cache; what goes past the cache comes from a block of zeros, from which they are taken out again.
// Row losses are summed in double, piece after piece.
#include "class_loss.h"
#include "sizes.h"

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

constexpr int64_t kFilled = 1 << 16;      // bytes of the gradient at a time, which stay in L2
constexpr int64_t kZeros = 8192;          // the same, from a block in L1
constexpr int64_t kFillElements = 32768;  // worth a thread

// The gradient of a tile of adjacent rows, `item` bytes an element.
template <class Item>
void fill_rows(char* to, const RowTile& tile, const int64_t* index, const Item* value, Item* zeros,
               StreamWriter* writer) {
  const int64_t n = tile.args->n, end = tile.rows * n, step = (writer ? kZeros : kFilled) / int64_t(sizeof(Item));
  Item* const out = reinterpret_cast<Item*>(to);
  int lane = 0;
  for (int64_t begin = 0; begin < end; begin += step) {
    const int64_t count = smaller(step, end - begin);
    Item* const block = writer ? zeros : out + begin;
    if (!writer) std::memset(block, 0, count * sizeof(Item));
    const int first = lane;
    const auto each = [&](auto put) {
      for (lane = first; lane < tile.rows; ++lane) {
        const int64_t c = index[lane], place = lane * n + larger(c, 0) - begin;
        if (place >= count) break;
        if (c >= 0) block[place] = put(lane);
      }
    };
    each([&](int i) { return value[i]; });
    if (!writer) continue;
    writer->write(reinterpret_cast<char*>(out + begin), reinterpret_cast<const char*>(block), count * sizeof(Item));
    each([](int) { return Item(0); });
  }
}

template <class T>
void nll_loss_backward_filled(const RowsArgs& a) {
  const ClassWeights<T> weights(a);
  const auto& out = a.operand[kGradInput];
  const int64_t item = size_of(out.dtype), piece = larger(kTileRows, kFillElements / a.n);
  const bool streamed = a.rows * a.n * item >= kStreamFrom;
  parallel_for(0, ceil_div(a.rows, piece), 1, [&](int64_t begin, int64_t end) {
    alignas(64) char zeros[kZeros], stored[kTileRows * sizeof(T)];
    std::memset(zeros, 0, sizeof zeros);
    StreamWriter writer;
    NllLossBackward<T> f(a, weights.get());
    RowTile tile;
    const int64_t last = smaller(end * piece, a.rows);
    for (int64_t r = begin * piece; r < last; r += tile.rows) {
      tile.locate(a, r, int(smaller(last - r, kTileRows)), true);
      f.begin(tile);
      store_run<T>(out.dtype, f.value, stored, item, tile.rows);
      const auto fill = [&]<class Item>(Item) {
        fill_rows(tile.run[0].base[kGradInput], tile, f.classes.index, reinterpret_cast<const Item*>(stored),
                  reinterpret_cast<Item*>(zeros), streamed ? &writer : nullptr);
      };
      item == 2 ? fill(uint16_t()) : item == 4 ? fill(uint32_t()) : fill(uint64_t());
    }
  });
}

template <class T>
Status nll_loss_backward_of(const RowsArgs& a) {
  const auto& out = a.operand[kGradInput];
  const int64_t item = size_of(out.dtype);
  const bool adjacent = a.ndim == 1 && a.n > 0 && out.element_stride == item && out.row_strides[0] == a.n * item;
  if (!adjacent) return class_loss_backward<T, NllLossBackward<T>>(a);
  nll_loss_backward_filled<T>(a);
  return kSuccess;
}

}  // namespace

Status nll_loss(const RowsArgs& a) {
  return a.compute == Dtype::f32 ? class_loss<float, NllLoss<float>>(a) : class_loss<double, NllLoss<double>>(a);
}
Status nll_loss_backward(const RowsArgs& a) {
  return a.compute == Dtype::f32 ? nll_loss_backward_of<float>(a) : nll_loss_backward_of<double>(a);
}

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
