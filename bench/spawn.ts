/**
 * (a) How long spawn() keeps the event loop from turning, in processes of several sizes: the wall time of the synchronous call.
 * child_process.spawn forks, and a fork copies the page tables: its time grows with the process. All sizes run at once and are
 * sampled in turn, so that their comparison is one of pairs too.
 */
import { readFileSync } from 'node:fs';

import type { BallastReply, BallastRequest } from './fixtures/ballast.js';
import { type Helper, startHelper } from './helper.js';
import { type Figure, median, pairRow, type Pairs, ratios, type Row } from './measure.js';

const MIB = 2 ** 20;
const SMALL = { name: '50 MiB', bytes: 50 * MIB };
const LARGE = { name: '1 GiB', bytes: 1024 * MIB };
const HUGE = { name: '4 GiB', bytes: 4096 * MIB };
const HUGE_NEEDS = 8192 * MIB; // bytes of MemAvailable
const WARM_UP = 2;

interface Sized {
  name: string;
  bytes: number;
  helper: Helper<BallastRequest, BallastReply>;
  pairs: Pairs;
  resident: number;
}

export const spawn: Figure = async ({ quick, scope }) => {
  const hasRoom = availableMemory() > HUGE_NEEDS;
  const sizes = quick ? [SMALL] : hasRoom ? [SMALL, LARGE, HUGE] : [SMALL, LARGE];
  const count = quick ? 5 : 30;
  const all: Sized[] = [];
  for (const size of sizes) {
    const helper = startHelper<BallastRequest, BallastReply>(scope, 'fixtures/ballast', [String(size.bytes)]);
    const { resident } = await helper.ask();
    all.push({ ...size, helper, pairs: { fdpass: [], other: [] }, resident });
  }
  for (let i = -WARM_UP; i < count; i++) {
    for (const sized of all) {
      const fdpass = await sized.helper.ask('fdpass');
      const other = await sized.helper.ask('child_process');
      sized.resident = Math.min(sized.resident, other.resident);
      if (i < 0) continue;
      sized.pairs.fdpass.push(fdpass.blocked);
      sized.pairs.other.push(other.blocked);
    }
  }
  for (const { helper } of all) await helper.stop();

  for (const { name, bytes, resident } of all) {
    if (resident < 0.98 * bytes) {
      throw new Error(`The process of ${name} was not resident: ${(resident / MIB).toFixed(0)} MiB`);
    }
  }
  const rows = all.map(({ name, pairs, resident }) =>
    pairRow(pairs, {
      figure: `spawn blocks the loop, ${name}`,
      unit: 'ms',
      against: 'child_process',
      ratioOf: 'other / fdpass',
      note: `resident ${(resident / MIB).toFixed(0)} MiB`,
      ...(name === LARGE.name ? { wanted: { atLeast: 5 } } : {}),
    }),
  );
  const [small, ...larger] = all;
  return [...rows, ...larger.map((sized) => flatness(small, sized))];
};

function flatness(small: Sized | undefined, { name, pairs }: Sized): Row {
  const base = small?.pairs.fdpass ?? [];
  return {
    figure: `spawn, ${name} against 50 MiB`,
    unit: 'ms',
    fdpass: median(pairs.fdpass),
    other: median(base),
    against: 'at 50 MiB',
    ...ratios(pairs.fdpass, base),
    ratioOf: 'fdpass / other',
    samples: base.length,
    ...(name === LARGE.name ? { wanted: { atMost: 1.5 } } : {}),
  };
}

/** What may be used without swapping, in bytes. proc(5) */
function availableMemory(): number {
  return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'latin1'))?.[1]) * 1024;
}
