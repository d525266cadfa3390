// What a convolution reads and writes: arrays, their shapes, the padding, a norm on the input, a ReLU on the output.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vector_isa.h"

namespace native_ops {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Padding. An output row is computed from `kernel_height` input rows, each with zeros to its left and right. With
// 5 input pixels a ... e, a kernel 3 wide, stride 2 and pad_left = 1, a padded row holds 7 pixels and has 3 windows:
//
//     padded row   0   a   b   c   d   e   0         each is a pixel of `channels` values
//     window 0     |-------|
//     window 1             |-------|
//     window 2                     |-------|
//
// The width of the padded row follows from the windows, so there is no pad_right; pixels that no window covers are left
// out. A negative pad_left leaves out the first pixels of the input. Rows and pad_top are the same, from top to bottom.
//
// In NHWC the values that one row of a window covers are contiguous, and the next window starts stride * channels
// values further on. So the windows of a padded row are a matrix whose rows overlap in memory: nothing is copied per
// window (no im2col), and a convolution is a sum of `kernel_height` matrix products.
struct ConvShape {
  int64_t batch, height, width, channels;         // of the input, NHWC
  int64_t kernel_height, kernel_width, features;  // of the kernel, HWIO
  int64_t out_height, out_width;                  // of the output, NHWC
  int64_t stride, pad_top, pad_left;

  // In pixels: a padded row, and the padded rows that out_rows output rows are computed from.
  int64_t padded_width() const { return (out_width - 1) * stride + kernel_width; }
  int64_t padded_height(int64_t out_rows) const { return (out_rows - 1) * stride + kernel_height; }

  // In values: a pixel has `channels` of them.
  int64_t padded_row_size() const { return padded_width() * channels; }
  int64_t image_size() const { return height * width * channels; }
  int64_t window_step() const { return stride * channels; }  // from one window to the next
  int64_t window_row_size() const { return kernel_width * channels; }
  int64_t window_size() const { return kernel_height * window_row_size(); }
};

// Batch norm and ReLU that the input has not had yet. They are applied while rows are copied, so the normalised
// activations are never stored:
//
//     y = max((x - mean) * scale + bias, relu_floor)    per channel and group of consecutive images
//
// relu_floor is 0 with ReLU and -infinity without. If `groups` is 0, there is nothing to apply.
struct DeferredNorm {
  const float* values;  // [3, groups, channels]: mean, scale, bias
  int64_t groups, channels, batch;
  float relu_floor;

  // Returns the means [channels] of the image's group, or null without groups. The group's scales lie groups * channels
  // values further on, and its biases twice as far.
  const float* means_of_image(int64_t image) const {
    return groups == 0 ? nullptr : values + image * groups / batch * channels;
  }

  ALWAYS_INLINE void apply(const float* mean, const float* pixels, int64_t count, float* out) const {
    const float *scale = mean + groups * channels, *bias = scale + groups * channels;
    for (int64_t i = 0; i < count; ++i, pixels += channels, out += channels) {
#pragma GCC ivdep
      for (int64_t c = 0; c < channels; ++c) {
        float value = (pixels[c] - mean[c]) * scale[c] + bias[c];
        out[c] = value < relu_floor ? relu_floor : value;  // keeps NaN
      }
    }
  }
};

struct Input {
  const float* activations;  // [batch, height, width, channels]
  DeferredNorm norm;
};

// What follows a convolution: its bias, and its ReLU (relu_floor as in DeferredNorm).
struct Epilogue {
  const float* bias;  // [features], or null
  float relu_floor;

  // Applies it to features first ... first + count - 1 of a pixel.
  ALWAYS_INLINE void apply(float* out, int64_t first, int64_t count) const {
    for (int64_t f = 0; f < count; ++f) {
      float value = bias == nullptr ? out[f] : out[f] + bias[first + f];
      out[f] = value < relu_floor ? relu_floor : value;  // keeps NaN
    }
  }
};

struct ConvOperands {
  ConvShape shape;
  Input input;
  const float* kernel;  // [kernel_height, kernel_width, channels, features]
  Epilogue epilogue;
  float* out;  // [batch, out_height, out_width, features]
};

struct KernelGradientOperands {
  ConvShape shape;
  Input input;
  const float* out_gradient;  // [batch, out_height, out_width, features]
};

}  // namespace native_ops
