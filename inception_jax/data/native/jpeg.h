/* Parts of baseline JPEGs as pixels, the same as libjpeg-turbo's (accurate integer DCT, interpolated colours). */
#ifndef JPEG_H
#define JPEG_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "needs a little-endian processor"
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif
#define INLINE static inline __attribute__((always_inline))

/* To 0 ... 255; in two steps, which compilers know as instructions. */
INLINE int32_t clamp(int32_t value) {
    value = value < 0 ? 0 : value;
    return value > 255 ? 255 : value;
}

/* ---- header.c ---- */

typedef struct {
    int id, h, v;      /* blocks of a unit (MCU), across and down */
    int quant, dc, ac; /* numbers of its tables */
} Component;

/* All pointers are into the file. */
typedef struct {
    int width, height, components, restart; /* restart: units between two markers, 0: there are none */
    Component component[3];
    const uint8_t *quant[4];      /* 64 steps in zigzag order */
    const uint8_t *dc[4], *ac[4]; /* Huffman tables: how many codes of 1 ... 16 bits, then their symbols */
    const uint8_t *scan, *end;
} Header;

/* Returns 0 if it is damaged, or of a kind that is left to others: progressive, CMYK, RGB, unusual sampling. */
int read_header(Header *header, const uint8_t *data, size_t size);

/* ---- entropy.c ---- */

typedef struct Entropy Entropy;

enum { BLOCK = 64, DUMP = BLOCK, ENDS = 128 };

/* Places in a block, row by row, in zigzag order; those behind its end are its dump, which is written to and not read. */
extern const uint8_t place[BLOCK + ENDS];

/* Returns NULL if a table is damaged or memory ran out. */
Entropy *open_entropy(const Header *header);
void close_entropy(Entropy *entropy);

/* These return 0 if the data are damaged. */
int start_unit(Entropy *entropy);
int skip_block(Entropy *entropy, int component);
/* Puts coefficients in their places among zeros, and returns how many they are in zigzag order. */
int read_block(Entropy *entropy, int component, int16_t *block);
/* After the last unit. */
int intact(const Entropy *entropy);

/* ---- pixels.c ---- */

/* Of the first `count` coefficients in zigzag order, which are multiples of `steps`, row by row. */
void inverse_dct(const int16_t *block, int count, const int16_t *steps, uint8_t *out, ptrdiff_t stride);
void fill_block(int dc, uint8_t *out, ptrdiff_t stride);
/* `count` values to twice as many columns; a neighbour at each end is read. */
void widen(const uint8_t *in, uint8_t *out, int count);
/* Likewise, of a row between two. */
void widen_between(const uint8_t *near, const uint8_t *far, uint8_t *out, int count);
/* To red, green, blue and 0, from the lowest byte. */
void to_rgb(const uint8_t *y, const uint8_t *blue, const uint8_t *red, uint32_t *out, int count);
void grey_to_rgb(const uint8_t *y, uint32_t *out, int count);

/* ---- decode.c ---- */

typedef struct {
    int left, top, right, bottom;
} Box;

/* Takes row y of a box, width times red, green, blue and 0. */
typedef void Sink(void *context, int y, const uint8_t *row);

/* Returns 0 if the data are damaged, or memory ran out. The box must lie in the image. */
int decode_box(const Header *header, Box box, Sink *sink, void *context);

#endif
