/* Decodes the rows of a region of a JPEG, by libjpeg-turbo. */
#ifndef JPEG_REGION_H
#define JPEG_REGION_H

#include <stddef.h>
#include <stdint.h>

typedef struct Jpeg Jpeg;

typedef struct {
    int left, top, right, bottom; /* in pixels; right and bottom are not in the box */
} Box;

/* Takes row y of a box: for each pixel red, green, blue and a byte of padding. */
typedef void RowCallback(void *context, int y, const uint8_t *row);

/* Reads the header. `data` must outlive the result. Returns NULL if it is damaged or of a kind that is left to Pillow
   (CMYK), or if memory ran out. */
Jpeg *open_jpeg(const uint8_t *data, size_t size);
void close_jpeg(Jpeg *jpeg);

int width_of(const Jpeg *jpeg);
int height_of(const Jpeg *jpeg);

/* Decodes a box, which must lie in the image. Call it once for each Jpeg. Returns 0 if the data are damaged or memory
   ran out. */
int decode_box(Jpeg *jpeg, Box box, RowCallback *take_row, void *context);

#endif
