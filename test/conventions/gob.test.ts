/**
 * What Go writes for [][]string, by several releases and in several programs. Bytes that Go has written.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { decodeGob, encodeGob } from '../../lib/conventions/gob.js';

const ONE = [['listener', 'tcp', '127.0.0.1:8080']];
const VALUE = '000103086c697374656e6572037463700e3132372e302e302e313a38303830';

const WRITTEN: [by: string, hex: string, value: string[][]][] = [
  ['Go 1.19', `0dff83020102ff840001ff8200000cff81020102ff8200010c000021ff84${VALUE}`, ONE],
  ['Go 1.19: none', '0dff83020102ff840001ff8200000cff81020102ff8200010c000004ff840000', []],
  ['Go 1.19, behind other types', `0dff8b020102ff8c0001ff8400000cff83020102ff8400010c000021ff8c${VALUE}`, ONE],
  [
    'Go 1.19, a type with a name',
    `14ff8d020101056e616d657301ff8e0001ff8400000cff83020102ff8400010c000021ff8e${VALUE}`,
    ONE,
  ],
  ['Go 1.27', `0dff81020102ff820001ff8000000b7f020102ff8000010c000021ff82${VALUE}`, ONE],
  ['Go 1.27: none', '0dff81020102ff820001ff8000000b7f020102ff8000010c000004ff820000', []],
  ['Go 1.27, behind other types', `0dff89020102ff8a0001ff8200000cff81020102ff8200010c000021ff8a${VALUE}`, ONE],
];

describe('what Go has written', () => {
  for (const [by, hex, value] of WRITTEN) {
    test(`${by}: is read, with any byte missing it is waited for, and what follows is not looked at`, () => {
      const bytes = Buffer.from(hex, 'hex');

      assert.deepEqual(decodeGob(bytes), { value, length: bytes.length });
      for (let length = 0; length < bytes.length; length++) {
        assert.equal(decodeGob(bytes.subarray(0, length)), undefined);
      }
      assert.equal(decodeGob(Buffer.concat([bytes, Buffer.from('x')]))?.length, bytes.length);
    });
  }

  test('every byte that is changed is an error of ours, more bytes to wait for, or another value', () => {
    for (const [, hex] of WRITTEN) {
      const good = Buffer.from(hex, 'hex');
      for (let at = 0; at < good.length; at++) {
        for (let value = 0; value < 256; value++) {
          const bytes = Buffer.from(good);
          bytes[at] = value;
          try {
            decodeGob(bytes);
          } catch (error) {
            assert.equal((error as { code?: string }).code, 'ERR_FDPASS_PROTOCOL', `byte ${at} = ${value}`);
          }
        }
      }
    }
  });

  test('ours are the bytes of Go 1.19, which every release reads', () => {
    assert.equal(encodeGob(ONE).toString('hex'), WRITTEN[0]?.[1]);
    assert.equal(encodeGob([]).toString('hex'), WRITTEN[1]?.[1]);
  });
});

describe('what is not [][]string', () => {
  const others: [what: string, hex: string][] = [
    ['[]string', '0cff81020102ff8200010c000007ff820001026869'],
    ['a string', '050c00026869'],
    ['[][]int', '0dff85020102ff860001ff8400000cff83020102ff84000104000006ff8600010102'],
    [
      'a struct',
      '13ff87030102ff8800010101014101ff8a00000019ff890201010a5b5d5b5d737472696e6701ff8a0001ff8200000cff81020102ff8200010c000008ff88010101016100',
    ],
    ['a map', '0fff8b040102ff8c00010c01ff8200000cff81020102ff8200010c000009ff8c00010161010162'],
    ['a value before its type', '04ff840000'],
    ['a slice of itself', '0dff81020102ff820001ff8200000' + '4ff820000'],
  ];
  for (const [what, hex] of others) {
    test(`${what} is refused`, () => {
      assert.throws(() => decodeGob(Buffer.from(hex, 'hex')), { code: 'ERR_FDPASS_PROTOCOL' });
    });
  }
});
