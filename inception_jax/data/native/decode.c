/* Decodes the units (MCUs) of a JPEG that a box needs, a row of units at a time. */
#include <stdlib.h>
#include <string.h>

#include "jpeg.h"

enum { RING = 32, EDGE = 8 }; /* rows of pixels that are kept, columns beside them */

/* A component, as decoded; row y is at y % RING. */
typedef struct {
    uint8_t *pixels; /* where the first column of the first unit is */
    ptrdiff_t stride;
    int first, columns;      /* before `pixels`; from there */
    int width, height;       /* of the whole component */
    int16_t steps[BLOCK];
} Plane;

typedef struct {
    const Header *header;
    Box box, units; /* what is shown, in pixels and in units */
    int across, wide, high; /* units in a row; columns and rows of one */
    Plane plane[3];
    uint8_t *memory, *colour[2];
    uint32_t *row;
    Entropy *entropy;
} Decoder;

static uint8_t *row_of(const Plane *plane, int y) { return plane->pixels + (y % RING) * plane->stride; }

static int ceil_divide(int a, int b) { return (a + b - 1) / b; }

static int minimum(int a, int b) { return a < b ? a : b; }

static int maximum(int a, int b) { return a > b ? a : b; }

/* Interpolation needs a neighbour of each colour, which is as wide and high as the unit has blocks. */
static void plan(Decoder *decoder) {
    const Header *header = decoder->header;
    Box box = decoder->box;
    int h = header->component[0].h, v = header->component[0].v;
    decoder->wide = 8 * h;
    decoder->high = 8 * v;
    decoder->across = ceil_divide(header->width, decoder->wide);
    decoder->units = (Box){
        maximum(box.left - h, 0) / decoder->wide,
        maximum(box.top - v, 0) / decoder->high,
        ceil_divide(minimum(box.right + h, header->width), decoder->wide),
        ceil_divide(minimum(box.bottom + v, header->height), decoder->high),
    };
}

static int allocate(Decoder *decoder) {
    const Header *header = decoder->header;
    int units = decoder->units.right - decoder->units.left;
    size_t stride = units * decoder->wide + 2 * EDGE, rows = RING * header->components + 2 + sizeof(uint32_t);
    uint8_t *at = decoder->memory = malloc(stride * rows);
    decoder->entropy = open_entropy(header);
    if (!at || !decoder->entropy) return 0;
    decoder->row = (uint32_t *)at;
    at += stride * sizeof(uint32_t);
    for (int i = 0; i < 2; i++, at += stride) decoder->colour[i] = at;
    for (int i = 0; i < header->components; i++, at += stride * RING) {
        const Component *component = &header->component[i];
        decoder->plane[i] = (Plane){
            .pixels = at + EDGE,
            .stride = stride,
            .first = decoder->units.left * 8 * component->h,
            .columns = units * 8 * component->h,
            .width = ceil_divide(header->width * component->h, header->component[0].h),
            .height = ceil_divide(header->height * component->v, header->component[0].v),
        };
        for (int k = 0; k < BLOCK; k++) decoder->plane[i].steps[place[k]] = header->quant[component->quant][k];
    }
    return 1;
}

static int show_block(Decoder *decoder, int c, int x, int y) {
    int16_t block[BLOCK + 1] = {0};
    const Plane *plane = &decoder->plane[c];
    uint8_t *out = row_of(plane, 8 * y) + 8 * x - plane->first;
    int count = read_block(decoder->entropy, c, block);
    if (count > 1) inverse_dct(block, count, plane->steps, out, plane->stride);
    else if (count) fill_block(block[0] * plane->steps[0], out, plane->stride);
    return count;
}

/* x, y: of the unit. */
static int decode_unit(Decoder *decoder, int x, int y) {
    int shown = y >= decoder->units.top && x >= decoder->units.left && x < decoder->units.right;
    if (!start_unit(decoder->entropy)) return 0;
    for (int c = 0; c < decoder->header->components; c++) {
        int h = decoder->header->component[c].h, v = decoder->header->component[c].v;
        for (int j = 0; j < v; j++)
            for (int i = 0; i < h; i++)
                if (!(shown ? show_block(decoder, c, h * x + i, v * y + j) : skip_block(decoder->entropy, c))) return 0;
    }
    return 1;
}

/* Repeats the outermost pixels of a component beside it. */
static uint8_t *edged_row(const Plane *plane, int y) {
    uint8_t *row = row_of(plane, maximum(0, minimum(y, plane->height - 1)));
    int end = plane->width - plane->first;
    if (!plane->first) row[-1] = row[0];
    if (end <= plane->columns) row[end] = row[end - 1];
    return row;
}

/* Returns row y of colour 1 or 2, from the left of the box. */
static const uint8_t *colour_row(Decoder *decoder, int c, int y) {
    const Plane *plane = &decoder->plane[c];
    int left = decoder->box.left, right = decoder->box.right;
    if (decoder->wide == 8) return row_of(plane, y) + left - plane->first;
    int start = left / 2, count = (right + 1) / 2 - start;
    uint8_t *out = decoder->colour[c - 1];
    if (decoder->high == 8) {
        widen(edged_row(plane, y) + start - plane->first, out, count);
    } else {
        const uint8_t *near = edged_row(plane, y / 2), *far = edged_row(plane, y % 2 ? y / 2 + 1 : y / 2 - 1);
        widen_between(near + start - plane->first, far + start - plane->first, out, count);
    }
    return out + left % 2;
}

static void give_row(Decoder *decoder, int y, Sink *sink, void *context) {
    const uint8_t *grey = row_of(&decoder->plane[0], y) + decoder->box.left - decoder->plane[0].first;
    int width = decoder->box.right - decoder->box.left;
    if (decoder->header->components == 1) grey_to_rgb(grey, decoder->row, width);
    else to_rgb(grey, colour_row(decoder, 1, y), colour_row(decoder, 2, y), decoder->row, width);
    sink(context, y - decoder->box.top, (const uint8_t *)decoder->row);
}

static int decode(Decoder *decoder, Sink *sink, void *context) {
    int given = decoder->box.top, last = decoder->units.bottom - 1;
    for (int y = 0; y <= last; y++) {
        for (int x = 0; x < (y < last ? decoder->across : decoder->units.right); x++)
            if (!decode_unit(decoder, x, y)) return 0;
        /* The last rows of a unit may need colours of the next. */
        int ready = y < last ? (y + 1) * decoder->high - decoder->high / 8 : decoder->box.bottom;
        for (; given < minimum(ready, decoder->box.bottom); given++) give_row(decoder, given, sink, context);
    }
    return intact(decoder->entropy);
}

int decode_box(const Header *header, Box box, Sink *sink, void *context) {
    Decoder decoder = {.header = header, .box = box};
    plan(&decoder);
    int done = allocate(&decoder) && decode(&decoder, sink, context);
    if (decoder.entropy) close_entropy(decoder.entropy);
    free(decoder.memory);
    return done;
}
