/* Decodes the rows and columns of a region with libjpeg-turbo, and nothing below it; huffman.c makes that faster. */
#include "jpeg_region.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include "huffman.h"

#ifndef JCS_EXTENSIONS
#error "needs libjpeg-turbo"
#endif

enum { PIXEL = 4 }; /* bytes: red, green, blue and padding */

struct Jpeg {
    struct jpeg_decompress_struct decoder; /* first, so that its address is that of the Jpeg */
    struct jpeg_error_mgr manager;
    jmp_buf escape;
    uint8_t *row;
};

static void escape_on_error(j_common_ptr decoder) { longjmp(((Jpeg *)decoder)->escape, 1); }

static void escape_on_warning(j_common_ptr decoder, int level) {
    if (level < 0) escape_on_error(decoder); /* a warning: the data are damaged */
}

static int is_supported(const struct jpeg_decompress_struct *decoder) {
    J_COLOR_SPACE space = decoder->jpeg_color_space;
    return space == JCS_YCbCr || space == JCS_GRAYSCALE || space == JCS_RGB;
}

Jpeg *open_jpeg(const uint8_t *data, size_t size) {
    Jpeg *jpeg = calloc(1, sizeof(Jpeg));
    if (!jpeg) return NULL;
    jpeg->decoder.err = jpeg_std_error(&jpeg->manager);
    jpeg->manager.error_exit = escape_on_error;
    jpeg->manager.emit_message = escape_on_warning;
    if (!setjmp(jpeg->escape)) {
        jpeg_create_decompress(&jpeg->decoder);
        jpeg_mem_src(&jpeg->decoder, (unsigned char *)data, (unsigned long)size);
        jpeg_read_header(&jpeg->decoder, TRUE);
        if (is_supported(&jpeg->decoder)) return jpeg;
    }
    close_jpeg(jpeg);
    return NULL;
}

void close_jpeg(Jpeg *jpeg) {
    jpeg_destroy_decompress(&jpeg->decoder);
    free(jpeg->row);
    free(jpeg);
}

int width_of(const Jpeg *jpeg) { return (int)jpeg->decoder.image_width; }

int height_of(const Jpeg *jpeg) { return (int)jpeg->decoder.image_height; }

/* Starts to decode columns that include those of the box. Returns the first. */
static int start_region(struct jpeg_decompress_struct *decoder, Box box) {
    decoder->out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(decoder);
    /* Colours are interpolated between neighbours, so the outermost columns that are decoded are wrong. */
    JDIMENSION margin = decoder->max_h_samp_factor, right = box.right + margin;
    JDIMENSION first = (JDIMENSION)box.left > margin ? box.left - margin : 0;
    JDIMENSION width = (right < decoder->output_width ? right : decoder->output_width) - first;
    jpeg_crop_scanline(decoder, &first, &width);
    replace_huffman_decoder(decoder, first);
    return (int)first;
}

int decode_box(Jpeg *jpeg, Box box, RowCallback *take_row, void *context) {
    struct jpeg_decompress_struct *decoder = &jpeg->decoder;
    if (setjmp(jpeg->escape)) return 0;
    int first = start_region(decoder, box);
    jpeg->row = malloc((size_t)decoder->output_width * PIXEL + PIXEL);
    if (!jpeg->row) return 0;
    uint8_t *row = jpeg->row + PIXEL; /* not aligned: the library would write past the cache what is read next */
    if (box.top) jpeg_skip_scanlines(decoder, box.top);
    for (int y = 0; y < box.bottom - box.top; y++) {
        jpeg_read_scanlines(decoder, &row, 1);
        take_row(context, y, row + (size_t)PIXEL * (box.left - first));
    }
    return 1;
}
