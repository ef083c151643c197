/** Supervisors of Node's own world: node:cluster and PM2. What works under load loses nothing; what cannot work says why. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';

import { type Family, type Scope, startProgram, startServer } from '../support/fixture.js';
import { assertNothingLost, freePort, install, program, run, siteDirectory, steadyLoad, without } from './support.js';

describe('node:cluster', () => {
  test('a primary with two workers restarts by handoff, twice under load: nothing is lost, nobody is left behind', async (t) => {
    const directory = siteDirectory(t);
    const port = await freePort();
    const script = path.join(directory, 'server.mjs');
    install('cluster/server.mjs', script, { 'port: 8080': `port: ${port}` });
    const primary = await startServer(t, script, { cwd: directory });
    const load = steadyLoad(t, { port, host: 'localhost' });
    await load.waitForReply('answers of both workers', () => load.pids.size === 2);

    for (let generation = 2; generation <= 3; generation++) {
      const old = primary.newest;
      await primary.restart();
      await load.waitForReply('answers of the next workers', () => load.pids.size === 2 * generation);
      await primary.gone(old, 20_000);
    }

    await assertNothingLost(load);
    assert.equal(primary.running().length, 3, 'a primary and its two workers');
    await primary.stop();
  });

  test('restartOn in a worker refuses, and says what to use', async (t) => {
    const directory = siteDirectory(t);
    install('server.mjs', path.join(directory, 'server.mjs'), { 'port: 8080': 'port: 0' });
    const file = path.join(directory, 'primary.mjs');
    fs.writeFileSync(
      file,
      `import cluster from 'node:cluster'; cluster.setupPrimary({ exec: 'server.mjs' }); cluster.fork();`,
    );
    const family = startProgram(t, process.execPath, { args: [file], cwd: directory });

    await family.waitFor(/ERR_FDPASS_SUPERVISED/, { from: 0 });

    assert.ok(family.lines.some(({ text }) => text.includes('restart by handoff in the primary')));
  });

  test('handoff in a worker refuses to start the program as one more primary, and says what to do', async (t) => {
    const directory = siteDirectory(t);
    const file = path.join(directory, 'primary.mjs');
    fs.writeFileSync(
      file,
      `import cluster from 'node:cluster';
       import { handoff, inheritListener, ready } from 'fdpass';
       if (cluster.isPrimary) cluster.fork();
       else {
         await inheritListener({ name: 'web', host: '127.0.0.1', port: 0 });
         await ready();
         await handoff().catch((error) => console.log(error.code + ': ' + error.message));
         console.log('done');
       }`,
    );
    const family = startProgram(t, process.execPath, { args: [file], cwd: directory });

    await family.waitFor('done', { from: 0 });

    const said = family.lines.map(({ text }) => text);
    assert.match(said[0] ?? '', /^ERR_FDPASS_SUPERVISED: .*cluster worker.*primary/);
    assert.equal(family.running().length, 2, 'the primary and its worker');
  });
});

describe('PM2', { skip: without('pm2', 'pm2-runtime') }, () => {
  /** pm2-runtime stays in the foreground, and ends what it started. */
  function start(t: Scope, directory: string, ...args: string[]): Family {
    const env = { PM2_HOME: path.join(directory, 'pm2'), PM2_DISABLE_VERSION_CHECK: 'true' };
    return startProgram(t, program('pm2-runtime'), { args, cwd: directory, env });
  }

  for (const mode of ['fork', 'cluster']) {
    test(`restartOn refuses in ${mode} mode, and says what to use`, async (t) => {
      const directory = siteDirectory(t);
      install('server.mjs', path.join(directory, 'server.mjs'), { 'port: 8080': 'port: 0' });
      const apps = [{ name: 'web', script: 'server.mjs', exec_mode: mode, instances: 1, autorestart: false }];
      fs.writeFileSync(path.join(directory, 'web.config.cjs'), `module.exports = ${JSON.stringify({ apps })}`);

      const family = start(t, directory, 'web.config.cjs');

      await family.waitFor(/PM2 starts it anew when it exits: use `pm2 reload`/, { from: 0, deadline: 20_000 });
    });
  }

  test('pm2 reload of two workers that drain by drainOn, under load: nothing is lost', async (t) => {
    const directory = siteDirectory(t);
    const port = await freePort();
    install('pm2/server.mjs', path.join(directory, 'server.mjs'), { '8080': String(port) });
    install('pm2/ecosystem.config.cjs', path.join(directory, 'ecosystem.config.cjs'));
    const family = start(t, directory, 'ecosystem.config.cjs');
    await family.waitFor(/\[1\] online|id:1\] online|:1\] online/, { from: 0, deadline: 20_000 });
    const load = steadyLoad(t, { port, host: 'localhost' });
    await load.waitForReply('answers of both', () => load.pids.size === 2);

    const env = { ...process.env, PM2_HOME: path.join(directory, 'pm2'), PM2_DISABLE_VERSION_CHECK: 'true' };
    await run(program('pm2'), ['reload', 'web'], { env, cwd: directory, timeout: 60_000 });
    await load.waitForReply('answers of the next two', () => load.pids.size === 4);

    await assertNothingLost(load);
  });
});
