/* Resizes an image to a square, row by row, to the same bytes as Pillow. */
#ifndef RESAMPLE_H
#define RESAMPLE_H

#include <stdint.h>

typedef enum { NEAREST, AREA, BILINEAR, BICUBIC } Filter;

typedef struct Resampler Resampler;

/* From width x height pixels to size x size, mirrored left to right or not. Returns NULL if memory ran out. */
Resampler *open_resampler(int width, int height, int size, Filter filter, int mirror);
void close_resampler(Resampler *resampler);

/* Takes row y: for each pixel red, green, blue and a byte of padding. */
void add_row(Resampler *resampler, int y, const uint8_t *row);

/* Fills `out` [size, size, 3] after the last row. */
void finish_image(Resampler *resampler, uint8_t *out);

#endif
