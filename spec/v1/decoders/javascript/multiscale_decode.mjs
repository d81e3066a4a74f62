// Decodes one plane of a multi-scale stamp: payload and geometry in, levels out (specification 1.0,
// sections 2 to 5; numbers in brackets are its clauses). ES2020, no dependencies; `decode` runs in a
// browser as well as in Node.
//
// The order of the file: bits and bytes, RAW, RICE, the levels and `decode`, and a command for Node
// that speaks the protocol of vectors/README.md.

const KINDS = ["SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE", "VARIANCE", "MASK"];
const INVALID_PIXEL = 0x7fc00000;
const MAGNITUDE = 0x7fffffff;
const TWO_TO_125 = 0x7e000000; // the bits of the binary32 2^125 (3.5)
const MAX_Q = 2 ** 24;
const MAX_U = 2 ** 26;

/** The plane is refused; `reason` is the word for why (11.3). */
export class Refused extends Error {
  constructor(reason) {
    super(`plane refused: ${reason}`);
    this.name = "Refused";
    this.reason = reason;
  }
}

function check(isRight, reason) {
  if (!isRight) throw new Refused(reason);
}

// Bits and bytes (1.5)

/** Return `count` bits, at most 31, that begin at bit `position`; the first is the most significant. */
function getBits(bytes, position, count) {
  let value = 0;
  for (let i = position; i < position + count; i++) {
    value = (value << 1) | ((bytes[i >> 3] >> (7 - (i & 7))) & 1);
  }
  return value;
}

/** Tell whether the bits after the first `nBits`, up to the end of their last byte, are 0. */
function isPaddingZero(bytes, nBits) {
  return getBits(bytes, nBits, (8 - (nBits % 8)) % 8) === 0;
}

const scratch = new DataView(new ArrayBuffer(8));

function powerOfTwo(exponent) {
  scratch.setFloat64(0, 1);
  scratch.setUint32(0, (1023 + exponent) * 2 ** 20); // Math.pow need not be exact
  return scratch.getFloat64(0);
}

function crc32Of(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// RAW and RICE each return a function that gives the next sent value, as the bits of a binary32 or as
// the value of a mask pixel, and one to call after the last.

function openRaw(plane, isMask, n) {
  const { stepExponent, offset, invalid, payload } = plane;
  const width = isMask ? 2 : 4;
  check(stepExponent === 0, "step-exponent"); // 5.1
  check(offset === 0, "offset");
  check(invalid == null, "bitmap");
  check(payload.length === n * width, "payload-size");
  const view = viewOf(payload);
  let position = 0;

  function next() {
    const pixel = isMask ? view.getUint16(position, true) : view.getUint32(position, true);
    position += width;
    check(isMask || pixel === INVALID_PIXEL || (pixel & MAGNITUDE) < TWO_TO_125, "not-canonical"); // 3.5
    return pixel;
  }
  return { next, close() {} };
}

/** Check the numbers of a RICE plane and its bitmap, and return the number of valid values. */
function countValid(plane, isMask, n) {
  const { nLevels, stepExponent, offset, invalid, payload } = plane;
  const maxOffset = isMask ? 65535 : MAX_Q / 2 ** (nLevels - 1);
  const maxExponent = isMask ? 0 : 101;
  const minExponent = isMask ? 0 : -119;
  check(Number.isInteger(stepExponent), "step-exponent"); // 5.2
  check(stepExponent >= minExponent && stepExponent <= maxExponent, "step-exponent");
  check(Number.isInteger(offset), "offset");
  check(offset >= (isMask ? 0 : -maxOffset) && offset <= maxOffset, "offset");
  const bitmapLength = invalid == null ? 0 : invalid.length;
  check(payload.length + bitmapLength < n * (isMask ? 2 : 4), "rice-not-shorter"); // 5.5
  if (invalid == null) return n;
  check(!isMask && bitmapLength === Math.ceil(n / 8) && isPaddingZero(invalid, n), "bitmap"); // 5.4
  let nValid = n;
  for (let i = 0; i < n; i++) nValid -= getBits(invalid, i, 1);
  check(nValid < n, "bitmap");
  return nValid;
}

/** Find the four parts of the payload and check all that needs no value (5.3). */
function openRice(plane, isMask, n) {
  const { stepExponent, offset, invalid, payload } = plane;
  const nValid = countValid(plane, isMask, n);
  const nBlocks = Math.ceil(nValid / 16);
  const parameterLength = Math.ceil((5 * nBlocks) / 8);
  check(payload.length >= parameterLength + 4, "rice-truncated");
  let remainderBits = 0;
  for (let block = 0; block < nBlocks; block++) {
    const p = getBits(payload, 5 * block, 5);
    check(p <= 26, "rice-parameter");
    remainderBits += p * Math.min(16, nValid - 16 * block);
  }
  check(isPaddingZero(payload, 5 * nBlocks), "rice-padding");

  const unaryLength = viewOf(payload).getUint32(parameterLength, true);
  const rest = payload.length - parameterLength - 4 - unaryLength;
  const remainderLength = Math.ceil(remainderBits / 8);
  check(rest >= remainderLength, "rice-truncated");
  check(rest === remainderLength, "rice-trailing");
  const unary = payload.subarray(parameterLength + 4, parameterLength + 4 + unaryLength);
  const remainders = payload.subarray(parameterLength + 4 + unaryLength);
  check(isPaddingZero(remainders, remainderBits), "rice-padding");

  let index = 0;
  let validIndex = 0;
  let unaryPosition = 0; // bits
  let remainderPosition = 0; // bits

  function next(level) {
    if (invalid != null && getBits(invalid, index++, 1) === 1) return INVALID_PIXEL; // 5.4
    const p = getBits(payload, 5 * Math.floor(validIndex++ / 16), 5);
    let quotient = 0;
    for (;; quotient++) {
      check(unaryPosition < 8 * unaryLength, "rice-unary");
      if (getBits(unary, unaryPosition++, 1) === 1) break;
    }
    const u = quotient * 2 ** p + getBits(remainders, remainderPosition, p); // may exceed 32 bits
    remainderPosition += p;
    check(u <= MAX_U, "rice-range");
    const residual = u % 2 === 0 ? u / 2 : -(u + 1) / 2;
    const q = offset * (isMask ? 1 : 2 ** level) + residual; // 5.2
    check(q >= (isMask ? 0 : -MAX_Q) && q <= (isMask ? 65535 : MAX_Q), "rice-range");
    if (isMask) return q;
    scratch.setFloat32(0, q * powerOfTwo(stepExponent - level));
    const pixel = scratch.getUint32(0);
    check((pixel & MAGNITUDE) < TWO_TO_125, "not-canonical");
    return pixel;
  }

  /** Check that the one bit of the last value is the last, and in the last byte. */
  function close() {
    const isLastByte = Math.ceil(unaryPosition / 8) === unaryLength;
    check(isLastByte && isPaddingZero(unary, unaryPosition), "rice-unary");
  }
  return { next, close };
}

// The levels

/** Set the pixel of `levels` (a DataView) at byte `target` to what a 2x2 block, whose first pixel is at
 * byte `source`, makes (3.2, 3.3, 3.4). `rowLength` is in bytes. */
function reduce(levels, kind, source, rowLength, target) {
  if (kind === "MASK") {
    const rows = [source, source + rowLength];
    const bits = rows.map((row) => levels.getUint16(row, true) | levels.getUint16(row + 2, true));
    levels.setUint16(target, bits[0] | bits[1], true);
    return;
  }
  let sum = 0;
  let n = 0;
  for (const position of [source, source + 4, source + rowLength, source + rowLength + 4]) {
    if (levels.getUint32(position, true) === INVALID_PIXEL) continue;
    const value = levels.getFloat32(position, true);
    sum = n === 0 ? value : sum + value; // 0 + -0 is not -0
    n++;
  }
  if (n === 0) levels.setUint32(target, INVALID_PIXEL, true); // a NaN set as a number may have other bits
  else levels.setFloat32(target, sum / (kind === "VARIANCE" ? n * n : n), true);
}

/**
 * Return the canonical levels (4.4) of a plane as a Uint8Array: level 0 first, each size x size pixels
 * row-major, little-endian binary32, or uint16 for MASK; an invalid pixel is the NaN with bits 0x7fc00000.
 *
 * `plane` has `size` and `nLevels` of the cutout, and kind, encoding, sharedCenter, stepExponent, offset,
 * crc32 (number or BigInt), invalid and payload (Uint8Array) as in the Avro record. Throws Refused.
 */
export function decode(plane) {
  const { kind, encoding, size, nLevels, sharedCenter } = plane;
  check(KINDS.includes(kind) && (encoding === "RAW" || encoding === "RICE"), "unknown-symbol"); // 6.3
  check(size >= 4 && size <= 64 && size % 4 === 0, "geometry"); // 2.1
  check(nLevels >= 1 && nLevels <= 8 && nLevels % 1 === 0, "geometry");
  check(nLevels > 1 || sharedCenter, "shared-center"); // 4.3

  const isMask = kind === "MASK";
  const n = size * size + (nLevels - 1) * size * size * (sharedCenter ? 3 / 4 : 1); // 4.2, 4.3
  const { next, close } = (encoding === "RICE" ? openRice : openRaw)(plane, isMask, n);
  const width = isMask ? 2 : 4;
  const rowLength = size * width;
  const levels = new Uint8Array(nLevels * size * rowLength);
  const view = viewOf(levels);
  const isCenter = (i) => i >= size / 4 && i < (3 * size) / 4; // 2.3
  let position = 0;
  for (let level = 0; level < nLevels; level++) {
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++, position += width) {
        if (sharedCenter && level > 0 && isCenter(y) && isCenter(x)) {
          const row = (level - 1) * size + 2 * (y - size / 4);
          reduce(view, kind, row * rowLength + 2 * (x - size / 4) * width, rowLength, position);
        } else if (isMask) {
          view.setUint16(position, next(level), true);
        } else {
          view.setUint32(position, next(level), true);
        }
      }
    }
  }
  close();
  check(crc32Of(levels) === Number(plane.crc32), "crc"); // 4.4
  return levels;
}

// The command: one request a line on standard input, one answer a line on standard output.

const MAX_LINE = 2 ** 20; // characters; no valid plane takes more than 270,000

function parseInteger(text) {
  check(/^-?[0-9]{1,15}$/.test(text), "protocol");
  return Number(text);
}

function parseBytes(text) {
  if (text === ".") return new Uint8Array(0);
  check(text.length > 0 && text.length % 2 === 0 && !/[^0-9a-f]/.test(text), "protocol");
  return new Uint8Array(Buffer.from(text, "hex"));
}

function decodeFields(fields) {
  check(fields.length === 12 && fields[1] !== "", "protocol");
  const shared = parseInteger(fields[6]);
  check(shared === 0 || shared === 1, "protocol");
  const plane = {
    kind: fields[2],
    encoding: fields[3],
    size: parseInteger(fields[4]),
    nLevels: parseInteger(fields[5]),
    sharedCenter: shared === 1,
    stepExponent: parseInteger(fields[7]),
    offset: parseInteger(fields[8]),
    crc32: parseInteger(fields[9]),
    invalid: fields[10] === "-" ? null : parseBytes(fields[10]),
    payload: parseBytes(fields[11]),
  };
  return Buffer.from(decode(plane)).toString("hex");
}

function answer(line) {
  const fields = line.split(" ");
  const id = fields[1] || "-";
  if (fields.length > 1 && fields[0] !== "decode") return `${id} unsupported\n`;
  try {
    check(line.length <= MAX_LINE, "protocol");
    return `${id} ok ${decodeFields(fields)}\n`;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return `${id} refuse ${error.reason}\n`;
  }
}

async function main() {
  let line = ""; // of a line that is too long only the first MAX_LINE + 1 characters
  for await (const chunk of process.stdin) {
    const pieces = chunk.toString("latin1").split("\n");
    pieces.forEach((piece, i) => {
      line += piece.slice(0, MAX_LINE + 1 - line.length);
      if (i === pieces.length - 1) return;
      process.stdout.write(answer(line), "latin1");
      line = "";
    });
  }
  if (line !== "") process.stdout.write(answer(line), "latin1");
}

if (typeof process !== "undefined" && /multiscale_decode(\.mjs)?$/.test((process.argv || [])[1])) main();
