//! Decodes one plane of a multi-scale stamp: payload and geometry in, levels out (specification 1.0,
//! sections 2 to 5; numbers in brackets are its clauses). Plain rustc, any edition, no crates.
//!
//! The order of the file: what a caller needs, bits and bytes, RAW, RICE, the levels and `decode`, and a
//! command that speaks the protocol of vectors/README.md.

use std::io::{self, BufRead, Read, Write};

const KINDS: [&str; 6] = ["SCIENCE", "TEMPLATE", "DIFFERENCE", "SCORE", "VARIANCE", "MASK"];
const INVALID_PIXEL: u32 = 0x7fc0_0000;
const MAGNITUDE: u32 = 0x7fff_ffff;
const TWO_TO_125: u32 = 0x7e00_0000; // the bits of the binary32 2^125 (3.5)
const MAX_Q: i64 = 1 << 24;
const MAX_U: u64 = 1 << 26;

/// The fields of an Avro `multiscale.Plane` that a decoder needs, and the geometry of its cutout.
pub struct Plane<'a> {
    pub kind: &'a str,
    pub encoding: &'a str,
    pub size: i64,
    pub n_levels: i64,
    pub shared_center: bool,
    pub step_exponent: i64,
    pub offset: i64,
    pub crc32: i64,
    pub invalid: Option<&'a [u8]>,
    pub payload: &'a [u8],
}

/// The word for why a plane is refused (11.3).
pub type Reason = &'static str;

fn check(is_right: bool, reason: Reason) -> Result<(), Reason> {
    if is_right { Ok(()) } else { Err(reason) }
}

// Bits and bytes (1.5)

/// Return `count` bits, at most 32, that begin at bit `position`; the first is the most significant.
fn get_bits(bytes: &[u8], position: usize, count: usize) -> u32 {
    (position..position + count).fold(0, |value, i| value << 1 | u32::from(bytes[i / 8] >> (7 - i % 8) & 1))
}

/// Tell whether the bits after the first `n_bits`, up to the end of their last byte, are 0.
fn is_padding_zero(bytes: &[u8], n_bits: usize) -> bool {
    get_bits(bytes, n_bits, (8 - n_bits % 8) % 8) == 0
}

fn get_little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

fn crc32_of(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    !crc
}

/// The sent values of a plane, read one after the other. A pixel is a u32: the bits of a binary32, or
/// the value of a mask pixel.
struct Sent<'a> {
    plane: &'a Plane<'a>,
    is_mask: bool,
    width: usize, // bytes of one pixel
    n: usize,
    index: usize,       // of the next sent value
    n_valid: usize,     // RICE only, from here on: m
    valid_index: usize, // of the next valid value
    unary: &'a [u8],
    remainders: &'a [u8],
    unary_position: usize,     // bits
    remainder_position: usize, // bits
}

impl<'a> Sent<'a> {
    // RAW (5.1)

    fn open_raw(&self) -> Result<(), Reason> {
        check(self.plane.step_exponent == 0, "step-exponent")?;
        check(self.plane.offset == 0, "offset")?;
        check(self.plane.invalid.is_none(), "bitmap")?;
        check(self.plane.payload.len() == self.n * self.width, "payload-size")
    }

    fn next_raw(&mut self) -> Result<u32, Reason> {
        let start = self.index * self.width;
        self.index += 1;
        let pixel = get_little_endian(&self.plane.payload[start..start + self.width]);
        let is_canonical = pixel == INVALID_PIXEL || pixel & MAGNITUDE < TWO_TO_125; // 3.5
        check(self.is_mask || is_canonical, "not-canonical")?;
        Ok(pixel)
    }

    // RICE

    /// Check the numbers of the plane and its bitmap, and count the valid values.
    fn count_valid(&mut self) -> Result<(), Reason> {
        let plane = self.plane;
        let exponents = if self.is_mask { 0..=0 } else { -119..=101 }; // 5.2
        let max_offset = MAX_Q >> (plane.n_levels - 1);
        let offsets = if self.is_mask { 0..=65535 } else { -max_offset..=max_offset };
        check(exponents.contains(&plane.step_exponent), "step-exponent")?;
        check(offsets.contains(&plane.offset), "offset")?;
        let bitmap_length = plane.invalid.map_or(0, |bitmap| bitmap.len());
        check(plane.payload.len() + bitmap_length < self.n * self.width, "rice-not-shorter")?; // 5.5
        self.n_valid = self.n;
        if let Some(bitmap) = plane.invalid {
            let is_long_enough = bitmap.len() == (self.n + 7) / 8; // 5.4
            check(!self.is_mask && is_long_enough && is_padding_zero(bitmap, self.n), "bitmap")?;
            self.n_valid = (0..self.n).filter(|&i| get_bits(bitmap, i, 1) == 0).count();
            check(self.n_valid < self.n, "bitmap")?;
        }
        Ok(())
    }

    /// Find the four parts of the payload and check all that needs no value (5.3).
    fn open_rice(&mut self) -> Result<(), Reason> {
        self.count_valid()?;
        let payload = self.plane.payload;
        let n_blocks = (self.n_valid + 15) / 16;
        let parameter_length = (5 * n_blocks + 7) / 8;
        check(payload.len() >= parameter_length + 4, "rice-truncated")?;
        let mut remainder_bits = 0;
        for block in 0..n_blocks {
            let p = get_bits(payload, 5 * block, 5) as usize;
            check(p <= 26, "rice-parameter")?;
            remainder_bits += p * (self.n_valid - 16 * block).min(16);
        }
        check(is_padding_zero(payload, 5 * n_blocks), "rice-padding")?;

        let (length, parts) = payload[parameter_length..].split_at(4);
        let unary_length = get_little_endian(length) as usize;
        check(unary_length <= parts.len(), "rice-truncated")?;
        let (unary, remainders) = parts.split_at(unary_length);
        let remainder_length = (remainder_bits + 7) / 8;
        check(remainders.len() >= remainder_length, "rice-truncated")?;
        check(remainders.len() == remainder_length, "rice-trailing")?;
        self.unary = unary;
        self.remainders = remainders;
        check(is_padding_zero(remainders, remainder_bits), "rice-padding")
    }

    fn next_rice(&mut self, level: i64) -> Result<u32, Reason> {
        let plane = self.plane;
        self.index += 1;
        if plane.invalid.map_or(false, |bitmap| get_bits(bitmap, self.index - 1, 1) == 1) {
            return Ok(INVALID_PIXEL); // 5.4
        }
        let p = get_bits(plane.payload, 5 * (self.valid_index / 16), 5) as usize;
        self.valid_index += 1;
        let mut quotient = 0u64;
        loop {
            check(self.unary_position < 8 * self.unary.len(), "rice-unary")?;
            self.unary_position += 1;
            if get_bits(self.unary, self.unary_position - 1, 1) == 1 {
                break;
            }
            quotient += 1;
        }
        let u = (quotient << p) + u64::from(get_bits(self.remainders, self.remainder_position, p));
        self.remainder_position += p;
        check(u <= MAX_U, "rice-range")?;
        let half = (u / 2) as i64;
        let residual = if u % 2 == 0 { half } else { -half - 1 };
        let q = plane.offset * (if self.is_mask { 1 } else { 1 << level }) + residual; // 5.2
        if self.is_mask {
            check(0 <= q && q <= 65535, "rice-range")?;
            return Ok(q as u32);
        }
        check(-MAX_Q <= q && q <= MAX_Q, "rice-range")?;
        let pixel = ((q as f64 * power_of_two(plane.step_exponent - level)) as f32).to_bits();
        check(pixel & MAGNITUDE < TWO_TO_125, "not-canonical")?;
        Ok(pixel)
    }

    /// Check that the one bit of the last value is the last, and in the last byte (5.3).
    fn close_rice(&self) -> Result<(), Reason> {
        let is_last_byte = (self.unary_position + 7) / 8 == self.unary.len();
        check(is_last_byte && is_padding_zero(self.unary, self.unary_position), "rice-unary")
    }
}

// The levels

/// Return the pixel that four make, in the order (0,0), (0,1), (1,0), (1,1) (3.2, 3.3, 3.4).
fn reduce(kind: &str, pixels: [u32; 4]) -> u32 {
    if kind == "MASK" {
        return pixels.iter().fold(0, |bits, pixel| bits | pixel);
    }
    let mut sum = 0.0;
    let mut n = 0;
    for &pixel in pixels.iter().filter(|&&pixel| pixel != INVALID_PIXEL) {
        let value = f64::from(f32::from_bits(pixel));
        sum = if n == 0 { value } else { sum + value }; // 0 + -0 is not -0
        n += 1;
    }
    if n == 0 {
        return INVALID_PIXEL;
    }
    ((sum / f64::from(if kind == "VARIANCE" { n * n } else { n })) as f32).to_bits()
}

/// Return the canonical levels (4.4), or why the plane is refused: level 0 first, each size x size pixels
/// row-major, little-endian binary32, or uint16 for MASK; an invalid pixel is the NaN with bits 0x7fc00000.
pub fn decode(plane: &Plane) -> Result<Vec<u8>, Reason> {
    let is_rice = plane.encoding == "RICE";
    check(KINDS.contains(&plane.kind) && (is_rice || plane.encoding == "RAW"), "unknown-symbol")?; // 6.3
    check(plane.size >= 4 && plane.size <= 64 && plane.size % 4 == 0, "geometry")?; // 2.1
    check(plane.n_levels >= 1 && plane.n_levels <= 8, "geometry")?;
    check(plane.n_levels > 1 || plane.shared_center, "shared-center")?; // 4.3

    let is_mask = plane.kind == "MASK";
    let (size, n_levels, width) = (plane.size as usize, plane.n_levels as usize, if is_mask { 2 } else { 4 });
    let n_coarse = if plane.shared_center { size * size / 4 * 3 } else { size * size }; // 4.2, 4.3
    let n = size * size + (n_levels - 1) * n_coarse;
    let mut sent = Sent {
        plane, is_mask, width, n, index: 0, n_valid: 0, valid_index: 0, unary: &[], remainders: &[],
        unary_position: 0, remainder_position: 0,
    };
    if is_rice { sent.open_rice()? } else { sent.open_raw()? }

    let mut levels = Vec::with_capacity(n_levels * size * size * width);
    let is_center = |i: usize| i >= size / 4 && i < 3 * size / 4; // 2.3
    for level in 0..n_levels {
        for (y, x) in (0..size * size).map(|i| (i / size, i % size)) {
            let pixel = if plane.shared_center && level > 0 && is_center(y) && is_center(x) {
                let first = ((level - 1) * size + 2 * (y - size / 4)) * size + 2 * (x - size / 4);
                let finer = |i: usize| get_little_endian(&levels[i * width..(i + 1) * width]);
                let row = first + size;
                reduce(plane.kind, [finer(first), finer(first + 1), finer(row), finer(row + 1)])
            } else if is_rice {
                sent.next_rice(level as i64)?
            } else {
                sent.next_raw()?
            };
            levels.extend_from_slice(&pixel.to_le_bytes()[..width]);
        }
    }
    if is_rice { sent.close_rice()? }
    check(plane.crc32 == i64::from(crc32_of(&levels)), "crc")?; // 4.4
    Ok(levels)
}

// The command: one request a line on standard input, one answer a line on standard output.

const MAX_LINE: usize = 1 << 20; // characters; no valid plane takes more than 270,000

fn parse_integer(text: &[u8]) -> Result<i64, Reason> {
    let digits = if text.starts_with(b"-") { &text[1..] } else { text };
    let is_number = digits.len() >= 1 && digits.len() <= 15 && digits.iter().all(|c| c.is_ascii_digit());
    check(is_number, "protocol")?;
    let value = digits.iter().fold(0, |value, c| 10 * value + i64::from(c - b'0'));
    Ok(if digits.len() < text.len() { -value } else { value })
}

fn parse_bytes(text: &[u8]) -> Result<Vec<u8>, Reason> {
    if text == b"." {
        return Ok(Vec::new());
    }
    check(!text.is_empty() && text.len() % 2 == 0, "protocol")?;
    let digit = |&c: &u8| b"0123456789abcdef".iter().position(|&d| d == c).ok_or("protocol");
    text.chunks(2).map(|pair| Ok((16 * digit(&pair[0])? + digit(&pair[1])?) as u8)).collect()
}

fn decode_fields(fields: &[&[u8]]) -> Result<String, Reason> {
    check(fields.len() == 12 && !fields[1].is_empty(), "protocol")?;
    let shared = parse_integer(fields[6])?;
    check(shared == 0 || shared == 1, "protocol")?;
    let invalid = if fields[10] == b"-" { None } else { Some(parse_bytes(fields[10])?) };
    let levels = decode(&Plane {
        kind: std::str::from_utf8(fields[2]).unwrap_or(""),
        encoding: std::str::from_utf8(fields[3]).unwrap_or(""),
        size: parse_integer(fields[4])?,
        n_levels: parse_integer(fields[5])?,
        shared_center: shared == 1,
        step_exponent: parse_integer(fields[7])?,
        offset: parse_integer(fields[8])?,
        crc32: parse_integer(fields[9])?,
        invalid: invalid.as_deref(),
        payload: &parse_bytes(fields[11])?,
    })?;
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    let mut text = String::with_capacity(2 * levels.len());
    for byte in levels {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    Ok(text)
}

/// Return the answer to one line, as bytes: the id of a malformed one may not be text.
fn answer(line: &[u8]) -> Vec<u8> {
    let fields: Vec<&[u8]> = line.split(|&c| c == b' ').collect();
    let mut id = if fields.len() > 1 { fields[1].to_vec() } else { Vec::new() };
    if id.is_empty() {
        id.push(b'-');
    }
    let result = if line.len() <= MAX_LINE { decode_fields(&fields) } else { Err("protocol") };
    let rest = match result {
        _ if fields.len() > 1 && fields[0] != b"decode" => " unsupported\n".to_string(),
        Ok(levels) => format!(" ok {}\n", levels),
        Err(reason) => format!(" refuse {}\n", reason),
    };
    id.extend_from_slice(rest.as_bytes());
    id
}

/// Read a line without its end: of a longer one than MAX_LINE the first MAX_LINE + 1 characters.
fn read_line<R: BufRead>(input: &mut R) -> io::Result<Option<Vec<u8>>> {
    let mut read = |piece: &mut Vec<u8>| input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', piece);
    let mut line = Vec::new();
    if read(&mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(line));
    }
    let mut rest = Vec::new();
    while read(&mut rest)? > 0 && rest.last() != Some(&b'\n') {
        rest.clear();
    }
    Ok(Some(line))
}

#[allow(dead_code)] // where this file is a module
pub fn main() -> io::Result<()> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    while let Some(line) = read_line(&mut stdin.lock())? {
        stdout.lock().write_all(&answer(&line))?;
        stdout.lock().flush()?;
    }
    Ok(())
}
