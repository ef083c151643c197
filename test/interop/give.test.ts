/**
 * Real programs as our children: a Node server under load hands its listener to each, in the way that the program knows, and nothing is
 * lost. And the other way round, where their own format allows it: a Node server in the place of the program that they would start.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';

import { descendants } from '../support/audit.js';
import { type Family, type Scope, startProcess, startProgram, startServer } from '../support/fixture.js';
import {
  assertNothingLost,
  freePort,
  install,
  listening,
  program,
  run,
  siteDirectory,
  steadyLoad,
  untilListens,
  without,
} from './support.js';

const NODE = process.execPath;

interface Child {
  name: string;
  skip: string | false;
  /** Its arguments; in `directory` stand its files. */
  command: (directory: string, port: number) => string[] | Promise<string[]>;
  files?: Record<string, (port: number) => Record<string, string>>;
  convention?: string;
  readiness: string;
  env?: Record<string, string>;
  /** It ends a connection after each reply: no kept ones for it. */
  closes?: boolean;
}

const children: Child[] = [
  {
    name: 'nginx, by NGINX=',
    skip: without('nginx'),
    files: { 'programs/nginx.conf': (port) => ({ ':8080': `:${port}` }) },
    command: (directory) => [program('nginx'), '-p', directory, '-c', 'nginx.conf'],
    convention: 'nginx',
    readiness: '300', // its workers accept, whom nobody sees
  },
  {
    name: 'haproxy, by bind fd@',
    skip: without('haproxy'),
    files: { 'programs/haproxy.cfg': () => ({}) },
    command: (directory) => ['env', 'WEB={fd}', program('haproxy'), '-db', '-f', path.join(directory, 'haproxy.cfg')],
    convention: 'argv',
    readiness: 'connection',
  },
  {
    name: 'gunicorn, by LISTEN_FDS',
    skip: without('gunicorn'),
    files: { 'programs/app.py': () => ({}) },
    command: (directory) => [program('gunicorn'), '--chdir', directory, 'app:app'],
    convention: 'systemd',
    readiness: 'notify',
  },
  {
    name: 'gunicorn, by GUNICORN_FD',
    skip: without('gunicorn'),
    files: { 'programs/app.py': () => ({}) },
    command: (directory) => [program('gunicorn'), '--chdir', directory, 'app:app'],
    convention: 'gunicorn',
    readiness: 'notify',
  },
  {
    name: 'uwsgi, by --http-socket fd://',
    skip: without('uwsgi'),
    files: { 'programs/app.py': () => ({}) },
    command: (directory) => [
      program('uwsgi'),
      '--plugin',
      'python3',
      '--chdir',
      directory,
      '--module',
      'app',
      '--http-socket',
      'fd://{fd}',
    ],
    convention: 'argv',
    readiness: 'connection',
    closes: true,
  },
  {
    name: 'Starlet, by SERVER_STARTER_PORT',
    skip: without('plackup'),
    files: { 'programs/app.psgi': () => ({}) },
    command: (directory) => [
      program('plackup'),
      '-s',
      'Starlet',
      '--max-workers',
      '2',
      path.join(directory, 'app.psgi'),
    ],
    convention: 'server-starter',
    readiness: '700',
    closes: true,
  },
  {
    name: 'unicorn, by UNICORN_FD',
    skip: without('unicorn'),
    files: { 'programs/config.ru': () => ({}) },
    command: (directory, port) => [program('unicorn'), '-l', `127.0.0.1:${port}`, path.join(directory, 'config.ru')],
    convention: 'unicorn',
    readiness: '1500',
    closes: true,
  },
  {
    name: 'puma, by PUMA_INHERIT_0',
    skip: without('puma'),
    files: { 'programs/config.ru': () => ({}) },
    command: (directory, port) => [
      program('puma'),
      '-w',
      '0',
      '-b',
      `tcp://127.0.0.1:${port}`,
      path.join(directory, 'config.ru'),
    ],
    convention: 'puma',
    readiness: 'connection',
    closes: true,
  },
  {
    name: 'h2o, by SERVER_STARTER_PORT',
    skip: without('h2o'),
    files: { 'programs/h2o.conf': (port) => ({ 'port: 8080': `port: ${port}` }) },
    command: () => writingItsPid(program('h2o'), '-c', 'h2o.conf'),
    convention: 'server-starter',
    readiness: 'connection',
  },
  {
    name: 'lighttpd, by LISTEN_FDS',
    skip: without('lighttpd'),
    files: { 'programs/lighttpd.conf': (port) => ({ ' 8080': ` ${port}` }) },
    command: () => writingItsPid(program('lighttpd'), '-D', '-f', 'lighttpd.conf'),
    convention: 'systemd',
    readiness: 'connection',
  },
  {
    name: 'uvicorn, by --fd',
    skip: without('uvicorn'),
    files: { 'programs/asgi.py': () => ({}) },
    command: (directory) => [program('uvicorn'), '--app-dir', directory, '--fd', '{fd}', 'asgi:app'],
    convention: 'argv',
    readiness: 'connection',
  },
  {
    name: 'hypercorn, by --bind fd://',
    skip: without('hypercorn'),
    files: { 'programs/asgi.py': () => ({}) },
    command: () => [program('hypercorn'), '--bind', 'fd://{fd}', 'asgi:app'],
    convention: 'argv',
    readiness: 'connection',
  },
  {
    name: 'a server with tableflip, by its gob',
    skip: without('go'),
    command: async (directory, port) => [await buildGo(directory), `127.0.0.1:${port}`],
    convention: 'tableflip',
    readiness: 'convention',
  },
];

/** A server of files, which answers with its pid: a shell writes it down, and becomes the server. */
function writingItsPid(...command: string[]): string[] {
  return ['sh', '-c', 'mkdir -p www && echo $$ >www/index.html && exec "$@"', 'sh', ...command];
}

/** The socat of Debian 12 is too old for it. */
function withoutAcceptFd(): string | false {
  const missing = without('socat');
  if (missing !== false) return missing;
  const known = execFileSync(program('socat'), ['-hh'], { encoding: 'utf8', timeout: 10_000 });
  return /\baccept-fd\b/i.test(known) ? false : `${program('socat')} has no ACCEPT-FD: socat 1.8 or later has`;
}

async function buildGo(directory: string): Promise<string> {
  install('programs/server.go', path.join(directory, 'server.go'));
  const binary = path.join(directory, 'server');
  const env = {
    ...process.env,
    GO111MODULE: 'off',
    GOPATH: '/usr/share/gocode',
    GOCACHE: path.join(directory, 'cache'),
  };
  await run(program('go'), ['build', '-o', binary, 'server.go'], { cwd: directory, env, timeout: 100_000 });
  return binary;
}

describe('a listener goes to another program, under load', () => {
  for (const { name, skip, command, files = {}, convention, readiness, closes } of children) {
    test(name, { skip }, async (t) => {
      const directory = siteDirectory(t);
      const port = await freePort();
      for (const [file, replacements] of Object.entries(files)) {
        install(file, path.join(directory, path.basename(file)), replacements(port));
      }
      install('give.mjs', path.join(directory, 'give.mjs'));
      const args = await command(directory, port);
      const server = await startServer(t, path.join(directory, 'give.mjs'), {
        args,
        env: { PORT: String(port), CONVENTION: convention, READINESS: readiness },
        cwd: directory,
      });
      const before = listening(server.pid, port);
      const load = steadyLoad(t, { port }, closes === true ? { keepAlive: 0 } : {});
      await load.waitForReply('an answer', () => true);

      const isOfTheFamily = (pid: number): boolean => server.running().some((entry) => entry.pid === pid);
      const workers = new Set<number>(); // asked at once: a worker may leave after so many requests
      const next = load.waitForReply(
        'an answer of the other program',
        ({ first, pid }) => {
          if (!first || pid === server.pid) return false;
          if (isOfTheFamily(pid)) workers.add(pid);
          return true;
        },
        20_000,
      );
      server.signal('SIGUSR2');
      const line = await server.waitFor(/has taken over, pid \d+/, { from: 0, deadline: 20_000 });
      const child = Number(/\d+$/.exec(line.text)?.[0]);
      server.follow(child);
      const { pid } = await next;
      await server.gone(server.pid, 20_000);
      await load.waitForReply('answers afterwards', (reply) => reply.pid !== server.pid);

      assert.deepEqual(listening(child, port), before, 'it serves the very socket that it was given');
      assert.ok(workers.has(pid) || isOfTheFamily(pid), 'it, or its worker');
      await assertNothingLost(load);
    });
  }
});

describe('a listener is held for a program that wants it blocking, under load', () => {
  test(
    'php-fpm behind nginx, by FPM_SOCKETS: started anew three times, and nothing is lost',
    { skip: without('php-fpm', 'nginx') },
    async (t) => {
      const directory = siteDirectory(t);
      const [port, fastcgi] = [await freePort(), await freePort()];
      const change = { '127.0.0.1:9000': `127.0.0.1:${fastcgi}` };
      install('php-fpm/php-fpm.conf', path.join(directory, 'php-fpm.conf'), { ...change, '/srv/web': directory });
      install('php-fpm/index.php', path.join(directory, 'index.php'));
      install('php-fpm/nginx.conf', path.join(directory, 'nginx.conf'), {
        ...change,
        '127.0.0.1:8080': `127.0.0.1:${port}`,
        '/srv/web': directory,
      });
      const nginx = startProgram(t, program('nginx'), { args: ['-p', directory, '-c', 'nginx.conf'], cwd: directory });
      await untilListens(nginx, port);
      const fpm = [program('php-fpm'), '--nodaemonize', '--fpm-config', path.join(directory, 'php-fpm.conf')];
      const holder = hold(t, directory, fpm, {
        PORT: String(fastcgi),
        CONVENTION: 'fpm',
        STOP: 'SIGQUIT',
        READINESS: 'notify',
      });
      let master = await whoServes(holder, 0);
      const before = listening(holder.pid, fastcgi);
      const load = steadyLoad(t, { port }, { keepAlive: 8 });
      await load.waitForReply('an answer', () => true);

      for (let round = 0; round < 3; round++) {
        const old = master;
        const from = holder.lines.length;
        holder.signal('SIGUSR2', holder.pid);
        master = await whoServes(holder, from);
        await holder.gone(old, 20_000);
        const workers = new Set(descendants(master).map((entry) => entry.pid));
        let answers = 0;
        const served = load.waitForReply('fifty of its answers', (reply) => workers.has(reply.pid) && ++answers === 50);
        assert.deepEqual(listening(master, fastcgi), before, 'it serves the very socket that is held');
        await served;
      }

      await assertNothingLost(load);
      await holder.stop();
    },
  );

  test('socat, by ACCEPT-FD', { skip: withoutAcceptFd() }, async (t) => {
    const directory = siteDirectory(t);
    const port = await freePort();
    install('programs/reply.sh', path.join(directory, 'reply.sh'));
    const socat = [program('socat'), 'ACCEPT-FD:{fd},fork', 'EXEC:sh reply.sh'];
    const holder = hold(t, directory, socat, { PORT: String(port), CONVENTION: 'argv' });
    const pid = await whoServes(holder, 0);
    const load = steadyLoad(t, { port }, { keepAlive: 0 });

    let answers = 0;
    await load.waitForReply('a hundred answers', (reply) => reply.pid === pid && ++answers === 100);

    assert.deepEqual(listening(pid, port), listening(holder.pid, port), 'the very socket');
    await assertNothingLost(load);
    holder.signal('SIGKILL', pid);
    assert.equal((await holder.exited).code, 1, 'it ends with the program that it holds the socket for');
  });
});

function hold(t: Scope, directory: string, command: string[], env: Record<string, string>): Family {
  const script = path.join(directory, 'hold.mjs');
  install('hold.mjs', script);
  return startProcess(t, script, { args: command, env, cwd: directory });
}

/** Waits for the line of hold.mjs that says who serves, and returns the pid. */
async function whoServes(holder: Family, from: number): Promise<number> {
  const { text } = await holder.waitFor(/ serves, pid \d+$/, { from });
  const pid = Number(/\d+$/.exec(text)?.[0]);
  holder.follow(pid);
  return pid;
}

interface Upgrade {
  name: string;
  skip: string | false;
  /** Starts it; what it will start at an upgrade stands at `binary`. */
  start: (t: Scope, directory: string, port: number) => Promise<{ family: Family; binary: string; master?: number }>;
  /** To the old one: start your successor; leave. */
  signals: { upgrade: NodeJS.Signals; leave: NodeJS.Signals | undefined };
  /** What stands at `binary` then. */
  successor?: (script: string) => string;
}

const asShell = (script: string): string => `#!/bin/sh\nexec ${NODE} ${script}\n`;

/** A script of the system under a path of the test, so that another can be put there. */
function copyScript(name: string, directory: string): string {
  const binary = path.join(directory, name);
  fs.copyFileSync(program(name), binary);
  fs.chmodSync(binary, 0o755);
  return binary;
}

const upgrades: Upgrade[] = [
  {
    name: 'nginx, upgrade of the binary by USR2',
    skip: without('nginx'),
    start: async (t, directory, port) => {
      const binary = path.join(directory, 'nginx');
      fs.symlinkSync(program('nginx'), binary);
      // As a daemon: it ignores USR2 as long as the parent that it began with is its parent.
      const change = { ':8080': `:${port}`, 'daemon off;': 'daemon on;' };
      install('programs/nginx.conf', path.join(directory, 'nginx.conf'), change);
      const args = ['-p', directory, '-c', 'nginx.conf', '-g', 'error_log stderr notice;'];
      const family = startProgram(t, binary, { args, cwd: directory });
      const { text } = await family.waitFor(/start worker process \d+/, { from: 0 });
      const master = Number(/(\d+)#/.exec(text)?.[1]);
      family.follow(master);
      return { family, binary, master };
    },
    signals: { upgrade: 'SIGUSR2', leave: 'SIGQUIT' },
  },
  {
    name: 'gunicorn, USR2',
    skip: without('gunicorn'),
    start: async (t, directory, port) => {
      const binary = copyScript('gunicorn', directory);
      install('programs/app.py', path.join(directory, 'app.py'));
      const args = [binary, '--chdir', directory, '-b', `127.0.0.1:${port}`, 'app:app'];
      const family = startProgram(t, '/usr/bin/python3', { args, cwd: directory });
      await family.waitFor(/Booting worker/, { from: 0 });
      return { family, binary };
    },
    signals: { upgrade: 'SIGUSR2', leave: 'SIGTERM' },
    successor: (script) => `import os\nos.execv(${JSON.stringify(NODE)}, ["node", ${JSON.stringify(script)}])\n`,
  },
  {
    name: 'unicorn, USR2',
    skip: without('unicorn'),
    start: async (t, directory, port) => {
      const binary = copyScript('unicorn', directory);
      install('programs/config.ru', path.join(directory, 'config.ru'));
      const args = ['-l', `127.0.0.1:${port}`, path.join(directory, 'config.ru')];
      const family = startProgram(t, binary, { args, cwd: directory });
      await family.waitFor(/worker=0 ready/, { from: 0, deadline: 20_000 });
      return { family, binary };
    },
    signals: { upgrade: 'SIGUSR2', leave: 'SIGQUIT' },
  },
  {
    name: 'a server with tableflip, which waits for our word',
    skip: without('go'),
    start: async (t, directory, port) => {
      const binary = await buildGo(directory);
      const family = startProgram(t, binary, { args: [`127.0.0.1:${port}`], cwd: directory });
      await family.waitFor(/^listening on/, { from: 0 });
      return { family, binary };
    },
    signals: { upgrade: 'SIGHUP', leave: undefined }, // it leaves by itself
  },
];

describe('a Node server in the place of the program that they start at an upgrade, under load', () => {
  for (const { name, skip, start, signals, successor = asShell } of upgrades) {
    test(name, { skip }, async (t) => {
      const directory = siteDirectory(t);
      const port = await freePort();
      const script = path.join(directory, 'after.mjs');
      install('after.mjs', script, { 'port: 8080': `port: ${port}` });
      const { family, binary, master = family.pid } = await start(t, directory, port);
      const before = listening(master, port);
      const load = steadyLoad(t, { port }, { keepAlive: 0 }); // they end kept connections when they leave, idle or not
      await load.waitForReply('an answer', () => true);
      const others = [...load.pids.keys()];

      fs.writeFileSync(`${binary}.new`, successor(script));
      fs.chmodSync(`${binary}.new`, 0o755);
      fs.renameSync(`${binary}.new`, binary);
      const next = load.waitForReply('an answer of Node', ({ first, pid }) => first && !others.includes(pid));
      family.signal(signals.upgrade, master);
      const { pid } = await next;
      family.follow(pid);
      if (signals.leave !== undefined) family.signal(signals.leave, master);
      await family.gone(master);

      assert.deepEqual(listening(pid, port), before, 'the very socket');
      const again = load.waitForReply('an answer of the next generation', ({ first }) => first);
      family.signal('SIGUSR2', pid);
      const { pid: second } = await again;
      family.follow(second);
      await family.gone(pid);
      assert.deepEqual(listening(second, port), before, 'and so in later generations');
      await assertNothingLost(load);
    });
  }
});
