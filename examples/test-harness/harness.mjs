// Starts a server for a test on a port that nobody else can get: bound here, once, before the server runs, and handed over. No port is
// looked for and then bound again a moment later by somebody else, and nothing has to be waited for: who connects before the server
// accepts waits in the queue of the socket.
import { listen, spawn } from 'fdpass';

/** Starts a script. The port is known, and open, when this resolves; the server may still be loading. */
export async function startServer(script, env = {}) {
  const listener = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  const { port } = listener;
  try {
    // LISTEN_FDS, as under systemd: inheritListener() finds it, and so does a server in another language.
    const child = spawn(process.execPath, [script], {
      ...{ fds: [listener], convention: 'systemd', stdio: ['ignore', 'inherit', 'inherit'] },
      env: { ...process.env, ...env, NODE_TEST_CONTEXT: undefined, NODE_OPTIONS: undefined }, // those are the runner's
    });
    // SIGTERM is for a server that has something to write at its end: it would wait for the idle connections of fetch(), too.
    const stop = (signal = 'SIGKILL') => {
      child.kill(signal);
      return child.exited;
    };
    return { port, url: `http://127.0.0.1:${port}`, pid: child.pid, exited: child.exited, stop };
  } finally {
    listener.close(); // the server has its own: if it ends, clients are refused, and no test hangs
  }
}
