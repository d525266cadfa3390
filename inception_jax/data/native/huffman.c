/* Decodes the Huffman codes of a sequential JPEG (ITU-T T.81, annexes C and F), instead of libjpeg-turbo's function for
   an MCU (minimum coded unit: the blocks of all components that cover the same pixels).

   A table, indexed by the next PEEK bits, gives up to two coefficients at once, if their codes and values fit into
   those bits. MCUs outside the region are decoded but not stored. Data that libjpeg-turbo would warn of or repair count
   as damaged here, so that Pillow judges them.
*/
#include "huffman.h"

#if !FAST_HUFFMAN
void replace_huffman_decoder(j_decompress_ptr decoder, JDIMENSION left) { (void)decoder, (void)left; }
#else

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define NO_INLINE static __attribute__((noinline))
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* A larger PEEK makes tables that take longer to fill, for each image. LOOKUPS: uses of a table between two refills.
   ENDS marks an entry that ends its block. */
enum { PEEK = 10, LOOKUPS = 56 / PEEK, ENDS = 128 };

/* The first members of the library's own struct; decode_mcu is the one that is replaced. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr decoder);
    boolean (*decode_mcu)(j_decompress_ptr decoder, JBLOCKROW *blocks);
};

/* What the next PEEK bits hold: two coefficients, or one, stored twice.

   value:     of each coefficient.
   position:  of each in the block, in zigzag order, relative to the coefficient that is decoded next.
   bits:      that both take.
   advance:   number of coefficients that are decoded, zeros included; plus ENDS if the block ends with them.

   If a code fits into PEEK bits but its value does not, bits is 0, value[0] is the symbol and position[0] the length of
   the code. If the code does not fit either, position[0] is 0 too. In both cases advance is larger than any block. */
typedef struct {
    int16_t value[2];
    uint8_t position[2], bits, advance;
} Entry;

typedef struct {
    Entry entries[1 << PEEK];
    uint32_t bound[18]; /* larger than all codes of a length, left-aligned in 16 bits */
    int symbol_offset[17]; /* a code of this length plus this is the index of its symbol */
    const UINT8 *symbols;
} Table;

typedef struct {
    uint64_t ahead; /* the next bits, from the most significant one */
    int count;      /* of bits in it; below 0 if the data are damaged */
    const uint8_t *next, *end;
} Bits;

typedef struct {
    Bits bits;
    Table *tables[2][NUM_HUFF_TBLS]; /* DC, AC */
    const Table *dc[MAX_COMPS_IN_SCAN], *ac[MAX_COMPS_IN_SCAN];
    uint32_t dc_predictors[MAX_COMPS_IN_SCAN];
    unsigned mcus_left, restarts;
    JDIMENSION next_column, first_column, column_count; /* in MCUs; the region's first, and how many it has */
} HuffmanDecoder;

/* From zigzag order to the order within a block (T.81, figure A.6). */
static const uint8_t natural_order[DCTSIZE2] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* ---- tables ---- */

/* The entry of one symbol; `behind` are the bits after its code. A symbol without a value stores 0, which the block
   holds already. */
INLINE Entry decode_symbol(int symbol, int length, uint64_t behind, int is_dc) {
    int size = symbol & 15, run = is_dc ? 0 : symbol >> 4, ends = !is_dc && !size && run != 15, value = 0;
    if (size) {
        value = (int)(behind >> (64 - size));
        if (!(value >> (size - 1))) value -= (1 << size) - 1;
    }
    uint8_t position = ends ? 0 : (uint8_t)run, advance = (uint8_t)(ends ? 1 + ENDS : run + 1);
    return (Entry){{(int16_t)value, (int16_t)value}, {position, position}, (uint8_t)(length + size), advance};
}

/* libjpeg-turbo has checked the code lengths. */
static void fill_singles(Table *table, Entry *entries, const JHUFF_TBL *codes, int is_dc) {
    for (int peek = 0; peek < 1 << PEEK; peek++) entries[peek] = (Entry){{0, 0}, {0, 0}, 0, ENDS - 1};
    int code = 0, symbol = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->symbol_offset[length] = symbol - code;
        for (int i = 0; i < codes->bits[length]; i++, code++, symbol++) {
            if (length > PEEK) continue;
            int value = codes->huffval[symbol], fits = length + (value & 15) <= PEEK;
            Entry without = {{(int16_t)value, 0}, {(uint8_t)length, 0}, 0, ENDS - 1};
            for (int peek = code << (PEEK - length); peek < (code + 1) << (PEEK - length) && peek < 1 << PEEK; peek++) {
                uint64_t behind = (uint64_t)peek << (64 - PEEK) << length;
                entries[peek] = fits ? decode_symbol(value, length, behind, is_dc) : without;
            }
        }
        table->bound[length] = (uint32_t)code << (16 - length);
    }
    table->bound[17] = UINT32_MAX;
    table->symbols = codes->huffval;
}

static void fill_pairs(Table *table, const JHUFF_TBL *codes) {
    Entry singles[1 << PEEK];
    fill_singles(table, singles, codes, 0);
    for (int peek = 0; peek < 1 << PEEK; peek++) {
        Entry entry = singles[peek], second = singles[(peek << entry.bits) & ((1 << PEEK) - 1)];
        if (entry.bits && entry.advance < ENDS && second.bits && entry.bits + second.bits <= PEEK) {
            entry.value[1] = second.value[0];
            entry.position[1] = (uint8_t)(entry.advance + second.position[0]);
            entry.bits = (uint8_t)(entry.bits + second.bits);
            entry.advance = (uint8_t)(entry.advance + second.advance);
        }
        table->entries[peek] = entry;
    }
}

static const Table *table_of(j_decompress_ptr decoder, HuffmanDecoder *huffman, int is_ac, int number) {
    Table **table = &huffman->tables[is_ac][number];
    if (!*table) {
        *table = decoder->mem->alloc_large((j_common_ptr)decoder, JPOOL_IMAGE, sizeof(Table));
        if (is_ac) fill_pairs(*table, decoder->ac_huff_tbl_ptrs[number]);
        else fill_singles(*table, (*table)->entries, decoder->dc_huff_tbl_ptrs[number], 1);
    }
    return *table;
}

/* ---- bits ---- */

/* Reads byte by byte, without the zero after each 0xFF, up to a marker; the file ends with one (see is_usual). */
NO_INLINE void refill_slowly(Bits *bits) {
    for (const uint8_t *next = bits->next; bits->count >= 0 && bits->count < 56; bits->next = next) {
        if (next[0] == 0xFF && next[1]) return;
        bits->ahead |= (uint64_t)next[0] << (56 - bits->count);
        bits->count += 8;
        next += next[0] == 0xFF ? 2 : 1;
    }
}

/* Fills up to 56 bits or more. Before a marker there may be fewer; if more are dropped than there are, the count falls
   below 0. */
INLINE void refill(Bits *bits) {
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t more = UINT64_MAX;
    if (bits->end - bits->next >= 8) memcpy(&more, bits->next, sizeof(more));
    if (UNLIKELY((~more - ones) & more & (ones << 7))) { /* one of the 8 bytes is 0xFF */
        Bits copy = *bits; /* so that `bits` can stay in registers */
        refill_slowly(&copy);
        *bits = copy;
    } else {
        bits->ahead |= __builtin_bswap64(more) >> bits->count;
        bits->next += (63 - bits->count) >> 3;
        bits->count |= 56;
    }
}

INLINE void drop(Bits *bits, int count) {
    bits->ahead <<= count;
    bits->count -= count;
}

/* ---- blocks ---- */

NO_INLINE Entry search_code(const Table *table, uint64_t ahead, int is_dc) {
    uint32_t code = (uint32_t)(ahead >> 48);
    int length = 1;
    while (code >= table->bound[length]) length++;
    if (length > 16) return (Entry){{0, 0}, {0, 0}, 0, 0};
    int symbol = table->symbols[table->symbol_offset[length] + (int)(code >> (16 - length))];
    return decode_symbol(symbol, length, ahead << length, is_dc);
}

/* The entry of the next coefficient alone, whatever its length. Returns one of 0 bits if they are no code. */
INLINE Entry decode_alone(const Table *table, Entry entry, uint64_t ahead, int is_dc) {
    int length = entry.position[0];
    if (!entry.bits && length) return decode_symbol((uint8_t)entry.value[0], length, ahead << length, is_dc);
    return search_code(table, ahead, is_dc);
}

/* Decodes a block, and stores it if `keep`. Returns 0 if the data are damaged. */
INLINE int decode_block(Bits *bits, const Table *dc, const Table *ac, uint32_t *dc_predictor, int keep, JCOEF *block) {
    refill(bits);
    Entry entry = dc->entries[bits->ahead >> (64 - PEEK)];
    if (UNLIKELY(!entry.bits)) entry = decode_alone(dc, entry, bits->ahead, 1);
    if (UNLIKELY(!entry.bits)) return 0;
    drop(bits, entry.bits);
    *dc_predictor += (uint32_t)entry.value[0];
    if (keep) block[0] = (JCOEF)*dc_predictor;
    for (int k = 1, lookups = entry.bits > PEEK ? LOOKUPS : 1; k < DCTSIZE2; k += entry.advance, lookups++) {
        if (lookups == LOOKUPS) {
            refill(bits);
            lookups = 0;
        }
        entry = ac->entries[bits->ahead >> (64 - PEEK)];
        if (UNLIKELY(k + entry.advance % ENDS > DCTSIZE2)) {
            refill(bits);
            entry = decode_alone(ac, entry, bits->ahead, 0);
            if (UNLIKELY(!entry.bits || k + entry.advance % ENDS > DCTSIZE2)) return 0;
            lookups = LOOKUPS - 1;
        }
        if (keep) {
            block[natural_order[k + entry.position[0]]] = entry.value[0];
            block[natural_order[k + entry.position[1]]] = entry.value[1];
        }
        drop(bits, entry.bits);
    }
    return bits->count >= 0;
}

static int restart(HuffmanDecoder *huffman, unsigned interval) {
    const uint8_t *marker = huffman->bits.next;
    if (huffman->bits.count >= 8 || marker[0] != 0xFF || marker[1] != JPEG_RST0 + huffman->restarts++ % 8) return 0;
    huffman->bits = (Bits){0, 0, marker + 2, huffman->bits.end};
    memset(huffman->dc_predictors, 0, sizeof(huffman->dc_predictors));
    huffman->mcus_left = interval;
    return 1;
}

/* Takes the place of libjpeg-turbo's function. `blocks` is NULL for rows above the region. */
static boolean decode_mcu(j_decompress_ptr decoder, JBLOCKROW *blocks) {
    HuffmanDecoder *huffman = decoder->client_data;
    unsigned interval = decoder->restart_interval;
    int ok = !interval || huffman->mcus_left-- || (restart(huffman, interval) && huffman->mcus_left--);
    int keep = blocks && huffman->next_column - huffman->first_column < huffman->column_count;
    huffman->next_column = huffman->next_column + 1 < decoder->MCUs_per_row ? huffman->next_column + 1 : 0;
    Bits bits = huffman->bits;
    for (int i = 0; ok && i < decoder->blocks_in_MCU; i++) {
        int component = decoder->MCU_membership[i];
        const Table *dc = huffman->dc[component], *ac = huffman->ac[component];
        uint32_t *dc_predictor = huffman->dc_predictors + component;
        if (keep) ok = decode_block(&bits, dc, ac, dc_predictor, 1, *blocks[i]);
        else ok = decode_block(&bits, dc, ac, dc_predictor, 0, NULL);
    }
    if (!ok) decoder->err->error_exit((j_common_ptr)decoder);
    huffman->bits = bits;
    return TRUE;
}

static int is_usual(j_decompress_ptr decoder) {
    const struct jpeg_source_mgr *source = decoder->src;
    const JOCTET *end = source->next_input_byte + source->bytes_in_buffer;
    if (source->bytes_in_buffer < 2 || end[-2] != 0xFF || end[-1] != JPEG_EOI) return 0;
    if (decoder->arith_code || decoder->data_precision != 8 || decoder->Ss || decoder->Se != DCTSIZE2 - 1) return 0;
    if (decoder->comps_in_scan == 1 && decoder->max_h_samp_factor > 1) return 0; /* each version crops it differently */
    return !jpeg_has_multiple_scans(decoder);
}

void replace_huffman_decoder(j_decompress_ptr decoder, JDIMENSION left) {
    if (!is_usual(decoder)) return;
    HuffmanDecoder *huffman = decoder->mem->alloc_small((j_common_ptr)decoder, JPOOL_IMAGE, sizeof(HuffmanDecoder));
    memset(huffman, 0, sizeof(HuffmanDecoder));
    for (int i = 0; i < decoder->comps_in_scan; i++) {
        huffman->dc[i] = table_of(decoder, huffman, 0, decoder->cur_comp_info[i]->dc_tbl_no);
        huffman->ac[i] = table_of(decoder, huffman, 1, decoder->cur_comp_info[i]->ac_tbl_no);
    }
    huffman->bits.next = decoder->src->next_input_byte;
    huffman->bits.end = huffman->bits.next + decoder->src->bytes_in_buffer;
    huffman->mcus_left = decoder->restart_interval;
    JDIMENSION width = (JDIMENSION)(DCTSIZE * decoder->max_h_samp_factor);
    huffman->first_column = left / width;
    huffman->column_count = (left + decoder->output_width + width - 1) / width - huffman->first_column;
    decoder->client_data = huffman;
    decoder->entropy->decode_mcu = decode_mcu;
}

#endif
