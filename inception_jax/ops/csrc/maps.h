// Max pools, and what batch norm needs: sums of channels, and the gradient of a pending normalisation.
#pragma once

#include <limits>
#include <vector>

#include "tiles.h"

namespace kernels {

constexpr int64_t kPixelsOfSum = 512;  // that are added up in float32; their sums are added up in float64

// Max pools. The kernel of the shape is the window.

struct MaxPool {
  Shape shape;
  const float* maps;
  float* out;
  int8_t* winners;  // the place of the first maximum in its window, row by row; null: not asked for

  int64_t tasks() const { return shape.batch * shape.out_height; }
};

template <int W, int P>
INLINE void max_pool(const MaxPool& job, int64_t task) {
  const Shape& s = job.shape;
  int64_t image = task / s.out_height, top = task % s.out_height * s.stride - s.top;
  int64_t first_row = std::max<int64_t>(-top, 0), last_row = std::min(s.kernel_height, s.height - top);
  for (int64_t x = 0; x < s.out_width; ++x) {
    int64_t left = x * s.stride - s.left, at = (task * s.out_width + x) * s.channels;
    int64_t first_column = std::max<int64_t>(-left, 0), last_column = std::min(s.kernel_width, s.width - left);
    const float* window = job.maps + image * s.image() + (top * s.width + left) * s.channels;
    for (int64_t channel = 0; channel < s.channels; channel += kChunk) {
      int64_t count = std::min(kChunk, s.channels - channel);
      float most[kChunk];
      int32_t places[kChunk] = {};  // as wide as the values, which compilers ask for
      std::fill_n(most, kChunk, -std::numeric_limits<float>::infinity());
      for (int64_t i = first_row; i < last_row; ++i) {
        for (int64_t j = first_column; j < last_column; ++j) {
          const float* values = window + (i * s.width + j) * s.channels + channel;
          int32_t place = static_cast<int32_t>(i * s.kernel_width + j);
          for (int64_t c = 0; c < count; ++c) {
            bool wins = (values[c] > most[c]) | (values[c] != values[c]);  // NaN does
            most[c] = wins ? values[c] : most[c];
            places[c] = wins ? place : places[c];
          }
        }
      }
      std::copy_n(most, count, job.out + at + channel);
      if (job.winners == nullptr) continue;
      for (int64_t c = 0; c < count; ++c) job.winners[at + channel + c] = static_cast<int8_t>(places[c]);
    }
  }
}

FORMS(max_pool, MaxPool)

struct MaxPoolGradient {
  Shape shape;
  const int8_t* winners;
  const float* grads;
  float* out;

  int64_t tasks() const { return shape.batch; }
};

template <int W, int P>
INLINE void max_pool_gradient(const MaxPoolGradient& job, int64_t image) {
  const Shape& s = job.shape;
  float* maps = job.out + image * s.image();
  std::fill_n(maps, s.image(), 0.0f);
  for (int64_t y = 0; y < s.out_height; ++y) {
    for (int64_t x = 0; x < s.out_width; ++x) {
      int64_t at = ((image * s.out_height + y) * s.out_width + x) * s.channels;
      int64_t top = y * s.stride - s.top, left = x * s.stride - s.left;
      for (int64_t i = std::max<int64_t>(-top, 0); i < std::min(s.kernel_height, s.height - top); ++i) {
        for (int64_t j = std::max<int64_t>(-left, 0); j < std::min(s.kernel_width, s.width - left); ++j) {
          float* pixel = maps + ((top + i) * s.width + left + j) * s.channels;
          int8_t place = static_cast<int8_t>(i * s.kernel_width + j);
          const int8_t* winners = job.winners + at;
          const float* grads = job.grads + at;
#pragma GCC ivdep
          for (int64_t c = 0; c < s.channels; ++c) pixel[c] += winners[c] == place ? grads[c] : 0.0f;
        }
      }
    }
  }
}

FORMS(max_pool_gradient, MaxPoolGradient)

// Sums over the pixels of a group of images, of two values a channel.

struct Sums {
  int64_t groups, pixels, channels;  // pixels of a group
  std::vector<float> parts;          // [groups, chunks, 2, channels]

  Sums(int64_t groups, int64_t pixels, int64_t channels)
      : groups(groups), pixels(pixels), channels(channels), parts(groups * chunks() * 2 * channels) {}
  int64_t chunks() const { return ceil_div(pixels, kPixelsOfSum); }
  int64_t tasks() const { return groups * chunks(); }
  int64_t first(int64_t task) const { return task / chunks() * pixels + task % chunks() * kPixelsOfSum; }
  int64_t count(int64_t task) const { return std::min(kPixelsOfSum, pixels - task % chunks() * kPixelsOfSum); }
  float* part(int64_t task) { return parts.data() + task * 2 * channels; }

  // Writes [2, groups, channels].
  void add_up(double factor, float* out) const {
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t i = 0; i < 2 * channels; ++i) {
        double sum = 0;
        for (int64_t chunk = 0; chunk < chunks(); ++chunk) sum += parts[(group * chunks() + chunk) * 2 * channels + i];
        out[(i / channels * groups + group) * channels + i % channels] = static_cast<float>(sum * factor);
      }
    }
  }
};

struct Moments {
  const float* maps;
  const float* origin;
  Sums* sums;
};

template <int W, int P>
INLINE void moments(const Moments& job, int64_t task) {
  int64_t channels = job.sums->channels;
  const float* pixel = job.maps + job.sums->first(task) * channels;
  float *first = job.sums->part(task), *second = first + channels;
  for (int64_t i = 0; i < job.sums->count(task); ++i, pixel += channels) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      float distance = pixel[c] - job.origin[c];
      first[c] += distance;
      second[c] += distance * distance;
    }
  }
}

FORMS(moments, Moments)

// The gradient by maps that wait for a normalisation, and the sums from which those by mean, scale and bias follow.
struct Unsettle {
  Maps maps;
  const float* grads;
  float* out;
  Sums* sums;  // of the gradients that pass, and of those times the distance from the mean
};

template <int W, int P>
INLINE void unsettle(const Unsettle& job, int64_t task) {
  int64_t channels = job.sums->channels, at = job.sums->first(task) * channels;
  const float* mean = job.maps.norm.values + task / job.sums->chunks() * channels;
  const float *scale = mean + job.sums->groups * channels, *bias = scale + job.sums->groups * channels;
  const float *pixel = job.maps.data + at, *grads = job.grads + at;
  float *out = job.out + at, *first = job.sums->part(task), *second = first + channels, low = job.maps.norm.low;
  for (int64_t i = 0; i < job.sums->count(task); ++i, pixel += channels, grads += channels, out += channels) {
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      float distance = pixel[c] - mean[c];
      float passed = distance * scale[c] + bias[c] > low ? grads[c] : 0.0f;
      out[c] = passed * scale[c];
      first[c] += passed;
      second[c] += passed * distance;
    }
  }
}

FORMS(unsettle, Unsettle)

}  // namespace kernels
