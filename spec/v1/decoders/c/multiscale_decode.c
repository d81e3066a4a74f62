/* Decodes one plane of a multi-scale stamp: payload and geometry in, levels out (specification 1.0,
 * sections 2 to 5; numbers in brackets are its clauses). C99, needs only the C library and 8-bit bytes.
 *
 * The order of the file: what a caller needs, bits and bytes, RAW, RICE, the levels, and a command
 * that speaks the protocol of vectors/README.md. Define MULTISCALE_NO_MAIN to leave the command out.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MULTISCALE_MAX_BYTES (8 * 64 * 64 * 4) /* that the levels of a plane can take (7.1) */

/* The fields of an Avro `multiscale.Plane` that a decoder needs, and the geometry of its cutout. */
struct multiscale_plane {
    const char *kind;             /* "SCIENCE", "TEMPLATE", ... (3.1) */
    const char *encoding;         /* "RAW" or "RICE" */
    int64_t size;                 /* S: pixels a side of each level */
    int64_t n_levels;             /* L */
    int shared_center;            /* 0 or 1 */
    int64_t step_exponent;        /* e (5.2) */
    int64_t offset;               /* in level-0 steps (5.2) */
    int64_t crc32;                /* of the canonical levels (4.4) */
    const unsigned char *invalid; /* the bitmap (5.4), NULL where Avro has null */
    size_t invalid_length;
    const unsigned char *payload;
    size_t payload_length;
};

/* Return the bytes that the levels of this plane take, 0 where kind or geometry are not allowed. */
size_t multiscale_levels_size(const struct multiscale_plane *plane);

/* Write the canonical levels (4.4): level 0 first, each size x size pixels row-major, little-endian
 * binary32, or uint16 for MASK; an invalid pixel is the NaN with bits 0x7fc00000. `capacity` is the
 * room in `levels`, at best MULTISCALE_MAX_BYTES. Return NULL, or the word for why the plane is
 * refused (11.3; "capacity" for too little room): `levels` then holds zeros. Allocates nothing. */
const char *multiscale_decode(const struct multiscale_plane *plane, unsigned char *levels, size_t capacity);

#define INVALID_PIXEL UINT32_C(0x7fc00000)
#define MAGNITUDE UINT32_C(0x7fffffff)
#define TWO_TO_125 UINT32_C(0x7e000000) /* the bits of the binary32 2^125 (3.5) */
#define MAX_Q (1 << 24)
#define MAX_U (UINT64_C(1) << 26)

/* Where the reading of the sent values stands. A pixel is a uint32_t: the bits of a binary32, or the
 * value of a mask pixel. */
struct sent {
    const struct multiscale_plane *plane;
    int is_mask;
    size_t width;             /* bytes of one pixel */
    size_t n;                 /* sent values */
    size_t index;             /* of the next sent value */
    size_t n_valid;           /* RICE only, from here on: m */
    size_t valid_index;       /* of the next valid value */
    const unsigned char *unary, *remainders;
    size_t unary_length;      /* bytes */
    size_t unary_position;    /* bits */
    size_t remainder_position; /* bits */
};

/* Bits and bytes (1.5) */

/* Return `count` bits, at most 32, that begin at bit `position`; the first is the most significant. */
static uint32_t get_bits(const unsigned char *bytes, size_t position, unsigned count)
{
    uint32_t value = 0;
    for (; count > 0; count--, position++)
        value = value << 1 | (bytes[position / 8] >> (7 - position % 8) & 1u);
    return value;
}

/* Tell whether the bits after the first `n_bits`, up to the end of their last byte, are 0. */
static int is_padding_zero(const unsigned char *bytes, size_t n_bits)
{
    return get_bits(bytes, n_bits, (unsigned)((8 - n_bits % 8) % 8)) == 0;
}

static uint32_t get_little_endian(const unsigned char *bytes, size_t width)
{
    uint32_t value = 0;
    while (width-- > 0)
        value = value << 8 | bytes[width];
    return value;
}

static void put_little_endian(unsigned char *bytes, size_t width, uint32_t value)
{
    for (size_t i = 0; i < width; i++)
        bytes[i] = (unsigned char)(value >> 8 * i & 0xffu);
}

static double double_of_pixel(uint32_t pixel)
{
    float value;
    memcpy(&value, &pixel, sizeof value);
    return (double)value;
}

static uint32_t pixel_of_double(double value)
{
    float rounded = (float)value;
    uint32_t pixel;
    memcpy(&pixel, &rounded, sizeof pixel);
    return pixel;
}

static double power_of_two(int exponent)
{
    uint64_t bits = (uint64_t)(1023 + exponent) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t crc32_of(const unsigned char *bytes, size_t length)
{
    uint32_t crc = UINT32_C(0xffffffff);
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1u ? UINT32_C(0xedb88320) : 0u);
    }
    return crc ^ UINT32_C(0xffffffff);
}

/* RAW (5.1) */

static const char *open_raw(const struct sent *sent)
{
    const struct multiscale_plane *plane = sent->plane;
    if (plane->step_exponent != 0)
        return "step-exponent";
    if (plane->offset != 0)
        return "offset";
    if (plane->invalid != NULL)
        return "bitmap";
    return plane->payload_length == sent->n * sent->width ? NULL : "payload-size";
}

static const char *next_raw(struct sent *sent, uint32_t *pixel)
{
    *pixel = get_little_endian(sent->plane->payload + sent->index++ * sent->width, sent->width);
    if (!sent->is_mask && *pixel != INVALID_PIXEL && (*pixel & MAGNITUDE) >= TWO_TO_125)
        return "not-canonical"; /* 3.5 */
    return NULL;
}

/* RICE */

/* Check the numbers of the plane and its bitmap, and count the valid values (5.2, 5.4, 5.5). */
static const char *open_rice_plane(struct sent *sent)
{
    const struct multiscale_plane *plane = sent->plane;
    int64_t max_offset = sent->is_mask ? 65535 : MAX_Q >> (plane->n_levels - 1);
    int64_t min_offset = sent->is_mask ? 0 : -max_offset;
    size_t raw_length = sent->n * sent->width;
    size_t bitmap_length = plane->invalid != NULL ? plane->invalid_length : 0;

    if (sent->is_mask ? plane->step_exponent != 0 : plane->step_exponent < -119 || plane->step_exponent > 101)
        return "step-exponent";
    if (plane->offset < min_offset || plane->offset > max_offset)
        return "offset";
    if (plane->payload_length >= raw_length || bitmap_length >= raw_length - plane->payload_length)
        return "rice-not-shorter";
    sent->n_valid = sent->n;
    if (plane->invalid != NULL) {
        if (sent->is_mask || bitmap_length != (sent->n + 7) / 8 || !is_padding_zero(plane->invalid, sent->n))
            return "bitmap";
        for (size_t i = 0; i < sent->n; i++)
            sent->n_valid -= get_bits(plane->invalid, i, 1);
        if (sent->n_valid == sent->n)
            return "bitmap";
    }
    return NULL;
}

/* Find the four parts of the payload and check all that needs no value (5.3). */
static const char *open_rice(struct sent *sent)
{
    const struct multiscale_plane *plane = sent->plane;
    const char *reason = open_rice_plane(sent);
    if (reason != NULL)
        return reason;

    size_t n_blocks = (sent->n_valid + 15) / 16;
    size_t parameter_length = (5 * n_blocks + 7) / 8;
    if (plane->payload_length < parameter_length + 4)
        return "rice-truncated";
    size_t remainder_bits = 0;
    for (size_t block = 0; block < n_blocks; block++) {
        uint32_t p = get_bits(plane->payload, 5 * block, 5);
        if (p > 26)
            return "rice-parameter";
        remainder_bits += p * (block + 1 < n_blocks ? 16 : sent->n_valid - 16 * block);
    }
    if (!is_padding_zero(plane->payload, 5 * n_blocks))
        return "rice-padding";

    size_t rest = plane->payload_length - parameter_length - 4;
    size_t remainder_length = (remainder_bits + 7) / 8;
    sent->unary_length = get_little_endian(plane->payload + parameter_length, 4);
    if (sent->unary_length > rest || remainder_length > rest - sent->unary_length)
        return "rice-truncated";
    if (remainder_length < rest - sent->unary_length)
        return "rice-trailing";
    sent->unary = plane->payload + parameter_length + 4;
    sent->remainders = sent->unary + sent->unary_length;
    return is_padding_zero(sent->remainders, remainder_bits) ? NULL : "rice-padding";
}

static const char *next_rice(struct sent *sent, int level, uint32_t *pixel)
{
    const struct multiscale_plane *plane = sent->plane;
    size_t index = sent->index++;
    if (plane->invalid != NULL && get_bits(plane->invalid, index, 1)) {
        *pixel = INVALID_PIXEL; /* 5.4 */
        return NULL;
    }
    unsigned p = get_bits(plane->payload, 5 * (sent->valid_index++ / 16), 5);
    uint64_t quotient = 0;
    for (;; quotient++) {
        if (sent->unary_position == 8 * sent->unary_length)
            return "rice-unary";
        if (get_bits(sent->unary, sent->unary_position++, 1))
            break;
    }
    uint64_t u = quotient << p | get_bits(sent->remainders, sent->remainder_position, p);
    sent->remainder_position += p;
    if (u > MAX_U)
        return "rice-range";
    int64_t residual = u % 2 ? -(int64_t)(u / 2) - 1 : (int64_t)(u / 2);
    int64_t q = plane->offset * (sent->is_mask ? 1 : 1 << level) + residual; /* 5.2 */
    if (sent->is_mask ? q < 0 || q > 65535 : q < -MAX_Q || q > MAX_Q)
        return "rice-range";
    if (sent->is_mask) {
        *pixel = (uint32_t)q;
        return NULL;
    }
    *pixel = pixel_of_double((double)q * power_of_two((int)plane->step_exponent - level));
    return (*pixel & MAGNITUDE) >= TWO_TO_125 ? "not-canonical" : NULL;
}

/* Check that the one bit of the last value is the last, and in the last byte (5.3). */
static const char *close_rice(const struct sent *sent)
{
    int is_last_byte = (sent->unary_position + 7) / 8 == sent->unary_length;
    return is_last_byte && is_padding_zero(sent->unary, sent->unary_position) ? NULL : "rice-unary";
}

/* The levels */

/* Return the pixel that the 2x2 block of `finer` at row y, column x makes (3.2, 3.3, 3.4). */
static uint32_t reduce(const struct sent *sent, const unsigned char *finer, size_t y, size_t x)
{
    size_t size = (size_t)sent->plane->size;
    uint32_t bits = 0;
    double sum = 0;
    int n = 0;
    for (size_t i = 0; i < 4; i++) {
        size_t position = (y + i / 2) * size + x + i % 2;
        uint32_t pixel = get_little_endian(finer + position * sent->width, sent->width);
        bits |= pixel;
        if (!sent->is_mask && pixel != INVALID_PIXEL) {
            sum = n == 0 ? double_of_pixel(pixel) : sum + double_of_pixel(pixel); /* 0 + -0 is not -0 */
            n++;
        }
    }
    if (sent->is_mask)
        return bits;
    if (n == 0)
        return INVALID_PIXEL;
    return pixel_of_double(sum / (strcmp(sent->plane->kind, "VARIANCE") == 0 ? n * n : n));
}

/* Fill `levels` from the sent values and, where centres are shared, from the level before (4). */
static const char *read_levels(struct sent *sent, int is_rice, unsigned char *levels)
{
    size_t size = (size_t)sent->plane->size, quarter = size / 4;
    size_t level_length = size * size * sent->width;
    unsigned char *next = levels;
    for (int level = 0; level < (int)sent->plane->n_levels; level++)
        for (size_t y = 0; y < size; y++)
            for (size_t x = 0; x < size; x++, next += sent->width) {
                int is_center = y >= quarter && y < 3 * quarter && x >= quarter && x < 3 * quarter;
                uint32_t pixel;
                const char *reason = NULL;
                if (level > 0 && is_center && sent->plane->shared_center) {
                    const unsigned char *finer = levels + (size_t)(level - 1) * level_length;
                    pixel = reduce(sent, finer, 2 * (y - quarter), 2 * (x - quarter));
                } else {
                    reason = is_rice ? next_rice(sent, level, &pixel) : next_raw(sent, &pixel);
                }
                if (reason != NULL)
                    return reason;
                put_little_endian(next, sent->width, pixel);
            }
    return is_rice ? close_rice(sent) : NULL;
}

static int is_kind(const char *kind)
{
    static const char *const kinds[] = {"SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE", "VARIANCE", "MASK"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kind, kinds[i]) == 0)
            return 1;
    return 0;
}

static int is_geometry(int64_t size, int64_t n_levels)
{
    return size >= 4 && size <= 64 && size % 4 == 0 && n_levels >= 1 && n_levels <= 8; /* 2.1 */
}

size_t multiscale_levels_size(const struct multiscale_plane *plane)
{
    if (!is_kind(plane->kind) || !is_geometry(plane->size, plane->n_levels))
        return 0;
    return (size_t)(plane->n_levels * plane->size * plane->size) * (strcmp(plane->kind, "MASK") == 0 ? 2 : 4);
}

const char *multiscale_decode(const struct multiscale_plane *plane, unsigned char *levels, size_t capacity)
{
    int is_rice = strcmp(plane->encoding, "RICE") == 0;
    size_t length = multiscale_levels_size(plane);
    struct sent sent = {0};
    const char *reason;

    memset(levels, 0, capacity);
    if (!is_kind(plane->kind) || !(is_rice || strcmp(plane->encoding, "RAW") == 0))
        return "unknown-symbol"; /* 6.3 */
    if (!is_geometry(plane->size, plane->n_levels))
        return "geometry";
    if (plane->n_levels == 1 && !plane->shared_center)
        return "shared-center"; /* 4.3 */
    if (capacity < length)
        return "capacity";

    size_t level_size = (size_t)(plane->size * plane->size);
    sent.plane = plane;
    sent.is_mask = strcmp(plane->kind, "MASK") == 0;
    sent.width = sent.is_mask ? 2 : 4;
    sent.n = level_size; /* 4.2, 4.3 */
    sent.n += (size_t)(plane->n_levels - 1) * level_size / 4 * (plane->shared_center ? 3 : 4);
    reason = is_rice ? open_rice(&sent) : open_raw(&sent);
    if (reason == NULL)
        reason = read_levels(&sent, is_rice, levels);
    if (reason == NULL && plane->crc32 != (int64_t)crc32_of(levels, length))
        reason = "crc";
    if (reason != NULL)
        memset(levels, 0, length);
    return reason;
}

#ifndef MULTISCALE_NO_MAIN
/* The command: one request a line on standard input, one answer a line on standard output. */
#include <stdio.h>

enum { MAX_LINE = 1 << 20, N_FIELDS = 12 }; /* no valid plane takes more than 270,000 characters */

static const char digits[] = "0123456789abcdef";

/* Read a line without its end into `line`, which has room for MAX_LINE + 2: of a longer one only the
 * first MAX_LINE + 1 characters. Return 0 at the end of the input. */
static int read_line(char *line, size_t *length)
{
    int c = getchar();
    *length = 0;
    if (c == EOF)
        return 0;
    for (; c != EOF && c != '\n'; c = getchar())
        if (*length <= MAX_LINE)
            line[(*length)++] = (char)c;
    line[*length] = '\0';
    return 1;
}

/* Read an optional minus and 1 to 15 digits. */
static int parse_integer(const char *text, int64_t *value)
{
    int is_negative = *text == '-';
    size_t n_digits = strspn(text += is_negative, "0123456789");
    if (n_digits < 1 || n_digits > 15 || text[n_digits] != '\0')
        return 0;
    for (*value = 0; *text != '\0'; text++)
        *value = 10 * *value + (*text - '0');
    *value = is_negative ? -*value : *value;
    return 1;
}

/* Turn lower-case hexadecimal, or "." for no bytes, into bytes in its own place. */
static int parse_bytes(char *text, const unsigned char **bytes, size_t *length)
{
    size_t n_characters = strcmp(text, ".") == 0 ? 0 : strlen(text);
    if (*text == '\0' || n_characters % 2 != 0 || (n_characters > 0 && strspn(text, digits) != n_characters))
        return 0;
    for (size_t i = 0; i < n_characters; i += 2) {
        ptrdiff_t high = strchr(digits, text[i]) - digits, low = strchr(digits, text[i + 1]) - digits;
        ((unsigned char *)text)[i / 2] = (unsigned char)(16 * high + low);
    }
    *bytes = (const unsigned char *)text;
    *length = n_characters / 2;
    return 1;
}

/* Write the answer to one line, which is overwritten. */
static void answer(char *line, size_t line_length)
{
    static unsigned char levels[MULTISCALE_MAX_BYTES];
    char *fields[N_FIELDS + 1] = {line}; /* one more, to see that there are too many */
    struct multiscale_plane plane = {0};
    int n_fields = 1, is_whole = line_length <= MAX_LINE && strlen(line) == line_length, is_request;
    int64_t shared;
    const char *reason = "protocol";

    for (char *c = line; *c != '\0' && n_fields <= N_FIELDS; c++)
        if (*c == ' ') {
            *c = '\0';
            fields[n_fields++] = c + 1;
        }
    printf("%s ", n_fields > 1 && *fields[1] != '\0' ? fields[1] : "-");
    if (n_fields > 1 && strcmp(fields[0], "decode") != 0) {
        puts("unsupported");
        return;
    }
    is_request = is_whole && n_fields == N_FIELDS && *fields[1] != '\0' &&
                 parse_integer(fields[4], &plane.size) && parse_integer(fields[5], &plane.n_levels) &&
                 parse_integer(fields[6], &shared) && (shared == 0 || shared == 1) &&
                 parse_integer(fields[7], &plane.step_exponent) && parse_integer(fields[8], &plane.offset) &&
                 parse_integer(fields[9], &plane.crc32) &&
                 (strcmp(fields[10], "-") == 0 ||
                  parse_bytes(fields[10], &plane.invalid, &plane.invalid_length)) &&
                 parse_bytes(fields[11], &plane.payload, &plane.payload_length);
    if (is_request) {
        plane.kind = fields[2];
        plane.encoding = fields[3];
        plane.shared_center = shared == 1;
        reason = multiscale_decode(&plane, levels, sizeof levels);
    }
    if (reason != NULL) {
        printf("refuse %s\n", reason);
        return;
    }
    printf("ok ");
    for (size_t i = 0, length = multiscale_levels_size(&plane); i < length; i++) {
        putchar(digits[levels[i] >> 4]);
        putchar(digits[levels[i] & 15]);
    }
    putchar('\n');
}

int main(void)
{
    static char line[MAX_LINE + 2];
    size_t length;
    while (read_line(line, &length)) {
        answer(line, length);
        fflush(stdout);
    }
    return 0;
}
#endif
