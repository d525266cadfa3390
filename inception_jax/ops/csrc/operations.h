// The operations that XLA calls: from its buffers and attributes to the tasks that compute them. All are called by one
// thread, and return when every task has ended.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "batch_norm.h"
#include "direct_conv.h"
#include "max_pool.h"
#include "parallel_for.h"
#include "winograd_conv.h"
#include "winograd_kernel_gradient.h"
#include "xla/ffi/api/ffi.h"

namespace native_ops {

namespace ffi = xla::ffi;

template <size_t kRank>
using Array = ffi::Buffer<ffi::F32, kRank>;
template <size_t kRank>
using Result = ffi::ResultBuffer<ffi::F32, kRank>;
using ArgmaxArray = ffi::Buffer<ffi::S8, 4>;
using Dimensions = ffi::Span<const int64_t>;

// Where the windows lie: how far apart, and how far the first begins above and left of the input, in pixels.
struct Placement {
  int64_t stride, pad_top, pad_left;
};
struct ConvAttributes {
  Placement placement;
  bool relu_input, relu;  // a ReLU after the deferred norm of the input; after the bias
};
struct KernelGradientAttributes {
  Placement placement;
  bool relu_input;
};
struct PoolAttributes {
  Placement placement;
  int64_t window;  // its height and width
};

inline ConvShape conv_shape(Dimensions input, Dimensions kernel, Dimensions out, const Placement& placement) {
  return {.batch = input[0],
          .height = input[1],
          .width = input[2],
          .channels = input[3],
          .kernel_height = kernel[0],
          .kernel_width = kernel[1],
          .features = kernel[3],
          .out_height = out[1],
          .out_width = out[2],
          .stride = placement.stride,
          .pad_top = placement.pad_top,
          .pad_left = placement.pad_left};
}

inline ConvShape pool_shape(Dimensions input, Dimensions out, const PoolAttributes& attributes) {
  int64_t kernel[] = {attributes.window, attributes.window, 1, input[3]};
  return conv_shape(input, Dimensions(kernel, 4), out, attributes.placement);
}

// With ReLU 0; without, -infinity, which changes no value.
inline float relu_floor(bool relu) { return relu ? 0.0f : -std::numeric_limits<float>::infinity(); }

inline Input with_deferred_norm(Array<4> activations, Array<3> norm, bool relu) {
  DeferredNorm deferred{.values = norm.typed_data(),
                        .groups = norm.dimensions()[1],
                        .channels = norm.dimensions()[2],
                        .batch = activations.dimensions()[0],
                        .relu_floor = relu_floor(relu)};
  return {activations.typed_data(), deferred};
}

inline bool any(const std::vector<uint8_t>& flags) {
  return std::any_of(flags.begin(), flags.end(), [](uint8_t flag) { return flag != 0; });
}

// Convolves the images that needs_direct [batch] is set for.
inline void run_direct(ffi::ThreadPool& pool, const ConvOperands& operands, const std::vector<uint8_t>& needs_direct) {
  DirectConv op(operands);
  run_tasks(pool, op.blocks(), op, pack_kernel_for_this_cpu());
  TaskFn<DirectConv> function = direct_conv_for_this_cpu();
  parallel_for(pool, op.tasks(), [&](int64_t index) {
    if (needs_direct[op.image_of(index)]) function(op, index);
  });
}

// Convolves all images, and sets needs_direct [batch] for those whose output is not finite everywhere.
inline void run_winograd(ffi::ThreadPool& pool, const ConvOperands& operands, std::vector<uint8_t>& needs_direct) {
  WinogradConv op(operands, needs_direct.data());
  run_tasks(pool, op.blocks(), op, transform_kernel_for_this_cpu());
  run_tasks(pool, op.tasks(), op, winograd_conv_for_this_cpu());
}

// Computes a kernel gradient. Returns whether the direct algorithm has to compute it again.
template <typename Operation>
bool run_kernel_gradient(ffi::ThreadPool& pool, const Operation& op, TaskFn<Operation> function, float* out) {
  run_tasks(pool, op.tasks(), op, function);
  std::vector<uint8_t> needs_direct(op.slices);
  parallel_for(pool, op.slices, [&](int64_t slice) { needs_direct[slice] = op.reduce_splits(out, slice); });
  return any(needs_direct);
}

inline ffi::Error unequal_groups(int64_t images, int64_t groups) {
  return ffi::Error::InvalidArgument("inception_jax: a batch of " + std::to_string(images) +
                                     " images cannot be divided into " + std::to_string(groups) + " equal groups");
}

// The calls of module.cc, under their names there.
namespace calls {

inline ffi::Error conv(ffi::ThreadPool pool, Array<4> input, Array<4> kernel, Array<3> norm, Array<1> bias,
                       Result<4> out, ConvAttributes attributes) {
  if (out->element_count() == 0) return ffi::Error::Success();
  ConvOperands operands{
      .shape = conv_shape(input.dimensions(), kernel.dimensions(), out->dimensions(), attributes.placement),
      .input = with_deferred_norm(input, norm, attributes.relu_input),
      .kernel = kernel.typed_data(),
      .epilogue = {bias.element_count() == 0 ? nullptr : bias.typed_data(), relu_floor(attributes.relu)},
      .out = out->typed_data()};
  bool winograd = suits_winograd(operands.shape);
  std::vector<uint8_t> needs_direct(operands.shape.batch, !winograd);
  if (winograd) run_winograd(pool, operands, needs_direct);
  if (any(needs_direct)) run_direct(pool, operands, needs_direct);
  return ffi::Error::Success();
}

inline ffi::Error conv_kernel_gradient(ffi::ThreadPool pool, Array<4> input, Array<4> out_gradient, Array<3> norm,
                                       Result<4> gradient, KernelGradientAttributes attributes) {
  if (gradient->element_count() == 0) return ffi::Error::Success();
  if (out_gradient.element_count() == 0) {
    std::fill_n(gradient->typed_data(), gradient->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  KernelGradientOperands operands{
      .shape =
          conv_shape(input.dimensions(), gradient->dimensions(), out_gradient.dimensions(), attributes.placement),
      .input = with_deferred_norm(input, norm, attributes.relu_input),
      .out_gradient = out_gradient.typed_data()};
  float* out = gradient->typed_data();
  bool needs_direct = true;
  if (suits_winograd(operands.shape)) {
    needs_direct =
        run_kernel_gradient(pool, WinogradKernelGradient(operands), winograd_kernel_gradient_for_this_cpu(), out);
  }
  if (needs_direct) {
    run_kernel_gradient(pool, DirectKernelGradient(operands), direct_kernel_gradient_for_this_cpu(), out);
  }
  return ffi::Error::Success();
}

inline ffi::Error moments(ffi::ThreadPool pool, Array<4> activations, Array<1> origin, Result<3> means) {
  auto shape = activations.dimensions();
  if (means->element_count() == 0) return ffi::Error::Success();
  int64_t groups = means->dimensions()[1], pixels = shape[0] / groups * shape[1] * shape[2];
  if (shape[0] % groups != 0) return unequal_groups(shape[0], groups);
  ChannelSums sums(groups, pixels, shape[3]);
  Moments op{activations.typed_data(), origin.typed_data(), &sums};
  run_tasks(pool, sums.tasks(), op, moments_for_this_cpu());
  sums.add_chunks(1.0 / static_cast<double>(pixels), means->typed_data());
  return ffi::Error::Success();
}

inline ffi::Error deferred_norm_gradient(ffi::ThreadPool pool, Array<4> activations, Array<4> out_gradient,
                                         Array<3> norm, Result<4> gradient, Result<3> totals, bool relu) {
  auto shape = activations.dimensions();
  int64_t groups = norm.dimensions()[1];
  if (shape[3] == 0) return ffi::Error::Success();
  if (groups == 0 || shape[0] % groups != 0) return unequal_groups(shape[0], groups);
  ChannelSums sums(groups, shape[0] / groups * shape[1] * shape[2], shape[3]);
  DeferredNormGradient op{.input = with_deferred_norm(activations, norm, relu),
                          .out_gradient = out_gradient.typed_data(),
                          .gradient = gradient->typed_data(),
                          .sums = &sums};
  run_tasks(pool, sums.tasks(), op, deferred_norm_gradient_for_this_cpu());
  sums.add_chunks(1.0, totals->typed_data());
  return ffi::Error::Success();
}

inline ffi::Error max_pool(ffi::ThreadPool pool, Array<4> input, Result<4> out, PoolAttributes attributes) {
  MaxPool op{.shape = pool_shape(input.dimensions(), out->dimensions(), attributes),
             .input = input.typed_data(),
             .out = out->typed_data(),
             .argmax = nullptr};
  run_tasks(pool, op.tasks(), op, max_pool_for_this_cpu());
  return ffi::Error::Success();
}

inline ffi::Error max_pool_with_argmax(ffi::ThreadPool pool, Array<4> input, Result<4> out,
                                       ffi::Result<ArgmaxArray> argmax, PoolAttributes attributes) {
  MaxPool op{.shape = pool_shape(input.dimensions(), out->dimensions(), attributes),
             .input = input.typed_data(),
             .out = out->typed_data(),
             .argmax = argmax->typed_data()};
  run_tasks(pool, op.tasks(), op, max_pool_for_this_cpu());
  return ffi::Error::Success();
}

inline ffi::Error max_pool_gradient(ffi::ThreadPool pool, ArgmaxArray argmax, Array<4> out_gradient, Result<4> gradient,
                                    PoolAttributes attributes) {
  MaxPoolGradient op{.shape = pool_shape(gradient->dimensions(), out_gradient.dimensions(), attributes),
                     .argmax = argmax.typed_data(),
                     .out_gradient = out_gradient.typed_data(),
                     .gradient = gradient->typed_data()};
  run_tasks(pool, op.tasks(), op, max_pool_gradient_for_this_cpu());
  return ffi::Error::Success();
}

}  // namespace calls
}  // namespace native_ops
