/* A faster decoder of Huffman codes in place of libjpeg-turbo's. */
#ifndef ENTROPY_H
#define ENTROPY_H

#include <stdio.h>

#include <jpeglib.h>

/* Takes over decoding if the file is of the usual kind, sequential and in one scan, and otherwise does nothing. To be
   called after jpeg_crop_scanline, for a file in memory. Its memory is the decoder's, damage goes to error_exit, and
   client_data is overwritten. `left` is the first column that is decoded. */
void speed_up(j_decompress_ptr decoder, JDIMENSION left);

#endif
