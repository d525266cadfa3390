// Copies of input rows with their padding, and the buffers that hold them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "conv_operands.h"

namespace native_ops {

// Floats on a boundary of 64 bytes, a cache line. Throws std::bad_alloc if there is no memory.
class FloatBuffer {
 public:
  explicit FloatBuffer(int64_t count)
      : data_(static_cast<float*>(std::aligned_alloc(64, ceil_div(std::max<int64_t>(count, 1), 16) * 64))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  FloatBuffer(const FloatBuffer&) = delete;
  ~FloatBuffer() { std::free(data_); }
  float* data() const { return data_; }

 private:
  float* data_;
};

// Rows of an image; those above and below it, at first < 0 and from `height` on, are padding.
struct RowRange {
  int64_t image, first, count;
  int64_t padded_width;  // pixels of a row with its padding
};

// Copies rows of the input, normalised and padded with zeros, to [count, padded_width, channels].
ALWAYS_INLINE void copy_padded_rows(const ConvShape& s, const Input& input, const RowRange& rows, float* padded) {
  const float* mean = input.norm.means_of_image(rows.image);
  const float* pixels = input.activations + rows.image * s.image_size();
  int64_t pad_left = std::clamp<int64_t>(s.pad_left, 0, rows.padded_width);
  int64_t skipped = std::max<int64_t>(-s.pad_left, 0);  // pixels of the input
  int64_t copied = std::max<int64_t>(std::min(s.width - skipped, rows.padded_width - pad_left), 0);
  int64_t begin = pad_left * s.channels, end = (pad_left + copied) * s.channels;
  int64_t size = rows.padded_width * s.channels;
  for (int64_t y = rows.first; y < rows.first + rows.count; ++y, padded += size) {
    if (y < 0 || y >= s.height) {
      std::fill_n(padded, size, 0.0f);
      continue;
    }
    std::fill_n(padded, begin, 0.0f);
    const float* row = pixels + (y * s.width + skipped) * s.channels;
    if (mean == nullptr) {
      std::copy_n(row, copied * s.channels, padded + begin);
    } else {
      input.norm.apply(mean, row, copied, padded + begin);
    }
    std::fill_n(padded + end, size - end, 0.0f);
  }
}

}  // namespace native_ops
