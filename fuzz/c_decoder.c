/* Fuzz the C decoder: any bytes make a plane, and it must decode or refuse, within its own buffers.
 *
 * Input: 16 bytes of fields, then the bitmap, then the payload. fuzz/seeds.py writes the vectors so.
 *   0 kind  1 encoding  2 size  3 levels  4 shared centre (bit 0), bitmap given (bit 1)  5 spare
 *   6-7 step exponent  8-11 offset  12-15 CRC-32  (little-endian); then 2 bytes length of the bitmap
 */
#define MULTISCALE_NO_MAIN
#include "../spec/v1/decoders/c/multiscale_decode.c"

#include <stdlib.h>

enum { HEADER = 18 };

static const char *const KINDS[] = {"SCIENCE", "VARIANCE", "MASK", "SCORE", "TEMPLATE", "DIFFERENCE", "UNKNOWN", ""};
static const char *const ENCODINGS[] = {"RAW", "RICE", "UNKNOWN", ""};

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t length)
{
    static unsigned char levels[MULTISCALE_MAX_BYTES];
    struct multiscale_plane plane;
    size_t rest, bitmap, room;
    unsigned char *copy; /* of its own, so that the sanitizer sees a read past the end */
    const char *refusal;

    if (length < HEADER)
        return 0;
    rest = length - HEADER;
    bitmap = (size_t)data[16] | (size_t)data[17] << 8;
    if (!(data[4] & 2) || bitmap > rest)
        bitmap = data[4] & 2 ? rest : 0;
    copy = malloc(rest ? rest : 1);
    if (copy == NULL)
        return 0;
    memcpy(copy, data + HEADER, rest);
    plane.kind = KINDS[data[0] % 8];
    plane.encoding = ENCODINGS[data[1] % 4];
    plane.size = (signed char)data[2];
    plane.n_levels = (signed char)data[3];
    plane.shared_center = data[4] & 1;
    plane.step_exponent = (int16_t)(data[6] | data[7] << 8);
    plane.offset = (int32_t)get_little_endian(data + 8, 4);
    plane.crc32 = (int64_t)get_little_endian(data + 12, 4);
    plane.invalid = data[4] & 2 ? copy : NULL;
    plane.invalid_length = bitmap;
    plane.payload = copy + bitmap;
    plane.payload_length = rest - bitmap;
    room = data[5] & 1 ? multiscale_levels_size(&plane) / 2 : sizeof levels; /* now and then too little */
    refusal = multiscale_decode(&plane, levels, room);
    if (refusal == NULL && (multiscale_levels_size(&plane) == 0 || room < multiscale_levels_size(&plane)))
        abort(); /* accepted what has no size, or without room */
    free(copy);
    return 0;
}
