/* Rows of a part of a JPEG, by libjpeg-turbo. */
#ifndef DECODE_H
#define DECODE_H

#include <stddef.h>
#include <stdint.h>

typedef struct Jpeg Jpeg;

typedef struct {
    int left, top, right, bottom;
} Box;

/* Takes row y of a box, width times red, green, blue and padding. */
typedef void Sink(void *context, int y, const uint8_t *row);

/* Reads the header of data, which must outlive the result. Returns NULL if it is damaged, or of a kind that is left to
   others (CMYK), or memory ran out. */
Jpeg *open_jpeg(const uint8_t *data, size_t size);
void close_jpeg(Jpeg *jpeg);

int width_of(const Jpeg *jpeg);
int height_of(const Jpeg *jpeg);

/* Once for each opened. Returns 0 if the data are damaged, or memory ran out. The box must lie in the image. */
int decode_box(Jpeg *jpeg, Box box, Sink *sink, void *context);

#endif
