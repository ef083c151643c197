// Starts a program and follows what it prints, for an example that runs several.
import { spawn } from 'node:child_process';
import readline from 'node:readline';

/** Starts a script of Node's, prints its lines as they come. `says()` waits for one of them, 30 s at most. */
export function start(prefix, ...command) {
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] });
  const lines = readline.createInterface({ input: child.stdout });
  const unread = lines[Symbol.asyncIterator]();
  lines.on('line', (line) => console.log(prefix + line));
  const says = async (pattern) => {
    const deadline = setTimeout(() => lines.close(), 30_000);
    for (;;) {
      const { value, done } = await unread.next();
      if (done) throw new Error(`${command.join(' ')} did not say ${pattern}`);
      const match = value.match(pattern);
      if (match) return (clearTimeout(deadline), match);
    }
  };
  return { process: child, lines, says };
}
