#include "../math/activations.h"

#include "map.cuh"

namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE {

Status relu(const MapArgs& a) { return map_with_integers<1, math::Relu>(a); }
Status relu_backward(const MapArgs& a) { return map<2, math::ReluBackward>(a); }
Status sigmoid(const MapArgs& a) { return map<1, math::Sigmoid>(a); }
Status sigmoid_backward(const MapArgs& a) { return map<2, math::SigmoidBackward>(a); }
Status tanh(const MapArgs& a) { return map<1, math::Tanh>(a); }
Status tanh_backward(const MapArgs& a) { return map<2, math::TanhBackward>(a); }

}  // namespace fastgrad::FASTGRAD_BACKEND_NAMESPACE
