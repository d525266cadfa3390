/* A faster decoder of Huffman codes in place of libjpeg-turbo's. */
#ifndef ENTROPY_H
#define ENTROPY_H

#include <stdio.h>

#include <jpeglib.h>

/* Versions 1.5 to 3 have the same jpeg_entropy_decoder as entropy.c. This is the version that is built with;
   jpeg_create_decompress checks that the public structs are those of the library that is loaded. */
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SPEEDS_UP (LIBJPEG_TURBO_VERSION_NUMBER >= 1005000 && LIBJPEG_TURBO_VERSION_NUMBER < 4000000)
#else
#define SPEEDS_UP 0
#endif

/* If SPEEDS_UP and the file is of the usual kind, sequential and in one scan, takes over decoding; otherwise does
   nothing. To be called after jpeg_crop_scanline, for a file in memory. Its memory is the decoder's, damage goes to
   error_exit, and client_data is overwritten. `left` is the first column that is decoded. */
void speed_up(j_decompress_ptr decoder, JDIMENSION left);

#endif
