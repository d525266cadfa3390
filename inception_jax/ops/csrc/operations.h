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

struct Windows {
  int64_t stride, pad_top, pad_left;
};
struct ConvAttributes {
  Windows windows;
  bool relu_input, relu;  // a ReLU after the deferred norm of the input; after the bias
};
struct KernelGradientAttributes {
  Windows windows;
  bool relu_input;
};
struct PoolAttributes {
  Windows windows;
  int64_t window;  // its height and width
};

inline ConvShape conv_shape(Dimensions input, Dimensions kernel, Dimensions out, const Windows& windows) {
  return {.batch = input[0],
          .height = input[1],
          .width = input[2],
          .channels = input[3],
          .kernel_height = kernel[0],
          .kernel_width = kernel[1],
          .features = kernel[3],
          .out_height = out[1],
          .out_width = out[2],
          .stride = windows.stride,
          .pad_top = windows.pad_top,
          .pad_left = windows.pad_left};
}

inline ConvShape pool_shape(Dimensions input, Dimensions out, const PoolAttributes& attributes) {
  int64_t kernel[] = {attributes.window, attributes.window, 1, input[3]};
  return conv_shape(input, Dimensions(kernel, 4), out, attributes.windows);
}

inline float lower_bound(bool relu) { return relu ? 0.0f : -std::numeric_limits<float>::infinity(); }

inline Input with_deferred_norm(Array<4> activations, Array<3> norm, bool relu) {
  DeferredNorm deferred{.values = norm.typed_data(),
                        .groups = norm.dimensions()[1],
                        .channels = norm.dimensions()[2],
                        .batch = activations.dimensions()[0],
                        .low = lower_bound(relu)};
  return {activations.typed_data(), deferred};
}

inline bool any(const std::vector<uint8_t>& flags) {
  return std::any_of(flags.begin(), flags.end(), [](uint8_t flag) { return flag != 0; });
}

// Convolves the images that `wanted` [batch] is set for.
inline void run_direct(ffi::ThreadPool& pool, const ConvOperands& operands, const std::vector<uint8_t>& wanted) {
  DirectConv op(operands);
  run_tasks(pool, op.blocks(), op, pack_kernel_for_this_cpu());
  Task<DirectConv> task = direct_conv_for_this_cpu();
  parallel_for(pool, op.tasks(), [&](int64_t i) {
    if (wanted[op.image_of(i)]) task(op, i);
  });
}

inline void run_winograd(ffi::ThreadPool& pool, const ConvOperands& operands, std::vector<uint8_t>& not_finite) {
  WinogradConv op(operands, not_finite.data());
  run_tasks(pool, op.blocks(), op, transform_kernel_for_this_cpu());
  run_tasks(pool, op.tasks(), op, winograd_conv_for_this_cpu());
}

inline ffi::Error conv(ffi::ThreadPool pool, Array<4> input, Array<4> kernel, Array<3> norm, Array<1> bias,
                       Result<4> out, ConvAttributes attributes) {
  if (out->element_count() == 0) return ffi::Error::Success();
  ConvOperands operands{
      .shape = conv_shape(input.dimensions(), kernel.dimensions(), out->dimensions(), attributes.windows),
      .input = with_deferred_norm(input, norm, attributes.relu_input),
      .kernel = kernel.typed_data(),
      .epilogue = {bias.element_count() == 0 ? nullptr : bias.typed_data(), lower_bound(attributes.relu)},
      .out = out->typed_data()};
  std::vector<uint8_t> direct(operands.shape.batch, 1);  // the images that the direct algorithm convolves
  if (suits_winograd(operands.shape)) {
    direct.assign(operands.shape.batch, 0);
    run_winograd(pool, operands, direct);
  }
  if (any(direct)) run_direct(pool, operands, direct);
  return ffi::Error::Success();
}

// Computes a kernel gradient. Returns whether it is final: finite, or what the direct algorithm gives.
template <typename Operation>
bool run_kernel_gradient(ffi::ThreadPool& pool, const Operation& op, Task<Operation> task, float* out) {
  run_tasks(pool, op.tasks(), op, task);
  std::vector<uint8_t> not_final(op.slices);
  parallel_for(pool, op.slices, [&](int64_t slice) { not_final[slice] = !op.add_splits(out, slice); });
  return !any(not_final);
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
          conv_shape(input.dimensions(), gradient->dimensions(), out_gradient.dimensions(), attributes.windows),
      .input = with_deferred_norm(input, norm, attributes.relu_input),
      .out_gradient = out_gradient.typed_data()};
  float* out = gradient->typed_data();
  if (suits_winograd(operands.shape) &&
      run_kernel_gradient(pool, WinogradKernelGradient(operands), winograd_kernel_gradient_for_this_cpu(), out)) {
    return ffi::Error::Success();
  }
  run_kernel_gradient(pool, DirectKernelGradient(operands), direct_kernel_gradient_for_this_cpu(), out);
  return ffi::Error::Success();
}

inline ffi::Error unequal_groups(int64_t images, int64_t groups) {
  return ffi::Error::InvalidArgument("inception_jax: a batch of " + std::to_string(images) +
                                     " images cannot be divided into " + std::to_string(groups) + " equal groups");
}

inline ffi::Error channel_moments(ffi::ThreadPool pool, Array<4> activations, Array<1> origin, Result<3> means) {
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

inline ffi::Error norm_gradient(ffi::ThreadPool pool, Array<4> activations, Array<4> out_gradient, Array<3> norm,
                                Result<4> gradient, Result<3> totals, bool relu) {
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

inline ffi::Error pool_without_argmax(ffi::ThreadPool pool, Array<4> input, Result<4> out, PoolAttributes attributes) {
  MaxPool op{.shape = pool_shape(input.dimensions(), out->dimensions(), attributes),
             .input = input.typed_data(),
             .out = out->typed_data(),
             .argmax = nullptr};
  run_tasks(pool, op.tasks(), op, max_pool_for_this_cpu());
  return ffi::Error::Success();
}

inline ffi::Error pool_with_argmax(ffi::ThreadPool pool, Array<4> input, Result<4> out, ffi::Result<ArgmaxArray> argmax,
                                   PoolAttributes attributes) {
  MaxPool op{.shape = pool_shape(input.dimensions(), out->dimensions(), attributes),
             .input = input.typed_data(),
             .out = out->typed_data(),
             .argmax = argmax->typed_data()};
  run_tasks(pool, op.tasks(), op, max_pool_for_this_cpu());
  return ffi::Error::Success();
}

inline ffi::Error pool_gradient(ffi::ThreadPool pool, ArgmaxArray argmax, Array<4> out_gradient, Result<4> gradient,
                                PoolAttributes attributes) {
  MaxPoolGradient op{.shape = pool_shape(gradient->dimensions(), out_gradient.dimensions(), attributes),
                     .argmax = argmax.typed_data(),
                     .out_gradient = out_gradient.typed_data(),
                     .gradient = gradient->typed_data()};
  run_tasks(pool, op.tasks(), op, max_pool_gradient_for_this_cpu());
  return ffi::Error::Success();
}

}  // namespace native_ops
