/* The Huffman-coded coefficients of a baseline JPEG (ITU-T T.81, annexes C and F).

   A look at the next PEEK bits tells two coefficients, where their codes and values fit into them. The loops have short
   chains of dependent instructions: their speed is that of the whole.
*/
#include <stdlib.h>
#include <string.h>

#include "jpeg.h"

enum { PEEK = 10, LONG = 255, SLACK = 4096 };

/* A coefficient. bits: of code and value, 0 if there is none; advance: places in the block, ENDS behind its last. */
typedef struct {
    int16_t value;
    uint8_t bits, advance;
} Step;

/* Two steps, or one and a second to the dump. at: places passed over before each; bits: 0 if the first does not fit, and
   then value[0] is its symbol and at[0] the length of its code, or 0 if even that is longer. */
typedef struct {
    int16_t value[2];
    uint8_t at[2], bits, advance;
} Pair;

typedef struct {
    Pair pair[1 << PEEK];
    int bound[17];  /* above all codes of a length, as 16 bits */
    int offset[17]; /* from codes to symbols */
    const uint8_t *symbols;
} Table;

typedef struct {
    uint64_t ahead; /* the next bits, from the top */
    int count;      /* of them */
    const uint8_t *next;
} Bits;

struct Entropy {
    Table table[6];
    int tables, restart, units_left, restarts;
    const Table *dc[3], *ac[3];
    int predicted[3];
    const uint8_t *source, *end;   /* what is still stuffed */
    uint8_t *segment, *stop; /* up to the next marker, unstuffed, then SLACK zeros */
    Bits bits;
};

const uint8_t place[BLOCK + ENDS] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, [BLOCK... BLOCK + ENDS - 1] = DUMP,
};

/* ---- tables ---- */

/* What follows a code of `length` bits at the top of `ahead`. */
INLINE Step step_behind(int symbol, int length, uint64_t ahead, int is_dc) {
    int size = symbol & 15, run = symbol >> 4;
    if (is_dc ? symbol > 11 : size > 10) return (Step){0, 0, 0}; /* more than 8 bits a colour need */
    if (!size) return (Step){0, (uint8_t)length, is_dc || run == 15 ? (uint8_t)(run + 1) : ENDS};
    int value = (int)(ahead << length >> (64 - size));
    if (!(value >> (size - 1))) value -= (1 << size) - 1;
    return (Step){(int16_t)value, (uint8_t)(length + size), (uint8_t)(run + 1)};
}

/* The first step alone, whatever its length; 0 bits: there is none. */
static Step long_step(const Table *table, Pair pair, uint64_t ahead, int is_dc) {
    if (!pair.bits && pair.at[0]) return step_behind(pair.value[0], pair.at[0], ahead, is_dc);
    int code = (int)(ahead >> 48), length = 1;
    while (length <= 16 && code >= table->bound[length]) length++;
    if (length > 16) return (Step){0, 0, 0};
    return step_behind(table->symbols[table->offset[length] + (code >> (16 - length))], length, ahead, is_dc);
}

static Pair single(Step step) {
    return (Pair){{step.value, 0}, {(uint8_t)(step.advance - 1), ENDS - 1}, step.bits, step.advance};
}

static Pair pair_of(Step first, Step second, int is_dc) {
    if (!first.bits) return (Pair){{0, 0}, {0, 0}, 0, 0};
    if (first.bits == LONG) return (Pair){{first.value, 0}, {first.advance, 0}, 0, 0};
    if (is_dc || first.advance == ENDS || !second.bits || first.bits + second.bits > PEEK)
        return single(first);
    return (Pair){
        .value = {first.value, second.value},
        .at = {(uint8_t)(first.advance - 1), (uint8_t)(first.advance + second.advance - 1)},
        .bits = (uint8_t)(first.bits + second.bits),
        .advance = (uint8_t)(first.advance + second.advance),
    };
}

static int fill_table(Table *table, const uint8_t *lengths, int is_dc) {
    Step steps[1 << PEEK] = {{0, 0, 0}};
    int code = 0, symbol = 0;
    table->symbols = lengths + 16;
    for (int bits = 1; bits <= 16; bits++, code <<= 1) {
        table->offset[bits] = symbol - code;
        for (int i = 0; i < lengths[bits - 1]; i++, code++, symbol++) {
            if (is_dc && table->symbols[symbol] > 15) return 0;
            for (int peek = code << PEEK >> bits; bits <= PEEK && peek < (code + 1) << PEEK >> bits; peek++) {
                if (peek >= 1 << PEEK) return 0;
                Step step = step_behind(table->symbols[symbol], bits, (uint64_t)peek << (64 - PEEK), is_dc);
                steps[peek] = step.bits > PEEK ? (Step){table->symbols[symbol], LONG, (uint8_t)bits} : step;
            }
        }
        if (code >= 1 << bits) return 0;
        table->bound[bits] = code << (16 - bits);
    }
    for (int peek = 0; peek < 1 << PEEK; peek++)
        table->pair[peek] = pair_of(steps[peek], steps[(peek << (steps[peek].bits & 15)) & ((1 << PEEK) - 1)], is_dc);
    return 1;
}

static const Table *find_table(Entropy *entropy, const uint8_t *lengths, int is_dc) {
    Table *table = entropy->table;
    for (; table < entropy->table + entropy->tables; table++)
        if (table->symbols == lengths + 16) return table;
    entropy->tables++;
    return fill_table(table, lengths, is_dc) ? table : NULL;
}

/* ---- bits ---- */

/* To 56 or more. */
INLINE void refill(Bits *bits) {
    uint64_t more;
    memcpy(&more, bits->next, sizeof(more));
    bits->ahead |= __builtin_bswap64(more) >> bits->count;
    bits->next += (63 - bits->count) >> 3;
    bits->count |= 56;
}

INLINE void consume(Bits *bits, int count) {
    bits->ahead <<= count;
    bits->count -= count;
}

static void start_segment(Entropy *entropy) {
    const uint8_t *from = entropy->source;
    uint8_t *to = entropy->segment;
    while (from < entropy->end) {
        const uint8_t *mark = memchr(from, 0xFF, entropy->end - from);
        size_t plain = (mark ? mark : entropy->end) - from;
        memcpy(to, from, plain);
        to += plain;
        from += plain;
        if (entropy->end - from < 2 || from[1]) break;
        *to++ = 0xFF;
        from += 2;
    }
    memset(to, 0, SLACK);
    entropy->source = from;
    entropy->stop = to;
    entropy->bits = (Bits){0, 0, entropy->segment};
    memset(entropy->predicted, 0, sizeof(entropy->predicted));
}

/* ---- what decode.c calls ---- */

Entropy *open_entropy(const Header *header) {
    Entropy *entropy = calloc(1, sizeof(Entropy));
    if (!entropy) return NULL;
    int fine = (entropy->segment = malloc(header->end - header->scan + SLACK)) != NULL;
    for (int i = 0; i < header->components; i++) {
        const Component *component = &header->component[i];
        entropy->dc[i] = find_table(entropy, header->dc[component->dc], 1);
        entropy->ac[i] = find_table(entropy, header->ac[component->ac], 0);
        fine = fine && entropy->dc[i] && entropy->ac[i];
    }
    if (!fine) {
        close_entropy(entropy);
        return NULL;
    }
    entropy->source = header->scan;
    entropy->end = header->end;
    entropy->restart = entropy->units_left = header->restart;
    start_segment(entropy);
    return entropy;
}

void close_entropy(Entropy *entropy) {
    free(entropy->segment);
    free(entropy);
}

int intact(const Entropy *entropy) { return entropy->bits.next - entropy->bits.count / 8 <= entropy->stop; }

int start_unit(Entropy *entropy) {
    if (!intact(entropy)) return 0;
    if (!entropy->restart || entropy->units_left--) return 1;
    const uint8_t *marker = entropy->source;
    if (entropy->end - marker < 2 || marker[1] != 0xD0 + entropy->restarts++ % 8) return 0;
    entropy->source += 2;
    entropy->units_left = entropy->restart - 1;
    start_segment(entropy);
    return 1;
}

/* Returns how many coefficients it found, 0 if damaged; they are kept if there is a block. */
INLINE int take_block(Entropy *entropy, int component, int16_t *block) {
    Bits bits = entropy->bits;
    const Table *table = entropy->dc[component];
    refill(&bits);
    Pair pair = table->pair[bits.ahead >> (64 - PEEK)];
    if (!pair.bits) pair = single(long_step(table, pair, bits.ahead, 1));
    if (!pair.bits) return 0;
    consume(&bits, pair.bits);
    entropy->predicted[component] += pair.value[0];
    if (block) block[0] = (int16_t)entropy->predicted[component];
    table = entropy->ac[component];
    int k = 1;
    while (k < BLOCK) {
        refill(&bits);
        for (int looks = 0; looks < 56 / PEEK && k < BLOCK; looks++) {
            pair = table->pair[bits.ahead >> (64 - PEEK)];
            if (__builtin_expect(!pair.bits || k + pair.advance % ENDS >= BLOCK, 0)) {
                refill(&bits);
                pair = single(long_step(table, pair, bits.ahead, 0));
                if (!pair.bits) return 0;
                looks = BLOCK;
            }
            consume(&bits, pair.bits);
            for (int i = 0; block && i < 2; i++) block[place[k + pair.at[i]]] = pair.value[i];
            k += pair.advance;
        }
    }
    entropy->bits = bits;
    return k > ENDS ? k - ENDS : k == BLOCK ? BLOCK : 0;
}

int read_block(Entropy *entropy, int component, int16_t *block) { return take_block(entropy, component, block); }

int skip_block(Entropy *entropy, int component) { return take_block(entropy, component, NULL); }
