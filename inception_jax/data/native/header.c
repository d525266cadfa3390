/* What comes before the pixels of a JPEG (ITU-T T.81, annex B). */
#include <string.h>

#include "jpeg.h"

enum { BASELINE = 0xC0, EXTENDED = 0xC1, HUFFMAN = 0xC4, START = 0xD8, SCAN = 0xDA };
enum { QUANTISATION = 0xDB, RESTART = 0xDD, ADOBE = 0xEE, COMMENT = 0xFE };

static int word(const uint8_t *at) { return at[0] << 8 | at[1]; }

static int read_quantisation(Header *header, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at += 65) {
        if (end - at < 65 || *at > 3) return 0; /* steps of 16 bits are above 15 */
        header->quant[*at] = at + 1;
    }
    return 1;
}

static int read_huffman(Header *header, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        int symbols = 0;
        if (end - at < 17 || (*at & 0xEF) > 3) return 0;
        for (int bits = 1; bits <= 16; bits++) symbols += at[bits];
        if (symbols > 256 || end - at < 17 + symbols) return 0;
        (*at & 0x10 ? header->ac : header->dc)[*at & 3] = at + 1;
        at += 17 + symbols;
    }
    return 1;
}

/* Colours of full size, of half the width, or of half the width and height; two columns are not interpolated. */
static int usual_sampling(const Header *header) {
    const Component *c = header->component;
    if (header->components == 1) return 1;
    if (c[1].h * c[1].v * c[2].h * c[2].v != 1 || c[0].h > 2 || c[0].v > c[0].h) return 0;
    return c[0].h == 1 || header->width > 4;
}

static int read_frame(Header *header, const uint8_t *at, const uint8_t *end) {
    if (end - at < 6 || header->components || at[0] != 8) return 0;
    header->height = word(at + 1);
    header->width = word(at + 3);
    header->components = at[5];
    if (!header->height || !header->width || (at[5] != 1 && at[5] != 3) || end - at != 6 + 3 * at[5]) return 0;
    for (int i = 0; i < header->components; i++) {
        const uint8_t *from = at + 6 + 3 * i;
        header->component[i] = (Component){.id = from[0], .h = from[1] >> 4, .v = from[1] & 15, .quant = from[2]};
        if (!header->component[i].h || !header->component[i].v || from[2] > 3) return 0;
    }
    if (header->components == 1) header->component[0].h = header->component[0].v = 1; /* one block a unit, always */
    return usual_sampling(header);
}

static int read_scan(Header *header, const uint8_t *at, const uint8_t *end) {
    if (!header->components || end - at != 4 + 2 * header->components || at[0] != header->components) return 0;
    for (int i = 0; i < header->components; i++) {
        Component *component = &header->component[i];
        component->dc = at[2 + 2 * i] >> 4;
        component->ac = at[2 + 2 * i] & 15;
        if (at[1 + 2 * i] != component->id || component->dc > 3 || component->ac > 3) return 0;
        if (!header->dc[component->dc] || !header->ac[component->ac] || !header->quant[component->quant]) return 0;
    }
    return end[-3] == 0 && end[-2] == 63 && end[-1] == 0;
}

/* Three components are RGB if Adobe's marker or their names say so. */
static int is_rgb(const Header *header, const uint8_t *adobe) {
    if (adobe) return adobe[11] != 1;
    return header->component[0].id == 'R' && header->component[1].id == 'G' && header->component[2].id == 'B';
}

int read_header(Header *header, const uint8_t *data, size_t size) {
    const uint8_t *at = data + 2, *body = at, *end = data + size, *adobe = NULL;
    memset(header, 0, sizeof(*header));
    header->end = end;
    if (size < 4 || data[0] != 0xFF || data[1] != START) return 0;
    for (;;) {
        while (end - at >= 4 && at[0] == 0xFF && at[1] == 0xFF) at++; /* padding */
        if (end - at < 4 || at[0] != 0xFF) return 0;
        int marker = at[1], length = word(at + 2), fine = 1;
        body = at + 4;
        at += 2 + length;
        if (length < 2 || at > end) return 0;
        if (marker == QUANTISATION) fine = read_quantisation(header, body, at);
        else if (marker == HUFFMAN) fine = read_huffman(header, body, at);
        else if (marker == BASELINE || marker == EXTENDED) fine = read_frame(header, body, at);
        else if (marker == RESTART) fine = length == 4 && ((header->restart = word(body)), 1);
        else if (marker == ADOBE && length >= 14 && !memcmp(body, "Adobe", 5)) adobe = body;
        else if (marker == SCAN) break;
        else if (marker < 0xE0 || (marker > 0xEF && marker != COMMENT)) fine = 0;
        if (!fine) return 0;
    }
    header->scan = at;
    return read_scan(header, body, at) && (header->components == 1 || !is_rgb(header, adobe));
}
