// Batch norm in training: the moments of activations, and the gradient of a norm that was deferred.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv_operands.h"

namespace native_ops {

constexpr int64_t kPixelsPerChunk = 512;  // added up in float32; the sums of chunks are added up in float64

// Two sums per channel, over the pixels of each group of consecutive images. Task `index` sums one chunk of pixels.
struct ChannelSums {
  int64_t groups, pixels, channels;  // pixels of a group
  std::vector<float> chunk_sums;     // [groups, chunks, 2, channels]

  ChannelSums(int64_t groups, int64_t pixels, int64_t channels)
      : groups(groups), pixels(pixels), channels(channels), chunk_sums(groups * chunks() * 2 * channels) {}
  int64_t chunks() const { return ceil_div(pixels, kPixelsPerChunk); }
  int64_t tasks() const { return groups * chunks(); }
  int64_t group(int64_t index) const { return index / chunks(); }
  int64_t first_pixel(int64_t index) const { return group(index) * pixels + index % chunks() * kPixelsPerChunk; }
  int64_t count(int64_t index) const { return std::min(kPixelsPerChunk, pixels - index % chunks() * kPixelsPerChunk); }
  float* of_task(int64_t index) { return chunk_sums.data() + index * 2 * channels; }  // [2, channels]

  // Writes the sums of all chunks, times a factor, to [2, groups, channels].
  void add_chunks(double factor, float* out) const {
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t i = 0; i < 2 * channels; ++i) {
        double sum = 0;
        for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
          sum += chunk_sums[(group * chunks() + chunk) * 2 * channels + i];
        }
        out[(i / channels * groups + group) * channels + i % channels] = static_cast<float>(sum * factor);
      }
    }
  }
};

// Sums of x - origin and of (x - origin)^2. An origin near the mean keeps the second from losing digits.
struct Moments {
  const float* activations;
  const float* origin;  // [channels]
  ChannelSums* sums;
};

template <int kLanes, int kRows>
ALWAYS_INLINE void moments(const Moments& op, int64_t index) {
  int64_t channels = op.sums->channels;
  const float* pixel = op.activations + op.sums->first_pixel(index) * channels;
  float *first = op.sums->of_task(index), *second = first + channels;
  for (int64_t i = 0; i < op.sums->count(index); ++i, pixel += channels) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      float distance = pixel[c] - op.origin[c];
      first[c] += distance;
      second[c] += distance * distance;
    }
  }
}

DEFINE_TASK(moments, Moments)

// The gradient of y = max((x - mean) * scale + bias, relu_floor), given dy. ReLU passes dy on where its
// input is above the floor:
//
//     passed = dy where (x - mean) * scale + bias > relu_floor, else 0
//     dx     = passed * scale
//
// and, over the pixels of a group, dbias = sum(passed), dscale = sum(passed * (x - mean)) and dmean = -scale * dbias.
struct DeferredNormGradient {
  Input input;
  const float* out_gradient;  // dy
  float* gradient;            // dx
  ChannelSums* sums;          // of passed, and of passed * (x - mean)
};

template <int kLanes, int kRows>
ALWAYS_INLINE void deferred_norm_gradient(const DeferredNormGradient& op, int64_t index) {
  int64_t channels = op.sums->channels, at = op.sums->first_pixel(index) * channels;
  const float* mean = op.input.norm.values + op.sums->group(index) * channels;
  const float *scale = mean + op.sums->groups * channels, *bias = scale + op.sums->groups * channels;
  const float *x = op.input.activations + at, *dy = op.out_gradient + at;
  float *dx = op.gradient + at, *first = op.sums->of_task(index), *second = first + channels;
  float relu_floor = op.input.norm.relu_floor;
  for (int64_t i = 0; i < op.sums->count(index); ++i, x += channels, dy += channels, dx += channels) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      float distance = x[c] - mean[c];
      float passed = distance * scale[c] + bias[c] > relu_floor ? dy[c] : 0.0f;
      dx[c] = passed * scale[c];
      first[c] += passed;
      second[c] += passed * distance;
    }
  }
}

DEFINE_TASK(deferred_norm_gradient, DeferredNormGradient)

}  // namespace native_ops
