/**
 * Hooks: how connections that Node does not understand move, upgraded and raw ones. The application, or an adapter for a library, says
 * where such a stream stands, and takes it up again in the successor.
 * Keeps what was registered. Calls nothing by itself.
 */
import net from 'node:net';
import { inspect } from 'node:util';

/**
 * How one kind of connection moves. `State` must be JSON; as text, and with the bytes that travel, it is 256 KiB at most.
 *
 * @typeParam State - What the successor needs to know, besides the socket.
 */
export interface MovingHooks<State = unknown> {
  /**
   * Whether the connection is one of these. Default: every raw and upgraded connection of the server is. Asked of a response that does
   * not end (SSE) as well.
   */
  owns?(socket: net.Socket): boolean;
  /** Why it can never move; a word or two, counted in the report. Undefined or '': it can. */
  cannot?(socket: net.Socket): string | undefined;
  /** Why it cannot move now; it is asked again some ms later. Undefined or '': it can. */
  busy?(socket: net.Socket): string | undefined;
  /**
   * It moves now: take your listeners and timers off the socket, write nothing more, and say what the successor needs. Synchronous.
   * Bytes that the stream has read and nobody has taken travel by themselves; so do those in the kernel.
   */
  pause(socket: net.Socket): State;
  /**
   * It is here: put listeners on the socket. In the successor; or in this very process, where the move failed, on the same socket or
   * on another one. `state` is a copy. 'connection' and 'upgrade' are not emitted.
   */
  adopt(socket: net.Socket, state: State): void;
  /** It will not move, for this reason: end it in its own protocol, if it has a way to say so. */
  stay?(socket: net.Socket, reason: string): void;
}

interface Entry {
  name: string;
  hooks: MovingHooks;
}

const registry = new WeakMap<net.Server, Entry[]>();

/**
 * Lets connections of this server move to a successor, and arrive here from a predecessor: raw ones of a net server, and those of an
 * http server that were upgraded (WebSocket). Call it in every generation, before ready().
 *
 * Without hooks such connections stay, and are drained.
 *
 * @param name - Tells kinds of connections of one server apart; the same in both processes.
 * @returns Dispose of it to take the hooks away: connections that come for them are refused then, and stay with the predecessor.
 * @throws A TypeError: an argument. A RangeError: the name is taken.
 * @see docs/restarts.md
 */
export function moveConnections<State>(server: net.Server, name: string, hooks: MovingHooks<State>): Disposable {
  check(server, name, hooks);
  const entries = registry.get(server) ?? [];
  registry.set(server, entries);
  if (entries.some((entry) => entry.name === name)) {
    const message = `The server has hooks of the name "${name}" already`;
    throw Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
  }
  // What `pause` gives is what `adopt` gets: the two agree on State, and nobody in between looks at it.
  const entry: Entry = { name, hooks };
  entries.push(entry);
  return {
    [Symbol.dispose]: () => {
      const index = entries.indexOf(entry);
      if (index >= 0) entries.splice(index, 1);
    },
  };
}

/** Whether the server has hooks at all. */
export function hasHooks(server: net.Server): boolean {
  return (registry.get(server)?.length ?? 0) > 0;
}

/** The hooks that the connection moves by. Those that say so come before those that own whatever is left. */
export function hooksFor(server: net.Server, socket: net.Socket, isEndless: boolean): Entry | undefined {
  const entries = registry.get(server) ?? [];
  const said = entries.find(({ hooks }) => hooks.owns?.(socket) === true);
  return said ?? (isEndless ? entries.find(({ hooks }) => hooks.owns === undefined) : undefined);
}

/** The hooks of this name. */
export function hooksNamed(server: net.Server, name: string): MovingHooks | undefined {
  return registry.get(server)?.find((entry) => entry.name === name)?.hooks;
}

function check(server: unknown, name: unknown, hooks: unknown): void {
  if (!(server instanceof net.Server)) refuse('server', 'a server of net, http, ...', server);
  if (typeof name !== 'string' || name === '') refuse('name', 'a string that is not empty', name);
  if (typeof hooks !== 'object' || hooks === null) refuse('hooks', 'an object', hooks);
  for (const needed of ['pause', 'adopt']) {
    if (typeof Reflect.get(hooks, needed) !== 'function')
      refuse(`hooks.${needed}`, 'a function', Reflect.get(hooks, needed));
  }
}

function refuse(what: string, expected: string, value: unknown): never {
  const message = `The "${what}" argument must be ${expected}. Received ${inspect(value, { depth: 0 })}`;
  throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
}
