import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.Set;
import java.util.zip.CRC32;

/**
 * Decodes one plane of a multi-scale stamp: payload and geometry in, levels out (specification 1.0,
 * sections 2 to 5; numbers in brackets are its clauses). Java 17, no dependencies.
 *
 * <p>The order of the file: what a caller needs, the levels, bits and bytes, RAW, RICE, and a command that
 * speaks the protocol of vectors/README.md.
 */
public final class MultiscaleDecode {
    private static final Set<String> KINDS =
            Set.of("SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE", "VARIANCE", "MASK");
    private static final int INVALID_PIXEL = 0x7fc00000;
    private static final int MAGNITUDE = 0x7fffffff;
    private static final int TWO_TO_125 = 0x7e000000; // the bits of the binary32 2^125 (3.5)
    private static final long MAX_Q = 1 << 24;
    private static final long MAX_U = 1 << 26;

    /** The fields of an Avro multiscale.Plane that a decoder needs, and the geometry of its cutout. */
    public record Plane(String kind, String encoding, long size, long nLevels, boolean sharedCenter,
            long stepExponent, long offset, long crc32, byte[] invalid, byte[] payload) {}

    /** The plane is refused; {@code reason} is the word for why (11.3). */
    public static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
        public final String reason;

        Refused(String reason) {
            super("plane refused: " + reason);
            this.reason = reason;
        }
    }

    private static void check(boolean isRight, String reason) throws Refused {
        if (!isRight) throw new Refused(reason);
    }

    /**
     * Return the canonical levels (4.4): level 0 first, each size x size pixels row-major, little-endian
     * binary32, or uint16 for MASK; an invalid pixel is the NaN with bits 0x7fc00000.
     */
    public static byte[] decode(Plane plane) throws Refused {
        boolean isRice = "RICE".equals(plane.encoding);
        boolean isKnown = plane.kind != null && KINDS.contains(plane.kind);
        check(isKnown && (isRice || "RAW".equals(plane.encoding)), "unknown-symbol"); // 6.3
        check(plane.size >= 4 && plane.size <= 64 && plane.size % 4 == 0, "geometry"); // 2.1
        check(plane.nLevels >= 1 && plane.nLevels <= 8, "geometry");
        check(plane.nLevels > 1 || plane.sharedCenter, "shared-center"); // 4.3
        return new MultiscaleDecode(plane).readLevels(isRice);
    }

    // The reading of one plane. A pixel is an int: the bits of a binary32, or the value of a mask pixel.

    private final Plane plane;
    private final boolean isMask;
    private final int width; // bytes of one pixel
    private final int n; // sent values
    private int index; // of the next sent value
    private int nValid; // RICE only, from here on: m
    private int validIndex; // of the next valid value
    private int unaryStart; // byte of the payload
    private int unaryLength; // bytes
    private int unaryPosition; // bits
    private int remainderPosition; // bits, from the start of the payload

    private MultiscaleDecode(Plane plane) {
        this.plane = plane;
        int levelSize = (int) (plane.size * plane.size);
        isMask = plane.kind.equals("MASK");
        width = isMask ? 2 : 4;
        n = levelSize + (int) (plane.nLevels - 1) * levelSize / 4 * (plane.sharedCenter ? 3 : 4); // 4.2, 4.3
    }

    /** Return the levels from the sent values and, where centres are shared, from the level before (4). */
    private byte[] readLevels(boolean isRice) throws Refused {
        if (isRice) openRice();
        else openRaw();
        int size = (int) plane.size;
        int quarter = size / 4;
        byte[] bytes = new byte[(int) plane.nLevels * size * size * width];
        ByteBuffer levels = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
        for (int level = 0; level < plane.nLevels; level++) {
            for (int y = 0; y < size; y++) {
                for (int x = 0; x < size; x++) {
                    boolean isCenter = y >= quarter && y < 3 * quarter && x >= quarter && x < 3 * quarter;
                    int pixel;
                    if (plane.sharedCenter && level > 0 && isCenter) {
                        int row = (level - 1) * size + 2 * (y - quarter);
                        pixel = reduce(levels, row * size + 2 * (x - quarter));
                    } else {
                        pixel = isRice ? nextRice(level) : nextRaw();
                    }
                    if (isMask) levels.putShort((short) pixel);
                    else levels.putInt(pixel);
                }
            }
        }
        if (isRice) closeRice();
        CRC32 crc = new CRC32();
        crc.update(bytes);
        check(plane.crc32 == crc.getValue(), "crc"); // 4.4
        return bytes;
    }

    /** Return the pixel that the 2x2 block makes whose first pixel has this index (3.2, 3.3, 3.4). */
    private int reduce(ByteBuffer levels, int first) {
        int row = first + (int) plane.size;
        int bits = 0;
        double sum = 0;
        int count = 0;
        for (int i : new int[] {first, first + 1, row, row + 1}) {
            int pixel = isMask ? levels.getShort(i * width) & 0xffff : levels.getInt(i * width);
            bits |= pixel;
            if (isMask || pixel == INVALID_PIXEL) continue;
            double value = Float.intBitsToFloat(pixel);
            sum = count == 0 ? value : sum + value; // 0 + -0 is not -0
            count++;
        }
        if (isMask) return bits;
        if (count == 0) return INVALID_PIXEL;
        int divisor = plane.kind.equals("VARIANCE") ? count * count : count;
        return Float.floatToRawIntBits((float) (sum / divisor));
    }

    // Bits and bytes (1.5)

    /** Return count bits, at most 31, that begin at bit position; the first is the most significant. */
    private static int getBits(byte[] bytes, int position, int count) {
        int value = 0;
        for (int i = position; i < position + count; i++) {
            value = value << 1 | bytes[i / 8] >> (7 - i % 8) & 1;
        }
        return value;
    }

    /** Tell whether the bits after the first nBits, up to the end of their last byte, are 0. */
    private static boolean isPaddingZero(byte[] bytes, int nBits) {
        return getBits(bytes, nBits, (8 - nBits % 8) % 8) == 0;
    }

    private static long getLittleEndian(byte[] bytes, int start, int width) {
        long value = 0;
        for (int i = start + width - 1; i >= start; i--) value = value << 8 | bytes[i] & 0xff;
        return value;
    }

    // RAW (5.1)

    private void openRaw() throws Refused {
        check(plane.stepExponent == 0, "step-exponent");
        check(plane.offset == 0, "offset");
        check(plane.invalid == null, "bitmap");
        check(plane.payload.length == n * width, "payload-size");
    }

    private int nextRaw() throws Refused {
        int pixel = (int) getLittleEndian(plane.payload, index++ * width, width);
        boolean isCanonical = pixel == INVALID_PIXEL || (pixel & MAGNITUDE) < TWO_TO_125; // 3.5
        check(isMask || isCanonical, "not-canonical");
        return pixel;
    }

    // RICE

    /** Check the numbers of the plane and its bitmap, and return the number of valid values. */
    private int countValid() throws Refused {
        long maxExponent = isMask ? 0 : 101;
        long minExponent = isMask ? 0 : -119;
        long maxOffset = isMask ? 65535 : MAX_Q >> (plane.nLevels - 1);
        long minOffset = isMask ? 0 : -maxOffset;
        check(plane.stepExponent >= minExponent && plane.stepExponent <= maxExponent, "step-exponent"); // 5.2
        check(plane.offset >= minOffset && plane.offset <= maxOffset, "offset");
        int bitmapLength = plane.invalid == null ? 0 : plane.invalid.length;
        check((long) plane.payload.length + bitmapLength < n * width, "rice-not-shorter"); // 5.5
        if (plane.invalid == null) return n;
        check(!isMask && bitmapLength == (n + 7) / 8 && isPaddingZero(plane.invalid, n), "bitmap"); // 5.4
        int count = n;
        for (int i = 0; i < n; i++) count -= getBits(plane.invalid, i, 1);
        check(count < n, "bitmap");
        return count;
    }

    /** Find the four parts of the payload and check all that needs no value (5.3). */
    private void openRice() throws Refused {
        byte[] payload = plane.payload;
        nValid = countValid();
        int nBlocks = (nValid + 15) / 16;
        int parameterLength = (5 * nBlocks + 7) / 8;
        check(payload.length >= parameterLength + 4, "rice-truncated");
        int remainderBits = 0;
        for (int block = 0; block < nBlocks; block++) {
            int p = getBits(payload, 5 * block, 5);
            check(p <= 26, "rice-parameter");
            remainderBits += p * Math.min(16, nValid - 16 * block);
        }
        check(isPaddingZero(payload, 5 * nBlocks), "rice-padding");

        long statedLength = getLittleEndian(payload, parameterLength, 4);
        long rest = payload.length - parameterLength - 4 - statedLength;
        int remainderLength = (remainderBits + 7) / 8;
        check(rest >= remainderLength, "rice-truncated");
        check(rest == remainderLength, "rice-trailing");
        unaryStart = parameterLength + 4;
        unaryLength = (int) statedLength;
        remainderPosition = 8 * (unaryStart + unaryLength);
        check(isPaddingZero(payload, remainderPosition + remainderBits), "rice-padding");
    }

    private int nextRice(int level) throws Refused {
        if (plane.invalid != null && getBits(plane.invalid, index++, 1) == 1) return INVALID_PIXEL; // 5.4
        int p = getBits(plane.payload, 5 * (validIndex++ / 16), 5);
        long quotient = 0;
        for (;; quotient++) {
            check(unaryPosition < 8 * unaryLength, "rice-unary");
            if (getBits(plane.payload, 8 * unaryStart + unaryPosition++, 1) == 1) break;
        }
        long u = (quotient << p) + getBits(plane.payload, remainderPosition, p);
        remainderPosition += p;
        check(u <= MAX_U, "rice-range");
        long residual = u % 2 == 0 ? u / 2 : -(u + 1) / 2;
        long q = plane.offset * (isMask ? 1 : 1 << level) + residual; // 5.2
        if (isMask) {
            check(q >= 0 && q <= 65535, "rice-range");
            return (int) q;
        }
        check(q >= -MAX_Q && q <= MAX_Q, "rice-range");
        int pixel = Float.floatToRawIntBits((float) Math.scalb((double) q, (int) plane.stepExponent - level));
        check((pixel & MAGNITUDE) < TWO_TO_125, "not-canonical");
        return pixel;
    }

    /** Check that the one bit of the last value is the last, and in the last byte (5.3). */
    private void closeRice() throws Refused {
        boolean isLastByte = (unaryPosition + 7) / 8 == unaryLength;
        check(isLastByte && isPaddingZero(plane.payload, 8 * unaryStart + unaryPosition), "rice-unary");
    }

    // The command: one request a line on standard input, one answer a line on standard output.

    private static final int MAX_LINE = 1 << 20; // characters; no valid plane takes more than 270,000

    private static long parseInteger(String text) throws Refused {
        check(text.matches("-?[0-9]{1,15}"), "protocol");
        return Long.parseLong(text);
    }

    private static byte[] parseBytes(String text) throws Refused {
        if (text.equals(".")) return new byte[0];
        boolean isHex = text.chars().allMatch(c -> c >= '0' && c <= '9' || c >= 'a' && c <= 'f');
        check(!text.isEmpty() && text.length() % 2 == 0 && isHex, "protocol");
        return HexFormat.of().parseHex(text);
    }

    private static String decodeFields(String[] fields) throws Refused {
        check(fields.length == 12 && !fields[1].isEmpty(), "protocol");
        long shared = parseInteger(fields[6]);
        check(shared == 0 || shared == 1, "protocol");
        byte[] invalid = fields[10].equals("-") ? null : parseBytes(fields[10]);
        long[] numbers = new long[10];
        for (int i : new int[] {4, 5, 7, 8, 9}) numbers[i] = parseInteger(fields[i]);
        Plane plane = new Plane(fields[2], fields[3], numbers[4], numbers[5], shared == 1,
                numbers[7], numbers[8], numbers[9], invalid, parseBytes(fields[11]));
        return HexFormat.of().formatHex(decode(plane));
    }

    private static String answer(String line) {
        String[] fields = line.split(" ", -1);
        String id = fields.length > 1 && !fields[1].isEmpty() ? fields[1] : "-";
        if (fields.length > 1 && !fields[0].equals("decode")) return id + " unsupported\n";
        try {
            check(line.length() <= MAX_LINE, "protocol");
            return id + " ok " + decodeFields(fields) + "\n";
        } catch (Refused refused) {
            return id + " refuse " + refused.reason + "\n";
        }
    }

    /** Return a line without its end, or null; of one that is too long the first MAX_LINE + 1 characters. */
    private static String readLine(InputStream input) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        int c = input.read();
        if (c < 0) return null;
        for (; c >= 0 && c != '\n'; c = input.read()) {
            if (line.size() <= MAX_LINE) line.write(c);
        }
        return line.toString(StandardCharsets.ISO_8859_1);
    }

    public static void main(String[] arguments) throws IOException {
        InputStream input = new BufferedInputStream(System.in);
        for (String line = readLine(input); line != null; line = readLine(input)) {
            System.out.write(answer(line).getBytes(StandardCharsets.ISO_8859_1));
            System.out.flush();
        }
    }
}
