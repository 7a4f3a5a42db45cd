// The meta-gradient of baselines/meta_gradient.py in C++: the same equations, names and order.
//
// Python's dispatch costs as much as the products at small widths, and at large ones every tensor that
// is made anew is cold memory. Here the memory of all steps is laid out once and used again by the next
// call, and the runs are taken one after the other, so that only one run's values are kept and a run's
// numbers do not depend on the runs next to it. Matrices are row-major: samples are rows.
//
// Products in float32 and float64 are ATen's; those of the bf16 adjoint are the brgemm that ATen
// exports (ATen/native/CPUBlas.h), which multiplies bf16 and sums in float32.

#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "matrices.h"

// One call of `InnerLoop.gradient` or `.train`; baselines/native_engine.py has the same fields in the same order.
struct Call {
  int64_t runs, pairs, steps, batch, depth, action_dim;
  int64_t skip_from, skip_to;  // hidden layers counted from 1; 0 where there is no skip
  int64_t noisy, trained_scalars;
  const int64_t* sizes;  // depth + 1 widths
  double learning_rate, momentum, offset, log_std_min, log_std_max;
  const void* const* initial;  // weight [R, out, in] and bias [R, 1, out] per layer, then the scalars
  const void *observations, *actions;            // [R, N, obs_dim], [R, N, act_dim]
  const void *noise, *adjoint_noise;             // [T, R, N, act_dim] or null
  const void *outer_observations, *outer_actions;  // [R, B, obs_dim], [R, B, act_dim]
  const void *outer_weights, *outer_noise;       // [R, B], [R, B, act_dim] or null
  void *loss, *observations_gradient, *actions_gradient;  // [R], and like the pairs; null in `train`
  void* const* trained;  // like `initial`; null in `gradient`
};

namespace {

constexpr int64_t OUTER_ROWS = 256;  // states of the outer batch at a time: their values stay in the cache

// What the adjoint of one step reads of the head, each [N, act_dim]; benchmark/students/heads.py.
template <class Real>
struct Head {
  std::vector<Real> action, error, slope, deviation, inner;  // deviation: du / d log_std
  std::vector<Real> raw, delta;  // trained scalars: the network's raw log_std, and dL/dlog_std
  std::vector<Real> outputs;     // [N, outputs], where the backward pass is repeated
  Real multiplier = 1, offset = 0;

  void resize(int64_t values, int64_t outputs_kept) {
    for (auto* part : {&action, &error, &slope, &deviation, &inner, &raw, &delta}) part->resize(values);
    outputs.resize(outputs_kept);
  }
};

// The values of one inner step. With bf16 one such set serves all steps.
template <class Real>
struct Step {
  std::vector<Matrix<Real>> weights, biases;
  std::vector<Matrix<Real>> inputs;     // of each layer; the first is set to the observations
  std::vector<Matrix<Real>> rectified;  // after each hidden layer's ReLU, before a skip is added
  std::vector<Matrix<Real>> deltas;     // dL / d layer's value before its ReLU
  Matrix<Real> outputs, skipped;

  // `rows` samples; without `own_weights` the caller sets weights and biases.
  Step(Memory& memory, const Call& call, int64_t rows, bool own_weights) {
    const int64_t depth = call.depth, *sizes = call.sizes;
    for (int64_t layer = 0; layer < depth; ++layer) {
      if (own_weights) {
        weights.push_back(memory.matrix<Real>(sizes[layer + 1], sizes[layer]));
        biases.push_back(memory.matrix<Real>(1, sizes[layer + 1]));
      }
      deltas.push_back(memory.matrix<Real>(rows, sizes[layer + 1]));
      if (layer == 0) {
        inputs.emplace_back();
        continue;
      }
      rectified.push_back(memory.matrix<Real>(rows, sizes[layer]));
      const bool sum = layer == call.skip_to;
      inputs.push_back(sum ? memory.matrix<Real>(rows, sizes[layer]) : rectified.back());
    }
    outputs = memory.matrix<Real>(rows, sizes[depth]);
    if (call.skip_to) skipped = memory.matrix<Real>(rows, sizes[call.skip_from]);
  }
};

// Forward and backward passes of one student: the inner steps' and the outer loss's.
template <class Real>
struct Passes {
  const Call& call;
  int64_t depth = call.depth, acts = call.action_dim;

  void forward(Step<Real>& step) const {
    for (int64_t layer = 0; layer < depth; ++layer) {
      const bool hidden = layer + 1 < depth;
      auto& value = hidden ? step.rectified[layer] : step.outputs;
      multiply(value, step.inputs[layer].plain, step.weights[layer].transposed);
      if (!hidden) {
        add_to_rows(value, step.biases[layer].data);
        break;
      }
      add_to_rows_and_rectify(value, step.biases[layer].data);
      if (layer + 1 == call.skip_to)
        add(step.inputs[layer + 1].data, value.data, step.inputs[call.skip_from].data, value.size());
    }
  }

  // The loss's derivative in the outputs, into the last delta; returns the sum of weighted squares.
  double head(const Step<Real>& step, Head<Real>& head, int64_t rows, const Real* targets,
              const Real* noise, const Real* weights, double samples) const {
    const Real scale = Real(2 / samples);
    const int64_t outputs = step.outputs.columns;
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t act = 0; act < acts; ++act) {
        const int64_t at = row * acts + act;
        const Real* out = step.outputs.data + row * outputs + act;
        Real* delta = step.deltas.back().data + row * outputs + act;
        Real u = out[0], deviation = 0;
        if (call.noisy) {
          const Real log_std = head.multiplier * out[acts] + head.offset;
          const Real clamped = std::clamp(log_std, Real(call.log_std_min), Real(call.log_std_max));
          deviation = std::exp(clamped) * noise[at];
          u += deviation;
          if (!(clamped == log_std)) deviation = 0;  // the clamp is active
        }
        const Real action = std::tanh(u), error = action - targets[at], slope = 1 - action * action;
        const Real weighted = weights ? error * weights[row] : error;
        const Real inner = weighted * slope * scale;
        sum += double(error) * double(weighted);
        head.action[at] = action, head.error[at] = error, head.slope[at] = slope;
        head.deviation[at] = deviation, head.inner[at] = inner;
        delta[0] = inner;
        if (!call.noisy) continue;
        head.raw[at] = out[acts], head.delta[at] = inner * deviation;
        delta[acts] = head.delta[at] * head.multiplier;
      }
    return sum;
  }

  // From the last delta down; see `Network.backward`.
  void backward(Step<Real>& step) const {
    for (int64_t layer = depth - 1; layer > 0; --layer) {
      auto& below = step.deltas[layer - 1];
      multiply(below, step.deltas[layer].plain, step.weights[layer].plain);
      join_skip(layer, below, step.skipped);
      mask(below.data, step.rectified[layer - 1].data, below.size());
    }
  }

  // The skip adds hidden layer i's output to hidden layer j's: the derivative in their sum flows to both.
  void join_skip(int64_t layer, Matrix<Real>& below, Matrix<Real>& skipped) const {
    if (!call.skip_to) return;
    if (layer == call.skip_from) add(below.data, below.data, skipped.data, below.size());
    if (layer == call.skip_to) std::copy_n(below.data, below.size(), skipped.data);
  }
};

// Parameters, or a direction or cotangent of theirs, the two scalars included.
template <class Real>
struct Parameters {
  std::vector<Matrix<Real>> weights, biases;
  Real multiplier = 0, offset = 0;

  Parameters(Memory& memory, const Call& call) {
    for (int64_t layer = 0; layer < call.depth; ++layer) {
      weights.push_back(memory.matrix<Real>(call.sizes[layer + 1], call.sizes[layer]));
      biases.push_back(memory.matrix<Real>(1, call.sizes[layer + 1]));
    }
  }

  template <class Function>  // function(own value, other's value), the scalars included
  void each(Parameters& other, Function function) {
    for (size_t layer = 0; layer < weights.size(); ++layer) {
      for (auto [mine, its] : {std::pair(&weights[layer], &other.weights[layer]),
                               std::pair(&biases[layer], &other.biases[layer])})
        for (int64_t i = 0; i < mine->size(); ++i) function(mine->data[i], its->data[i]);
    }
    function(multiplier, other.multiplier);
    function(offset, other.offset);
  }
};

// The products of the adjoint in the precision of the forward pass, over the values of its steps.
template <class Real>
class SamePrecision {
 public:
  SamePrecision(Memory& memory, const Call& call, Passes<Real> passes) : passes_(passes) {
    for (int64_t t = 0; t <= call.steps; ++t) steps_.emplace_back(memory, call, call.pairs, true);
  }

  Step<Real>& step(int64_t t) { return steps_[t]; }
  void keep(int64_t) {}
  void finish() {}
  void repeat_backward(int64_t t) { passes_.backward(steps_[t]); }
  void take_direction(Parameters<Real>&) {}

  // R{x W^T} = x r^T + R{x} W^T
  void tangent(int64_t t, int64_t layer, Parameters<Real>& along, Matrix<Real>& out, Matrix<Real>* below) {
    multiply(out, steps_[t].inputs[layer].plain, along.weights[layer].transposed);
    if (below) add_product(out, below->plain, steps_[t].weights[layer].transposed, 1);
  }
  void take_tangent(int64_t, Matrix<Real>&) {}
  void mask_tangent(int64_t t, int64_t layer, Matrix<Real>& values) {
    mask(values.data, steps_[t].rectified[layer].data, values.size());
  }

  // R{dL/dx} = R{delta} W + delta r
  void below(int64_t t, int64_t layer, Parameters<Real>& along, Matrix<Real>& above, Matrix<Real>& out) {
    multiply(out, above.plain, steps_[t].weights[layer].plain);
    add_product(out, steps_[t].deltas[layer].plain, along.weights[layer].plain, 1);
  }

  // R{dL/dW} = R{delta}^T x + delta^T R{x}
  void weights(int64_t t, int64_t layer, Matrix<Real>& above, Matrix<Real>* tangent, Matrix<Real>& out,
               Real scale) {
    add_product(out, above.transposed, steps_[t].inputs[layer].plain, scale);
    if (tangent) add_product(out, steps_[t].deltas[layer].transposed, tangent->plain, scale);
  }

 private:
  Passes<Real> passes_;
  std::vector<Step<Real>> steps_;
};

// The same in bf16 with float32 sums. One step's values in float32 serve all; bf16 copies are kept.
class Bf16 {
 public:
  Bf16(Memory& memory, const Call& call, Passes<float> passes)
      : call_(call), passes_(passes), step_(memory, call, call.pairs, true) {
    const int64_t widest = *std::max_element(call.sizes, call.sizes + call.depth + 1);
    product_ = memory.matrix<float>(widest, widest);
    for (int64_t layer = 0; layer < call.depth; ++layer) {
      const int64_t in = call.sizes[layer], out = call.sizes[layer + 1];
      along_.emplace_back(memory, out, in);
      tangents_.emplace_back(memory, call.pairs, out);
    }
    for (int64_t t = 0; t < call.steps; ++t) {
      Kept kept;
      for (int64_t layer = 0; layer < call.depth; ++layer) {
        const int64_t in = call.sizes[layer], out = call.sizes[layer + 1];
        kept.weights.emplace_back(memory, out, in);
        kept.deltas.emplace_back(memory, call.pairs, out);
        if (layer == 0 && t > 0)
          kept.inputs.push_back(kept_[0].inputs[0]);  // the observations, at every step
        else
          kept.inputs.emplace_back(memory, call.pairs, in);
        if (layer == 0) continue;
        const bool sum = layer == call.skip_to;
        kept.rectified.push_back(sum ? Narrow(memory, call.pairs, in) : kept.inputs.back());
      }
      kept_.push_back(std::move(kept));
    }
    above_ = Narrow(memory, call.pairs, widest);
    for (auto* packed : {&pack_a_, &pack_b_, &pack_c_, &pack_d_})
      *packed = memory.take<Bf>((std::max(widest, call.pairs) + 1) * (std::max(widest, call.pairs) + 1));
  }
  Step<float>& step(int64_t) { return step_; }
  void finish() { at::native::cpublas::brgemm_release(); }  // the processor's tiles

  void keep(int64_t t) {
    Kept& kept = kept_[t];
    for (int64_t layer = 0; layer < call_.depth; ++layer) {
      kept.weights[layer].set(step_.weights[layer]);
      kept.deltas[layer].set(step_.deltas[layer]);
      if (layer == 0 && t > 0) continue;
      kept.inputs[layer].set(step_.inputs[layer]);
      if (layer > 0 && layer == call_.skip_to) kept.rectified[layer - 1].set(step_.rectified[layer - 1]);
    }
  }

  void repeat_backward(int64_t t) {  // from the last delta, which the caller has set in float32
    Kept& kept = kept_[t];
    const int64_t last = call_.depth - 1;
    kept.deltas[last].set(step_.deltas[last]);
    for (int64_t layer = last; layer > 0; --layer) {
      auto& below = step_.deltas[layer - 1];
      multiply(below, kept.deltas[layer], pack_rows(kept.weights[layer], pack_a_), false);
      passes_.join_skip(layer, below, step_.skipped);
      mask(below.data, kept.rectified[layer - 1].data, below.rows, below.columns,
           kept.rectified[layer - 1].stride);
      kept.deltas[layer - 1].set(below);
    }
  }

  void take_direction(Parameters<float>& along) {
    for (int64_t layer = 0; layer < call_.depth; ++layer) along_[layer].set(along.weights[layer]);
  }

  void tangent(int64_t t, int64_t layer, Parameters<float>&, Matrix<float>& out, Matrix<float>* below) {
    const Kept& kept = kept_[t];
    multiply(out, kept.inputs[layer], pack_transposed(along_[layer], pack_a_), false);
    if (below)
      multiply(out, tangents_[layer - 1], pack_transposed(kept.weights[layer], pack_b_), true);
  }
  void take_tangent(int64_t layer, Matrix<float>& tangent) { tangents_[layer].set(tangent); }
  void mask_tangent(int64_t t, int64_t layer, Matrix<float>& values) {
    const Narrow& output = kept_[t].rectified[layer];
    mask(values.data, output.data, values.rows, values.columns, output.stride);
  }

  void below(int64_t t, int64_t layer, Parameters<float>&, Matrix<float>& above, Matrix<float>& out) {
    const Kept& kept = kept_[t];
    above_.reshape(above.rows, above.columns);
    above_.set(above);
    multiply(out, above_, pack_rows(kept.weights[layer], pack_a_), false);
    multiply(out, kept.deltas[layer], pack_rows(along_[layer], pack_b_), true);
  }

  // `above_` is what `below` has just set.
  void weights(int64_t t, int64_t layer, Matrix<float>&, Matrix<float>* tangent, Matrix<float>& out,
               float scale) {
    const Kept& kept = kept_[t];
    Matrix<float> product = product_.shaped(out.rows, out.columns);
    multiply(product, transpose(above_, pack_a_, pack_c_), pack_rows(kept.inputs[layer], pack_b_), false);
    if (tangent)
      multiply(product, transpose(kept.deltas[layer], pack_a_, pack_c_),
               pack_rows(tangents_[layer - 1], pack_d_), true);
    for (int64_t i = 0; i < out.size(); ++i) out.data[i] += scale * product.data[i];
  }

 private:
  struct Kept {
    std::vector<Narrow> weights, inputs, rectified, deltas;
  };

  const Call& call_;
  Passes<float> passes_;
  Step<float> step_;
  std::vector<Kept> kept_;
  std::vector<Narrow> along_, tangents_;
  Narrow above_;
  Matrix<float> product_;
  Bf *pack_a_, *pack_b_, *pack_c_, *pack_d_;
};

// Calls of one shape, of at most so many steps as the first one had.
template <class Real, class Adjoint>
class Engine {
 public:
  explicit Engine(const Call& call)
      : sizes_(call.sizes, call.sizes + call.depth + 1), call_(own_sizes(call)), capacity_(call.steps),
        repeats_(call.adjoint_noise), adjoint_(memory_, call_, passes_),
        cotangent_(memory_, call_), carried_(memory_, call_),
        outer_(memory_, call_, OUTER_ROWS, false), velocity_(memory_, call_) {
    const int64_t values = call.pairs * call.action_dim;
    heads_.resize(call.steps);
    for (auto& head : heads_) head.resize(values, repeats_ ? call.pairs * sizes_.back() : 0);
    outer_head_.resize(OUTER_ROWS * call.action_dim, 0);
    for (int64_t layer = 0; layer < call.depth; ++layer) {
      tangents_.push_back(memory_.matrix<Real>(call.pairs, sizes_[layer + 1]));
      delta_tangents_.push_back(memory_.matrix<Real>(call.pairs, sizes_[layer]));
    }
    delta_tangents_.push_back(memory_.matrix<Real>(call.pairs, sizes_.back()));
    if (call.skip_to) skipped_ = memory_.matrix<Real>(call.pairs, sizes_[call.skip_from]);
  }

  bool fits(const Call& call) const {
    return std::equal(sizes_.begin(), sizes_.end(), call.sizes, call.sizes + call.depth + 1) &&
           call.pairs == call_.pairs && call.steps <= capacity_ && call.skip_from == call_.skip_from &&
           call.skip_to == call_.skip_to && call.action_dim == call_.action_dim &&
           call.noisy == call_.noisy && call.trained_scalars == call_.trained_scalars &&
           (!call.adjoint_noise || repeats_);
  }

  void train(const Call& call) {
    call_ = own_sizes(call);
    for (int64_t run = 0; run < call.runs; ++run) {
      const Step<Real>& trained = train_run(run);
      auto give = [&](int64_t index, const Real* from, int64_t size) {
        std::copy_n(from, size, static_cast<Real*>(call.trained[index]) + run * size);
      };
      for (int64_t layer = 0; layer < call.depth; ++layer) {
        give(2 * layer, trained.weights[layer].data, trained.weights[layer].size());
        give(2 * layer + 1, trained.biases[layer].data, trained.biases[layer].size());
      }
      if (!call.trained_scalars) continue;
      give(2 * call.depth, &multiplier_, 1);
      give(2 * call.depth + 1, &offset_, 1);
    }
  }

  void gradient(const Call& call) {
    call_ = own_sizes(call);
    for (int64_t run = 0; run < call.runs; ++run) gradient_of(run);
    adjoint_.finish();
  }

 private:
  Call own_sizes(Call call) const {  // the caller's sizes do not outlive the call
    call.sizes = sizes_.data();
    return call;
  }

  // Forward in time: T steps of BC, each of which keeps what its adjoint reads. Gives the trained one.
  Step<Real>& train_run(int64_t run) {
    const int64_t pairs = call_.pairs, values = pairs * call_.action_dim;
    const Real* actions = static_cast<const Real*>(call_.actions) + run * values;
    auto observations = matrix_of(const_cast<Real*>(static_cast<const Real*>(call_.observations)) +
                                      run * pairs * sizes_[0], pairs, sizes_[0]);
    start(run, adjoint_.step(0));
    for (int64_t t = 0; t < call_.steps; ++t) {
      auto& step = adjoint_.step(t);
      auto& head = heads_[t];
      step.inputs[0] = observations;
      head.multiplier = multiplier_, head.offset = offset_;
      passes_.forward(step);
      if (!head.outputs.empty()) std::copy_n(step.outputs.data, step.outputs.size(), head.outputs.data());
      passes_.head(step, head, pairs, actions, noise(call_.noise, t, run), nullptr, double(values));
      passes_.backward(step);
      if (!call_.trained) adjoint_.keep(t);
      update(t, step, adjoint_.step(t + 1), head);
    }
    return adjoint_.step(call_.steps);
  }

  void gradient_of(int64_t run) {
    const int64_t values = call_.pairs * call_.action_dim, inputs = call_.pairs * sizes_[0];
    const Real* actions = static_cast<const Real*>(call_.actions) + run * values;
    outer_gradient(run, train_run(run));

    // Backward in time; c_t is `cotangent_`, u_t `carried_`.
    if (call_.momentum != 0)
      carried_.each(carried_, [](Real& mine, Real&) { mine = 0; });
    Real* in_observations = static_cast<Real*>(call_.observations_gradient) + run * inputs;
    Real* in_actions = static_cast<Real*>(call_.actions_gradient) + run * values;
    std::fill_n(in_observations, inputs, Real(0));
    std::fill_n(in_actions, values, Real(0));
    for (int64_t t = call_.steps - 1; t >= 0; --t) {
      if (call_.adjoint_noise) redraw(t, actions, noise(call_.adjoint_noise, t, run));
      if (call_.momentum == 0) {
        sweep(t, cotangent_, Real(-call_.learning_rate), in_observations, in_actions);
        continue;
      }
      const Real momentum = Real(call_.momentum), rate = Real(call_.learning_rate);
      carried_.each(cotangent_, [=](Real& u, Real& c) { u = momentum * u - rate * c; });
      sweep(t, carried_, Real(1), in_observations, in_actions);
    }
  }

  void start(int64_t run, Step<Real>& step) {
    auto given = [&](int64_t index, int64_t size) {
      return static_cast<const Real*>(call_.initial[index]) + run * size;
    };
    for (int64_t layer = 0; layer < call_.depth; ++layer) {
      auto &weight = step.weights[layer], &bias = step.biases[layer];
      std::copy_n(given(2 * layer, weight.size()), weight.size(), weight.data);
      std::copy_n(given(2 * layer + 1, bias.size()), bias.size(), bias.data);
    }
    multiplier_ = call_.trained_scalars ? *given(2 * call_.depth, 1) : Real(1);
    offset_ = call_.trained_scalars ? *given(2 * call_.depth + 1, 1) : Real(call_.offset);
  }

  const Real* noise(const void* all, int64_t t, int64_t run) const {
    const int64_t values = call_.pairs * call_.action_dim;
    return all ? static_cast<const Real*>(all) + (t * call_.runs + run) * values : nullptr;
  }

  // One step of SGD from `step` into `next`, which may be the same.
  void update(int64_t t, Step<Real>& step, Step<Real>& next, const Head<Real>& head) {
    const Real rate = Real(call_.learning_rate), momentum = Real(call_.momentum);
    for (int64_t layer = 0; layer < call_.depth; ++layer) {
      auto &delta = step.deltas[layer], &weight = next.weights[layer], &bias = next.biases[layer];
      if (&step != &next) {
        std::copy_n(step.weights[layer].data, weight.size(), weight.data);
        std::copy_n(step.biases[layer].data, bias.size(), bias.data);
      }
      if (momentum == 0) {
        add_product(weight, delta.transposed, step.inputs[layer].plain, -rate);
        add_column_sums(bias.data, delta, -rate);
        continue;
      }
      auto &velocity = velocity_.weights[layer], &bias_velocity = velocity_.biases[layer];
      const Real kept = t == 0 ? 0 : momentum;
      for (auto* v : {&velocity, &bias_velocity})
        for (int64_t i = 0; i < v->size(); ++i) v->data[i] = kept == 0 ? 0 : kept * v->data[i];
      add_product(velocity, delta.transposed, step.inputs[layer].plain, 1);
      add_column_sums(bias_velocity.data, delta, Real(1));
      axpy(weight.data, velocity.data, -rate, weight.size());
      axpy(bias.data, bias_velocity.data, -rate, bias.size());
    }
    if (!call_.trained_scalars) return;
    Real of_multiplier = 0, of_offset = 0;
    for (size_t i = 0; i < head.delta.size(); ++i)
      of_multiplier += head.delta[i] * head.raw[i], of_offset += head.delta[i];
    velocity_.multiplier = of_multiplier + (t == 0 ? 0 : momentum * velocity_.multiplier);
    velocity_.offset = of_offset + (t == 0 ? 0 : momentum * velocity_.offset);
    multiplier_ -= rate * velocity_.multiplier, offset_ -= rate * velocity_.offset;
  }

  // Outer loss and c_T, its gradient in the trained parameters, from a part of the batch at a time.
  void outer_gradient(int64_t run, Step<Real>& trained) {
    cotangent_.each(cotangent_, [](Real& mine, Real&) { mine = 0; });
    outer_head_.multiplier = multiplier_, outer_head_.offset = offset_;
    const int64_t batch = call_.batch, acts = call_.action_dim;
    const double samples = double(batch) * double(acts);
    auto at = [&](const void* all, int64_t first, int64_t width) {
      return all ? static_cast<const Real*>(all) + (run * batch + first) * width : nullptr;
    };
    double sum = 0;
    for (int64_t first = 0; first < batch; first += OUTER_ROWS) {
      const int64_t rows = std::min(OUTER_ROWS, batch - first);
      Step<Real>& step = rows == OUTER_ROWS ? outer_ : outer_rest(rows);
      step.weights = trained.weights, step.biases = trained.biases;
      step.inputs[0] = matrix_of(const_cast<Real*>(at(call_.outer_observations, first, sizes_[0])), rows,
                                 sizes_[0]);
      passes_.forward(step);
      sum += passes_.head(step, outer_head_, rows, at(call_.outer_actions, first, acts),
                          at(call_.outer_noise, first, acts), at(call_.outer_weights, first, 1), samples);
      passes_.backward(step);
      for (int64_t layer = 0; layer < call_.depth; ++layer) {
        add_product(cotangent_.weights[layer], step.deltas[layer].transposed, step.inputs[layer].plain, 1);
        add_column_sums(cotangent_.biases[layer].data, step.deltas[layer], Real(1));
      }
      if (!call_.trained_scalars) continue;
      for (int64_t i = 0; i < rows * acts; ++i) {
        cotangent_.multiplier += outer_head_.delta[i] * outer_head_.raw[i];
        cotangent_.offset += outer_head_.delta[i];
      }
    }
    static_cast<Real*>(call_.loss)[run] = Real(sum / samples);
  }

  Step<Real>& outer_rest(int64_t rows) {  // the last part of a batch that is no multiple of OUTER_ROWS
    if (!rest_ || rest_->outputs.rows != rows)
      rest_ = std::make_unique<Step<Real>>(rest_memory_ = Memory(), call_, rows, false);
    return *rest_;
  }

  // Repeat the backward pass of a step under other noise (the published adjoint).
  void redraw(int64_t t, const Real* actions, const Real* noise) {
    auto& step = adjoint_.step(t);
    std::copy_n(heads_[t].outputs.data(), step.outputs.size(), step.outputs.data);
    passes_.head(step, heads_[t], call_.pairs, actions, noise, nullptr,
                 double(call_.pairs) * double(call_.action_dim));
    adjoint_.repeat_backward(t);
  }

  // `InnerLoop._sweep`: one Hessian-vector product and the mixed derivatives along `along`.
  void sweep(int64_t t, Parameters<Real>& along, Real scale, Real* in_observations, Real* in_actions) {
    const int64_t depth = call_.depth;
    adjoint_.take_direction(along);
    for (int64_t layer = 0; layer < depth; ++layer) {
      auto& tangent = tangents_[layer];
      adjoint_.tangent(t, layer, along, tangent, layer ? &tangents_[layer - 1] : nullptr);
      add_to_rows(tangent, along.biases[layer].data);
      if (layer + 1 == depth) break;
      adjoint_.mask_tangent(t, layer, tangent);
      if (layer + 1 == call_.skip_to)
        add(tangent.data, tangent.data, tangents_[call_.skip_from - 1].data, tangent.size());
      adjoint_.take_tangent(layer, tangent);
    }
    head_tangent(heads_[t], along, scale, in_actions);
    for (int64_t layer = depth - 1; layer >= 0; --layer) {
      auto &above = delta_tangents_[layer + 1], &below = delta_tangents_[layer];
      // First R{dL/dx}, which reads the direction, then the cotangent, which may be the same memory.
      adjoint_.below(t, layer, along, above, below);
      adjoint_.weights(t, layer, above, layer ? &tangents_[layer - 1] : nullptr, cotangent_.weights[layer],
                       scale);
      add_column_sums(cotangent_.biases[layer].data, above, scale);
      if (layer == 0) {
        axpy(in_observations, below.data, scale, below.size());
        break;
      }
      passes_.join_skip(layer, below, skipped_);
      adjoint_.mask_tangent(t, layer - 1, below);
    }
  }

  // `bc_loss_tangent` and `_sweep_scalars`: the tangent of the loss's derivative in the outputs.
  void head_tangent(const Head<Real>& head, Parameters<Real>& along, Real scale, Real* in_actions) {
    const int64_t acts = call_.action_dim, outputs = sizes_.back();
    const Real per_sample = Real(2 / (double(call_.pairs) * double(acts)));
    const Real m = head.multiplier, along_m = along.multiplier, along_offset = along.offset;
    Real of_multiplier = 0, of_offset = 0;
    for (int64_t row = 0; row < call_.pairs; ++row)
      for (int64_t act = 0; act < acts; ++act) {
        const int64_t at = row * acts + act;
        const Real* tangent = tangents_.back().data + row * outputs + act;
        Real* delta = delta_tangents_.back().data + row * outputs + act;
        Real u = tangent[0], log_std = 0;
        if (call_.noisy) {
          log_std = tangent[acts] * m;
          if (call_.trained_scalars) log_std += head.raw[at] * along_m + along_offset;
          u += log_std * head.deviation[at];
        }
        const Real action = head.slope[at] * u * per_sample;
        const Real inner = action * (head.slope[at] - 2 * head.action[at] * head.error[at]);
        in_actions[at] -= scale * action;
        delta[0] = inner;
        if (!call_.noisy) continue;
        // product rule on inner * deviation, whose own tangent is deviation * R{log_std}
        const Real of_log_std = inner * head.deviation[at] + head.delta[at] * log_std;
        delta[acts] = of_log_std * m;
        if (!call_.trained_scalars) continue;
        delta[acts] += head.delta[at] * along_m;
        of_multiplier += of_log_std * head.raw[at] + head.delta[at] * tangent[acts];
        of_offset += of_log_std;
      }
    if (!call_.trained_scalars) return;
    cotangent_.multiplier += scale * of_multiplier;
    cotangent_.offset += scale * of_offset;
  }

  std::vector<int64_t> sizes_;
  Call call_;
  int64_t capacity_;
  bool repeats_;
  Passes<Real> passes_{call_};
  Memory memory_, rest_memory_;
  Adjoint adjoint_;
  std::vector<Head<Real>> heads_;
  Head<Real> outer_head_;
  Parameters<Real> cotangent_, carried_;
  Step<Real> outer_;
  Parameters<Real> velocity_;
  std::unique_ptr<Step<Real>> rest_;
  std::vector<Matrix<Real>> tangents_, delta_tangents_;
  Matrix<Real> skipped_;
  Real multiplier_ = 1, offset_ = 0;
};

thread_local std::string failure;

// The engine of a thread's last call serves the next one of the same shape.
template <class Real, class Adjoint>
int run(const Call* call) {
  static thread_local std::unique_ptr<Engine<Real, Adjoint>> engine;
  try {
    const c10::InferenceMode no_autograd;
    if (!engine || !engine->fits(*call)) {
      engine.reset();  // its memory first
      engine = std::make_unique<Engine<Real, Adjoint>>(*call);
    }
    call->trained ? engine->train(*call) : engine->gradient(*call);
    return 0;
  } catch (const std::exception& error) {
    engine.reset();
    failure = error.what();
    return 1;
  }
}

}  // namespace

extern "C" {
int inner_loop_float32(const Call* call) { return run<float, SamePrecision<float>>(call); }
int inner_loop_float64(const Call* call) { return run<double, SamePrecision<double>>(call); }
int inner_loop_bf16_adjoint(const Call* call) { return run<float, Bf16>(call); }
int bf16_products() { return at::native::cpublas::could_pack(at::kBFloat16); }
const char* last_failure() { return failure.c_str(); }
const char* built_for() { return TORCH; }  // the version of torch whose headers these are
}
