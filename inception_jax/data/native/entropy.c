/* Huffman codes of a sequential JPEG (ITU-T T.81, annexes C and F), in place of libjpeg-turbo's function for an MCU.

   A look at the next PEEK bits tells two coefficients, where their codes and values fit into them. MCUs outside the box
   are passed over. What libjpeg-turbo warns of or repairs is damage here.
*/
#include "entropy.h"

#if !SPEEDS_UP
void speed_up(j_decompress_ptr decoder, JDIMENSION left) { (void)decoder, (void)left; }
#else

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define NO_INLINE static __attribute__((noinline))
#define RARELY(condition) __builtin_expect(!!(condition), 0)

/* More bits would make tables that take longer to fill, for each image. LOOKS of them fit into what refill leaves. */
enum { PEEK = 10, LOOKS = 56 / PEEK, ENDS = 128 };

/* The first members of the library's own. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr decoder);
    boolean (*decode_mcu)(j_decompress_ptr decoder, JBLOCKROW *blocks);
};

/* Two coefficients, or one twice. at: places passed over before each; bits: of both; advance: places in the block, plus
   ENDS behind its last. Where not even one fits, bits is 0, advance is more than a block has, value[0] is its symbol
   and at[0] the length of its code; if that does not fit either, at[0] is 0. */
typedef struct {
    int16_t value[2];
    uint8_t at[2], bits, advance;
} Look;

typedef struct {
    Look look[1 << PEEK];
    uint32_t bound[18]; /* above all codes of a length, as 16 bits */
    int offset[17];     /* from codes to symbols */
    const UINT8 *symbols;
} Table;

typedef struct {
    uint64_t ahead; /* the next bits, from the top */
    int count;      /* of them; below 0 if damaged */
    const uint8_t *next, *end;
} Bits;

typedef struct {
    Bits bits;
    Table *tables[2][NUM_HUFF_TBLS]; /* DC, AC */
    const Table *dc[MAX_COMPS_IN_SCAN], *ac[MAX_COMPS_IN_SCAN];
    uint32_t predicted[MAX_COMPS_IN_SCAN];
    unsigned mcus_left, restarts;
    JDIMENSION column, first, wanted; /* of MCUs: the next, the first that is shown, and how many are */
} Entropy;

static const uint8_t place[DCTSIZE2] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* ---- tables ---- */

/* What a symbol says, with the bits behind its code. One without a value has value 0, as the block had before. */
INLINE Look single(int symbol, int length, uint64_t behind, int is_dc) {
    int size = symbol & 15, run = is_dc ? 0 : symbol >> 4, ends = !is_dc && !size && run != 15, value = 0;
    if (size) {
        value = (int)(behind >> (64 - size));
        if (!(value >> (size - 1))) value -= (1 << size) - 1;
    }
    uint8_t at = ends ? 0 : (uint8_t)run, advance = (uint8_t)(ends ? 1 + ENDS : run + 1);
    return (Look){{(int16_t)value, (int16_t)value}, {at, at}, (uint8_t)(length + size), advance};
}

/* The lengths were checked by libjpeg-turbo. */
static void fill_singles(Table *table, Look *looks, const JHUFF_TBL *codes, int is_dc) {
    for (int peek = 0; peek < 1 << PEEK; peek++) looks[peek] = (Look){{0, 0}, {0, 0}, 0, ENDS - 1};
    int code = 0, symbol = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = symbol - code;
        for (int i = 0; i < codes->bits[length]; i++, code++, symbol++) {
            if (length > PEEK) continue;
            int value = codes->huffval[symbol], fits = length + (value & 15) <= PEEK;
            Look without = {{(int16_t)value, 0}, {(uint8_t)length, 0}, 0, ENDS - 1};
            for (int peek = code << (PEEK - length); peek < (code + 1) << (PEEK - length) && peek < 1 << PEEK; peek++)
                looks[peek] = fits ? single(value, length, (uint64_t)peek << (64 - PEEK) << length, is_dc) : without;
        }
        table->bound[length] = (uint32_t)code << (16 - length);
    }
    table->bound[17] = UINT32_MAX;
    table->symbols = codes->huffval;
}

static void fill_pairs(Table *table, const JHUFF_TBL *codes) {
    Look singles[1 << PEEK];
    fill_singles(table, singles, codes, 0);
    for (int peek = 0; peek < 1 << PEEK; peek++) {
        Look look = singles[peek], second = singles[(peek << look.bits) & ((1 << PEEK) - 1)];
        if (look.bits && look.advance < ENDS && second.bits && look.bits + second.bits <= PEEK) {
            look.value[1] = second.value[0];
            look.at[1] = (uint8_t)(look.advance + second.at[0]);
            look.bits = (uint8_t)(look.bits + second.bits);
            look.advance = (uint8_t)(look.advance + second.advance);
        }
        table->look[peek] = look;
    }
}

static const Table *table_of(j_decompress_ptr decoder, Entropy *entropy, int is_ac, int number) {
    Table **table = &entropy->tables[is_ac][number];
    if (!*table) {
        *table = decoder->mem->alloc_large((j_common_ptr)decoder, JPOOL_IMAGE, sizeof(Table));
        if (is_ac) fill_pairs(*table, decoder->ac_huff_tbl_ptrs[number]);
        else fill_singles(*table, (*table)->look, decoder->dc_huff_tbl_ptrs[number], 1);
    }
    return *table;
}

/* ---- bits ---- */

/* Byte by byte, less the zeros that are stuffed in, up to a marker; the file ends in one (see is_usual). */
NO_INLINE void refill_slowly(Bits *bits) {
    for (const uint8_t *next = bits->next; bits->count >= 0 && bits->count < 56; bits->next = next) {
        if (next[0] == 0xFF && next[1]) return;
        bits->ahead |= (uint64_t)next[0] << (56 - bits->count);
        bits->count += 8;
        next += next[0] == 0xFF ? 2 : 1;
    }
}

/* To 56 or more; at a marker to what there is, and more can be dropped than that: the count is below 0 then. */
INLINE void refill(Bits *bits) {
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t more = UINT64_MAX;
    if (bits->end - bits->next >= 8) memcpy(&more, bits->next, sizeof(more));
    if (RARELY((~more - ones) & more & (ones << 7))) { /* a byte of it is 0xFF */
        Bits copy = *bits; /* the others can stay in registers */
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

NO_INLINE Look search(const Table *table, uint64_t ahead, int is_dc) {
    uint32_t code = (uint32_t)(ahead >> 48);
    int length = 1;
    while (code >= table->bound[length]) length++;
    if (length > 16) return (Look){{0, 0}, {0, 0}, 0, 0};
    return single(table->symbols[table->offset[length] + (int)(code >> (16 - length))], length, ahead << length, is_dc);
}

/* The first coefficient alone, whatever its length. Of 0 bits: no code is like that. */
INLINE Look look_closer(const Table *table, Look look, uint64_t ahead, int is_dc) {
    if (!look.bits && look.at[0]) return single((uint8_t)look.value[0], look.at[0], ahead << look.at[0], is_dc);
    return search(table, ahead, is_dc);
}

/* Returns 0 if damaged. The block is filled if it is to be kept. */
INLINE int take_block(Bits *bits, const Table *dc, const Table *ac, uint32_t *predicted, int keep, JCOEF *block) {
    refill(bits);
    Look look = dc->look[bits->ahead >> (64 - PEEK)];
    if (RARELY(!look.bits)) look = look_closer(dc, look, bits->ahead, 1);
    if (RARELY(!look.bits)) return 0;
    drop(bits, look.bits);
    *predicted += (uint32_t)look.value[0];
    if (keep) block[0] = (JCOEF)*predicted;
    for (int k = 1, looks = look.bits > PEEK ? LOOKS : 1; k < DCTSIZE2; k += look.advance, looks++) {
        if (looks == LOOKS) {
            refill(bits);
            looks = 0;
        }
        look = ac->look[bits->ahead >> (64 - PEEK)];
        if (RARELY(k + look.advance % ENDS > DCTSIZE2)) {
            refill(bits);
            look = look_closer(ac, look, bits->ahead, 0);
            if (RARELY(!look.bits || k + look.advance % ENDS > DCTSIZE2)) return 0;
            looks = LOOKS - 1;
        }
        if (keep) {
            block[place[k + look.at[0]]] = look.value[0];
            block[place[k + look.at[1]]] = look.value[1];
        }
        drop(bits, look.bits);
    }
    return bits->count >= 0;
}

static int restart(Entropy *entropy, unsigned interval) {
    const uint8_t *marker = entropy->bits.next;
    if (entropy->bits.count >= 8 || marker[0] != 0xFF || marker[1] != JPEG_RST0 + entropy->restarts++ % 8) return 0;
    entropy->bits = (Bits){0, 0, marker + 2, entropy->bits.end};
    memset(entropy->predicted, 0, sizeof(entropy->predicted));
    entropy->mcus_left = interval;
    return 1;
}

/* Blocks are NULL in rows above the box. */
static boolean decode_mcu(j_decompress_ptr decoder, JBLOCKROW *blocks) {
    Entropy *entropy = decoder->client_data;
    unsigned interval = decoder->restart_interval;
    int fine = !interval || entropy->mcus_left-- || (restart(entropy, interval) && entropy->mcus_left--);
    int keep = blocks && entropy->column - entropy->first < entropy->wanted;
    entropy->column = entropy->column + 1 < decoder->MCUs_per_row ? entropy->column + 1 : 0;
    Bits bits = entropy->bits;
    for (int i = 0; fine && i < decoder->blocks_in_MCU; i++) {
        int component = decoder->MCU_membership[i];
        const Table *dc = entropy->dc[component], *ac = entropy->ac[component];
        uint32_t *predicted = entropy->predicted + component;
        if (keep) fine = take_block(&bits, dc, ac, predicted, 1, *blocks[i]);
        else fine = take_block(&bits, dc, ac, predicted, 0, NULL);
    }
    if (!fine) decoder->err->error_exit((j_common_ptr)decoder);
    entropy->bits = bits;
    return TRUE;
}

static int is_usual(j_decompress_ptr decoder) {
    const struct jpeg_source_mgr *source = decoder->src;
    const JOCTET *end = source->next_input_byte + source->bytes_in_buffer;
    if (source->bytes_in_buffer < 2 || end[-2] != 0xFF || end[-1] != JPEG_EOI) return 0;
    if (decoder->arith_code || decoder->data_precision != 8 || decoder->Ss || decoder->Se != DCTSIZE2 - 1) return 0;
    if (decoder->comps_in_scan == 1 && decoder->max_h_samp_factor > 1) return 0; /* versions crop it differently */
    return !jpeg_has_multiple_scans(decoder);
}

void speed_up(j_decompress_ptr decoder, JDIMENSION left) {
    if (!is_usual(decoder)) return;
    Entropy *entropy = decoder->mem->alloc_small((j_common_ptr)decoder, JPOOL_IMAGE, sizeof(Entropy));
    memset(entropy, 0, sizeof(Entropy));
    for (int i = 0; i < decoder->comps_in_scan; i++) {
        entropy->dc[i] = table_of(decoder, entropy, 0, decoder->cur_comp_info[i]->dc_tbl_no);
        entropy->ac[i] = table_of(decoder, entropy, 1, decoder->cur_comp_info[i]->ac_tbl_no);
    }
    entropy->bits.next = decoder->src->next_input_byte;
    entropy->bits.end = entropy->bits.next + decoder->src->bytes_in_buffer;
    entropy->mcus_left = decoder->restart_interval;
    JDIMENSION width = (JDIMENSION)(DCTSIZE * decoder->max_h_samp_factor);
    entropy->first = left / width;
    entropy->wanted = (left + decoder->output_width + width - 1) / width - entropy->first;
    decoder->client_data = entropy;
    decoder->entropy->decode_mcu = decode_mcu;
}

#endif
