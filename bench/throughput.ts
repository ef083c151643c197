/**
 * (c) Requests a second of a plain Node server, against the same served through a Listener: each in processes of its own, loaded in turn.
 * Requests a second depend on what else the machine does; the processor time that the server takes for one does so less.
 */
import path from 'node:path';

import { type Family, startServer } from '../test/support/fixture.js';
import type { ClientRequest } from './fixtures/client.js';
import { startHelper } from './helper.js';
import { type Figure, pairRow, type Pairs, root, samplePairs } from './measure.js';
import { processorTime } from './processor.js';

const CONNECTIONS = 16;
const PROCESSES = 6; // of each kind: two of the same program differ by some percent, as the compiler happened to work
const PAIRS = 7; // from each

export const throughput: Figure = async ({ quick, scope }) => {
  const duration = quick ? 300 : 500; // ms: short, so that both halves of a pair see the same machine
  const client = startHelper<ClientRequest, number>(scope, 'fixtures/client');
  const time: Pairs = { fdpass: [], other: [] };
  const load = async (server: Family, times: number[]): Promise<number> => {
    const before = processorTime(server.pid);
    const perSecond = await client.ask({ port: server.port, connections: CONNECTIONS, duration });
    times.push((processorTime(server.pid) - before) / ((perSecond * duration) / 1000));
    return perSecond;
  };
  const pairs: Pairs = { fdpass: [], other: [] };
  for (let i = 0; i < (quick ? 1 : PROCESSES); i++) {
    const served = await startServer(scope, path.join(root, 'examples/http.mjs'));
    const plain = await startServer(scope, path.join(root, 'bench/fixtures/plain.mjs'));
    const sample = (count: number, fdpass: number[], other: number[]): Promise<Pairs> =>
      samplePairs(
        count,
        () => load(served, fdpass),
        () => load(plain, other),
      );
    await sample(2, [], []); // compiled by now
    const some = await sample(quick ? 2 : PAIRS, time.fdpass, time.other);
    pairs.fdpass.push(...some.fdpass);
    pairs.other.push(...some.other);
    await served.stop();
    await plain.stop();
  }
  await client.stop();
  const against = 'plain http';
  const note = `${CONNECTIONS} keep-alive connections in a closed loop, ${duration} ms a sample`;
  return [
    pairRow(pairs, {
      ...{ figure: 'throughput', unit: 'requests/s', against, note },
      ratioOf: 'fdpass / other',
      wanted: { atLeast: 0.98 },
    }),
    pairRow(time, { figure: 'processor time a request', unit: 'us', against, ratioOf: 'fdpass / other' }),
  ];
};
