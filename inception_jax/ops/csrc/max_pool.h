// Max pools, with the argmax indices from which their gradients follow.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "conv_operands.h"

namespace native_ops {

constexpr int64_t kPoolChannels = 64;  // whose maxima stay in registers and cache while a window is read

struct MaxPool {
  ConvShape shape;  // its kernel is the window, with one feature per channel
  const float* input;
  float* out;
  int8_t* argmax;  // null if not wanted; otherwise the index of the first maximum within its window, row by row

  int64_t tasks() const { return shape.batch * shape.out_height; }
};

// The part of a window that lies within the input; padding never holds the maximum.
struct WindowOverlap {
  int64_t top, left;  // of the window, in the input; negative in the padding
  int64_t first_row, last_row, first_column, last_column;

  ALWAYS_INLINE WindowOverlap(const ConvShape& s, int64_t y, int64_t x)
      : top(y * s.stride - s.pad_top),
        left(x * s.stride - s.pad_left),
        first_row(std::max<int64_t>(-top, 0)),
        last_row(std::min(s.kernel_height, s.height - top)),
        first_column(std::max<int64_t>(-left, 0)),
        last_column(std::min(s.kernel_width, s.width - left)) {}
};

// Pools a row of the output. Of NaN in a window the last is the maximum.
template <int kLanes, int kRows>
ALWAYS_INLINE void max_pool(const MaxPool& op, int64_t index) {
  const ConvShape& s = op.shape;
  int64_t image = index / s.out_height, y = index % s.out_height;
  for (int64_t x = 0; x < s.out_width; ++x) {
    WindowOverlap overlap(s, y, x);
    int64_t at = (index * s.out_width + x) * s.channels;
    const float* window = op.input + image * s.image_size() + (overlap.top * s.width + overlap.left) * s.channels;
    for (int64_t channel = 0; channel < s.channels; channel += kPoolChannels) {
      int64_t count = std::min(kPoolChannels, s.channels - channel);
      float maxima[kPoolChannels];
      int32_t argmax[kPoolChannels] = {};  // as wide as floats, so that the loop over channels is vectorised
      std::fill_n(maxima, kPoolChannels, -std::numeric_limits<float>::infinity());
      for (int64_t i = overlap.first_row; i < overlap.last_row; ++i) {
        for (int64_t j = overlap.first_column; j < overlap.last_column; ++j) {
          const float* values = window + (i * s.width + j) * s.channels + channel;
          int32_t window_index = static_cast<int32_t>(i * s.kernel_width + j);
          for (int64_t c = 0; c < count; ++c) {
            bool is_maximum = (values[c] > maxima[c]) | (values[c] != values[c]);
            maxima[c] = is_maximum ? values[c] : maxima[c];
            argmax[c] = is_maximum ? window_index : argmax[c];
          }
        }
      }
      std::copy_n(maxima, count, op.out + at + channel);
      if (op.argmax == nullptr) continue;
      for (int64_t c = 0; c < count; ++c) op.argmax[at + channel + c] = static_cast<int8_t>(argmax[c]);
    }
  }
}

DEFINE_TASK(max_pool, MaxPool)

struct MaxPoolGradient {
  ConvShape shape;
  const int8_t* argmax;
  const float* out_gradient;
  float* gradient;  // with respect to the input

  int64_t tasks() const { return shape.batch; }
};

// Adds each gradient of the output to the pixel that was the maximum. Windows overlap, so a task takes a whole image.
template <int kLanes, int kRows>
ALWAYS_INLINE void max_pool_gradient(const MaxPoolGradient& op, int64_t image) {
  const ConvShape& s = op.shape;
  float* gradient = op.gradient + image * s.image_size();
  std::fill_n(gradient, s.image_size(), 0.0f);
  for (int64_t y = 0; y < s.out_height; ++y) {
    for (int64_t x = 0; x < s.out_width; ++x) {
      int64_t at = ((image * s.out_height + y) * s.out_width + x) * s.channels;
      WindowOverlap overlap(s, y, x);
      for (int64_t i = overlap.first_row; i < overlap.last_row; ++i) {
        for (int64_t j = overlap.first_column; j < overlap.last_column; ++j) {
          float* pixel = gradient + ((overlap.top + i) * s.width + overlap.left + j) * s.channels;
          int8_t window_index = static_cast<int8_t>(i * s.kernel_width + j);
          const int8_t* argmax = op.argmax + at;
          const float* out_gradient = op.out_gradient + at;
#pragma GCC ivdep
          for (int64_t c = 0; c < s.channels; ++c) pixel[c] += argmax[c] == window_index ? out_gradient[c] : 0.0f;
        }
      }
    }
  }
}

DEFINE_TASK(max_pool_gradient, MaxPoolGradient)

}  // namespace native_ops
