/**
 * Go's gob encoding of exactly one type, [][]string: what tableflip says to its child of the descriptors it gives.
 * Pure. A decoder for this type alone: Go writes one description of it, always the same bytes.
 * Source: encoding/gob of Go, its package documentation.
 */
import { FdpassError } from '../errors.js';

/** The description of [][]string and of []string in it, as two messages. */
const TYPES = Buffer.from('0dff83020102ff840001ff8200000cff81020102ff8200010c0000', 'hex');
/** The head of the value: type 66, and the 0 before what is no struct. */
const VALUE = Buffer.from('ff8400', 'hex');

/** What may come at most, bytes: a length is not believed before it is there. */
const MAX_LENGTH = 1_048_576;

/** The stream that an Encoder writes for one value. */
export function encodeGob(lists: readonly (readonly string[])[]): Buffer {
  const body = [VALUE, unsigned(lists.length)];
  for (const list of lists) {
    body.push(unsigned(list.length));
    for (const text of list) body.push(unsigned(Buffer.byteLength(text)), Buffer.from(text));
  }
  const value = Buffer.concat(body);
  return Buffer.concat([TYPES, unsigned(value.length), value]);
}

/** Below 128 the byte itself; else how many bytes follow, as 256 less their number, and those with the highest first. */
function unsigned(number: number): Buffer {
  if (number < 128) return Buffer.from([number]);
  const digits = number.toString(16);
  const bytes = Buffer.from(digits.padStart(digits.length + (digits.length % 2), '0'), 'hex');
  return Buffer.concat([Buffer.from([256 - bytes.length]), bytes]);
}

/**
 * Reads one value.
 *
 * @param bytes - What has come so far.
 * @returns The value and the length of its stream; undefined where bytes are missing.
 * @throws FdpassError `ERR_FDPASS_PROTOCOL`: not this type, or longer than 1 MiB.
 */
export function decodeGob(bytes: Buffer): { value: string[][]; length: number } | undefined {
  const known = bytes.subarray(0, TYPES.length);
  if (!TYPES.subarray(0, known.length).equals(known)) throw broken('it is of another type than [][]string');
  if (known.length < TYPES.length) return undefined;
  const head = readUnsigned(bytes, TYPES.length);
  if (head === undefined) return undefined;
  if (head.number > MAX_LENGTH) throw broken(`it says that it has ${head.number} bytes`);
  const end = head.at + head.number;
  if (bytes.length < end) return undefined;
  return { value: readValue(bytes.subarray(head.at, end)), length: end };
}

function readValue(bytes: Buffer): string[][] {
  if (!bytes.subarray(0, VALUE.length).equals(VALUE)) throw broken('it is of another type than [][]string');
  let at = VALUE.length;
  const next = (): number => {
    const read = readUnsigned(bytes, at);
    if (read === undefined) throw broken('it ends in the middle');
    at = read.at;
    return read.number;
  };
  const text = (): string => {
    const length = next();
    if (at + length > bytes.length) throw broken('it ends in the middle');
    at += length;
    return bytes.toString('utf8', at - length, at);
  };
  const lists: string[][] = [];
  for (let count = next(); count > 0; count--) {
    const list: string[] = [];
    for (let left = next(); left > 0; left--) list.push(text());
    lists.push(list);
  }
  if (at !== bytes.length) throw broken(`${bytes.length - at} bytes are left over`);
  return lists;
}

/** Undefined: bytes are missing. */
function readUnsigned(bytes: Buffer, at: number): { number: number; at: number } | undefined {
  const first = bytes[at];
  if (first === undefined) return undefined;
  if (first < 128) return { number: first, at: at + 1 };
  const length = 256 - first;
  if (length > 6) throw broken(`a number has ${length} bytes`); // 6: what readUIntBE can
  if (bytes.length < at + 1 + length) return undefined;
  return { number: bytes.readUIntBE(at + 1, length), at: at + 1 + length };
}

function broken(what: string): FdpassError {
  return new FdpassError('ERR_FDPASS_PROTOCOL', `What tableflip says of its descriptors cannot be read: ${what}`);
}
