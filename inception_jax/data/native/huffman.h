/* A faster decoder of Huffman codes, instead of libjpeg-turbo's. */
#ifndef HUFFMAN_H
#define HUFFMAN_H

#include <stdio.h>

#include <jpeglib.h>

/* Versions 1.5 to 3 have the jpeg_entropy_decoder that huffman.c declares. This is the version of the headers;
   jpeg_create_decompress checks that the public structs are those of the library that is loaded. */
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FAST_HUFFMAN (LIBJPEG_TURBO_VERSION_NUMBER >= 1005000 && LIBJPEG_TURBO_VERSION_NUMBER < 4000000)
#else
#define FAST_HUFFMAN 0
#endif

/* Replaces the Huffman decoder if FAST_HUFFMAN, and if the file is sequential and in one scan; otherwise does nothing.

   Call it after jpeg_crop_scanline, for a file in memory. `left` is the first column of pixels that is decoded. Its
   memory belongs to the decoder; damaged data end in error_exit; client_data is overwritten. */
void replace_huffman_decoder(j_decompress_ptr decoder, JDIMENSION left);

#endif
