/** What is said and how it is read, as text: tables. Pure. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { isValidName, readAddress, readMessage, type ServiceState, writeMessage } from '../../lib/notify/message.js';

const surroundings = { now: 11_243_719_022n, pidfdId: (pid: number) => (pid === 4711 ? '987' : undefined) };
const write = (state: ServiceState): string => writeMessage(state, surroundings);

const vectors: [ServiceState, string][] = [
  [{ ready: true }, 'READY=1'],
  [{ ready: true, status: 'a\nb' }, 'READY=1\nSTATUS=a b'],
  [{ reloading: true }, 'RELOADING=1\nMONOTONIC_USEC=11243719022'],
  [{ stopping: true, status: 'so long' }, 'STOPPING=1\nSTATUS=so long'],
  [{ status: 'at 50 %' }, 'STATUS=at 50 %'],
  [{ status: '' }, 'STATUS='],
  [{ status: 'a\r\n\tb\u001b[31mc\u0000d\u0085e' }, 'STATUS=a b [31mc d e'],
  [{ mainPid: 4711, ready: true, status: 'new' }, 'MAINPID=4711\nMAINPIDFDID=987\nREADY=1\nSTATUS=new'],
  [{ mainPid: 4712 }, 'MAINPID=4712'],
  [{ errno: -2 }, 'ERRNO=2'],
  [{ errno: 2 }, 'ERRNO=2'],
  [{ busError: 'org.freedesktop.DBus.Error.TimedOut' }, 'BUSERROR=org.freedesktop.DBus.Error.TimedOut'],
  [{ varlinkError: 'org.varlink.service.InvalidParameter' }, 'VARLINKERROR=org.varlink.service.InvalidParameter'],
  [{ exitStatus: 3 }, 'EXIT_STATUS=3'],
  [{ watchdog: true }, 'WATCHDOG=1'],
  [{ watchdog: 'trigger' }, 'WATCHDOG=trigger'],
  [{ watchdogTimeout: 20_000 }, 'WATCHDOG_USEC=20000000'],
  [{ watchdogTimeout: 0.5 }, 'WATCHDOG_USEC=500'],
  [{ extendTimeout: 1500 }, 'EXTEND_TIMEOUT_USEC=1500000'],
  [{ notifyAccess: 'all' }, 'NOTIFYACCESS=all'],
  [{ restartReset: true }, 'RESTART_RESET=1'],
  [{ ready: true, X_PHASE: 'warm', X_B2: '' }, 'READY=1\nX_PHASE=warm\nX_B2='],
  [{ ready: true, stopping: false, status: undefined, mainPid: undefined }, 'READY=1'],
];

for (const [state, expected] of vectors) {
  test(`${JSON.stringify(state)} is said as ${JSON.stringify(expected)}`, () => {
    assert.equal(write(state), expected);
  });
}

const refused: [unknown, string, RegExp][] = [
  [{}, 'ERR_INVALID_ARG_VALUE', /something to say/],
  [{ ready: false }, 'ERR_INVALID_ARG_VALUE', /something to say/],
  [null, 'ERR_INVALID_ARG_VALUE', /^state must be an object.*null/],
  ['READY=1', 'ERR_INVALID_ARG_VALUE', /^state must be an object.*"READY=1"/],
  [{ redy: true }, 'ERR_INVALID_ARG_VALUE', /state\.redy is not known/],
  [{ x_phase: 'a' }, 'ERR_INVALID_ARG_VALUE', /state\.x_phase is not known/],
  [{ X_PHASE: 'a\nREADY=1' }, 'ERR_INVALID_ARG_VALUE', /state\.X_PHASE must be one line/],
  [{ X_PHASE: 3 }, 'ERR_INVALID_ARG_VALUE', /state\.X_PHASE must be a string; it is 3/],
  [{ 'X_A=1\nREADY': '1' }, 'ERR_INVALID_ARG_VALUE', /is not known/],
  [{ busError: 'a\nSTOPPING=1' }, 'ERR_INVALID_ARG_VALUE', /state\.busError must be one line/],
  [{ ready: 1 }, 'ERR_INVALID_ARG_VALUE', /state\.ready must be true or false; it is 1/],
  [{ status: 5 }, 'ERR_INVALID_ARG_VALUE', /state\.status must be a string; it is 5/],
  [{ mainPid: 0 }, 'ERR_OUT_OF_RANGE', /state\.mainPid must be a whole number from 1/],
  [{ mainPid: '7' }, 'ERR_INVALID_ARG_VALUE', /state\.mainPid must be a number; it is "7"/],
  [{ mainPid: 2 ** 31 }, 'ERR_OUT_OF_RANGE', /2147483648/],
  [{ exitStatus: 256 }, 'ERR_OUT_OF_RANGE', /state\.exitStatus/],
  [{ extendTimeout: 0 }, 'ERR_OUT_OF_RANGE', /state\.extendTimeout must be a number of ms above 0/],
  [{ extendTimeout: NaN }, 'ERR_OUT_OF_RANGE', /NaN/],
  [{ watchdogTimeout: Infinity }, 'ERR_OUT_OF_RANGE', /Infinity/],
  [{ watchdog: 'off' }, 'ERR_INVALID_ARG_VALUE', /state\.watchdog must be true or 'trigger'; it is "off"/],
  [{ notifyAccess: 'root' }, 'ERR_INVALID_ARG_VALUE', /state\.notifyAccess must be none, main, exec, all/],
  [{ X_LONG: 'x'.repeat(4090) }, 'EMSGSIZE', /at most 4095 bytes, and this one 4097/],
];

for (const [state, code, message] of refused) {
  test(`${JSON.stringify(state).slice(0, 60)} is refused: ${code}`, () => {
    assert.throws(() => write(state as ServiceState), { code, message });
  });
}

test('a status that is too long is cut between two characters, and the message keeps all else', () => {
  const text = write({ ready: true, status: 'é'.repeat(4000), X_A: 'b' });

  assert.ok(Buffer.byteLength(text) <= 4095 && Buffer.byteLength(text) >= 4093, String(Buffer.byteLength(text)));
  assert.match(text, /^READY=1\nSTATUS=é+\nX_A=b$/);
});

describe('NOTIFY_SOCKET', () => {
  const good: [string, unknown][] = [
    ['', undefined],
    ['/run/systemd/notify', { kind: 'unix', path: '/run/systemd/notify' }],
    ['@x', { kind: 'unix', path: '@x' }],
    ['vsock:2:1234', { kind: 'vsock', type: undefined, cid: 2, port: 1234 }],
    ['vsock-stream:2:1234', { kind: 'vsock', type: 'stream', cid: 2, port: 1234 }],
    ['vsock-dgram:2:1234', { kind: 'vsock', type: 'dgram', cid: 2, port: 1234 }],
    ['vsock-seqpacket:4294967294:1', { kind: 'vsock', type: 'seqpacket', cid: 4294967294, port: 1 }],
    [`/${'x'.repeat(106)}`, { kind: 'unix', path: `/${'x'.repeat(106)}` }],
  ];
  for (const [text, expected] of good) {
    test(`"${text.slice(0, 40)}" is understood`, () => {
      assert.deepEqual(readAddress(text), expected);
    });
  }

  const bad: [string, string][] = [
    ['foo', 'EAFNOSUPPORT'],
    ['./run/notify', 'EAFNOSUPPORT'],
    [' /run/notify', 'EAFNOSUPPORT'],
    ['vsockets:2:1', 'EAFNOSUPPORT'],
    ['@', 'EINVAL'],
    ['/', 'EINVAL'],
    ['vsock:', 'EINVAL'],
    ['vsock::1234', 'EINVAL'], // the CID is mandatory
    ['vsock:2', 'EINVAL'],
    ['vsock:2:', 'EINVAL'],
    ['vsock:2:4294967296', 'EINVAL'],
    ['vsock:-1:1', 'EINVAL'],
    ['vsock:4294967295:1', 'EINVAL'], // VMADDR_CID_ANY
    [`/${'x'.repeat(107)}`, 'E2BIG'],
    [`/${'é'.repeat(54)}`, 'E2BIG'],
  ];
  for (const [text, code] of bad) {
    test(`"${text.slice(0, 40)}" is ${code}`, () => {
      assert.throws(
        () => readAddress(text),
        (error: NodeJS.ErrnoException) => {
          assert.equal(error.code, code);
          assert.ok((error.errno ?? 0) < 0);
          assert.ok(error.message.includes(`NOTIFY_SOCKET "${text}"`), error.message);
          return true;
        },
      );
    });
  }
});

describe('a message is read as the manager reads it', () => {
  const read = (text: string): unknown => {
    const reading = readMessage(Buffer.from(text));
    return typeof reading === 'string' ? reading : { lines: reading.lines, fields: { ...reading.fields } };
  };
  const cases: [string, unknown][] = [
    ['READY=1', { lines: ['READY=1'], fields: { READY: '1' } }],
    ['READY=1\n', { lines: ['READY=1'], fields: { READY: '1' } }],
    ['READY=1\0', { lines: ['READY=1'], fields: { READY: '1' } }],
    ['\n\nREADY=1\r\nSTATUS=a=b\n', { lines: ['READY=1', 'STATUS=a=b'], fields: { READY: '1', STATUS: 'a=b' } }],
    ['STATUS=a\nSTATUS=b', { lines: ['STATUS=a', 'STATUS=b'], fields: { STATUS: 'a' } }],
    ['nonsense\n=x\nSTATUS=', { lines: ['nonsense', '=x', 'STATUS='], fields: { STATUS: '' } }],
    ['', 'it is empty'],
    ['READY=1\0STATUS=a', 'a NUL stands in it'],
    ['\0\0', 'a NUL stands in it'],
  ];
  for (const [text, expected] of cases) {
    test(JSON.stringify(text), () => {
      assert.deepEqual(read(text), expected);
    });
  }

  test('a key is a key, whatever objects have by that name', () => {
    const reading = readMessage(Buffer.from('__proto__=a\nconstructor=b'));

    assert.ok(typeof reading === 'object');
    assert.deepEqual(Object.entries(reading.fields), [
      ['__proto__', 'a'],
      ['constructor', 'b'],
    ]);
  });
});

test('names of stored descriptors: printable ASCII without a colon, up to 255, empty too', () => {
  const valid = ['', 'web', 'a b', 'a\\b', '~', 'x'.repeat(255)];
  const invalid = ['a:b', 'a\nb', 'é', '\x7f', 'x'.repeat(256)];

  assert.deepEqual([...valid, ...invalid].filter(isValidName), valid);
});
