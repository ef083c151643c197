/**
 * Go's gob encoding of exactly one type, [][]string: what tableflip says to its child of the descriptors it gives.
 * Pure. A decoder for this type alone. The numbers of types differ: with the release of Go, and with what a program has encoded before.
 * Source: encoding/gob of Go, its package documentation; wireType in encoding/gob/type.go.
 */
import { FdpassError } from '../errors.js';

/** The description of [][]string and of []string in it, as two messages. */
const TYPES = Buffer.from('0dff83020102ff840001ff8200000cff81020102ff8200010c0000', 'hex');
/** The head of the value: type 66, and the 0 before what is no struct. */
const VALUE = Buffer.from('ff8400', 'hex');

/** The number of the type string; no type has 0. */
const STRING = 6;
const NONE = 0;

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
  const slices = new Map<number, number>(); // of what type the elements are
  for (let at = 0; ;) {
    const head = readUnsigned(bytes, at);
    if (head === undefined) return undefined;
    const end = head.at + head.number;
    if (end > MAX_LENGTH) throw broken(`it says that it has ${end} bytes`);
    if (bytes.length < end) return undefined;
    const message = new Message(bytes.subarray(head.at, end));
    const type = message.signed();
    if (type >= 0) {
      if (slices.get(slices.get(type) ?? NONE) !== STRING) throw broken('it is of another type than [][]string');
      return { value: message.lists(), length: end };
    }
    slices.set(-type, message.slice());
    at = end;
  }
}

/** One message: the description of a type, or a value. */
class Message {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  unsigned(): number {
    const read = readUnsigned(this.#bytes, this.#at);
    if (read === undefined) throw broken('it ends in the middle');
    this.#at = read.at;
    return read.number;
  }

  /** Of which the lowest bit says that all others are turned over. */
  signed(): number {
    const number = this.unsigned();
    return number % 2 === 0 ? number / 2 : -(number + 1) / 2;
  }

  text(): string {
    const length = this.unsigned();
    const start = this.#at;
    if (start + length > this.#bytes.length) throw broken('it ends in the middle');
    this.#at += length;
    return this.#bytes.toString('utf8', start, this.#at);
  }

  /** The description of a slice: wireType{SliceT: {CommonType{Name, Id}, Elem}}. @returns The type of its elements. */
  slice(): number {
    this.#expect(2); // the field SliceT
    this.#expect(1); // the field CommonType
    let field = this.unsigned();
    if (field === 1) {
      this.text(); // of a type that has a name
      field += this.unsigned();
    }
    if (field !== 2) throw broken('it is of another type than [][]string');
    this.signed(); // its number once more
    this.#expect(0);
    this.#expect(1); // the field Elem
    const element = this.signed();
    this.#expect(0);
    this.#expect(0);
    this.#end();
    return element;
  }

  lists(): string[][] {
    this.#expect(0); // stands before what is no struct
    const lists: string[][] = [];
    for (let count = this.unsigned(); count > 0; count--) {
      const list: string[] = [];
      for (let left = this.unsigned(); left > 0; left--) list.push(this.text());
      lists.push(list);
    }
    this.#end();
    return lists;
  }

  /** The number of a field is how far it is from the one before; 0 ends a struct. */
  #expect(number: number): void {
    if (this.unsigned() !== number) throw broken('it is of another type than [][]string');
  }

  #end(): void {
    const left = this.#bytes.length - this.#at;
    if (left > 0) throw broken(`${left} bytes are left over`);
  }
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
