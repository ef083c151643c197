/**
 * Standing between an emitter and its listeners for a while: events can be held back, delayed, or let through.
 * Puts an own `emit` on the one emitter, only as long as somebody intercepts, and takes it away again; the prototype and all
 * other emitters stay as they are. There is no public way to keep an event from listeners that come and go.
 */
import type { EventEmitter } from 'node:events';

/**
 * Sees an event first.
 *
 * @param pass - Emits the event to the next interceptor, or to the listeners; now or later.
 * @returns What `emit` returns. Without a call of `pass` the event is swallowed.
 */
export type Interceptor = (event: string | symbol, args: unknown[], pass: () => boolean) => boolean;

type Emit = (this: EventEmitter, event: string | symbol, ...args: unknown[]) => boolean;

interface Interception {
  interceptors: Interceptor[];
  emit: Emit;
  restore: () => void;
}

const interceptions = new WeakMap<EventEmitter, Interception>();

/** Begins to intercept what the emitter emits. Dispose to end it; twice does nothing. */
export function intercept(emitter: EventEmitter, interceptor: Interceptor): Disposable {
  const interception = interceptions.get(emitter) ?? install(emitter);
  interception.interceptors.push(interceptor);
  return {
    [Symbol.dispose]() {
      const index = interception.interceptors.indexOf(interceptor);
      if (index < 0) return;
      interception.interceptors.splice(index, 1);
      if (interception.interceptors.length > 0) return;
      // Where somebody has put an `emit` of theirs over ours, ours stays below it, and lets everything through.
      if (emitter.emit !== interception.emit) return;
      interception.restore();
      interceptions.delete(emitter);
    },
  };
}

function install(emitter: EventEmitter): Interception {
  const interceptors: Interceptor[] = [];
  const restore = shadow(emitter, 'emit', emit);
  const next = restore.previous as Emit;
  function emit(this: EventEmitter, event: string | symbol, ...args: unknown[]): boolean {
    const from = (index: number): boolean => {
      const interceptor = interceptors[index];
      if (interceptor === undefined) return next.call(this, event, ...args);
      return interceptor(event, args, () => from(index + 1));
    };
    return from(0);
  }
  const interception = { interceptors, emit, restore };
  interceptions.set(emitter, interception);
  return interception;
}

/** Puts an own property over another, and returns what takes it away again. `previous`: the value below. */
export function shadow(target: object, key: PropertyKey, value: unknown): (() => void) & { previous: unknown } {
  const own = Object.getOwnPropertyDescriptor(target, key);
  const previous: unknown = Reflect.get(target, key);
  Object.defineProperty(target, key, { value, configurable: true, writable: true, enumerable: false });
  const restore = (): void => {
    if (Reflect.get(target, key) !== value) return; // somebody else's by now
    if (own === undefined) Reflect.deleteProperty(target, key);
    else Object.defineProperty(target, key, own);
  };
  return Object.assign(restore, { previous });
}
