/** The public face of fdpass: re-exports alone. */
export {
  onConnectionState,
  connectionsOf,
  type Connection,
  type ConnectionState,
  type ConnectionStateListener,
} from './connections.js';
export { drain, type DrainOptions, type DrainReport } from './drain/drain.js';
export { FdpassError, type FdpassErrorCode, HandoffError, type HandoffPhase, type SuccessorFacts } from './errors.js';
export { handoff, type HandoffOptions, type Readiness, type Successor } from './handoff/predecessor.js';
export {
  inheritedListeners,
  type InheritedListener,
  inheritListener,
  type InheritConvention,
  type InheritOptions,
} from './inherit.js';
export {
  drainOn,
  type DrainOnOptions,
  inheritedState,
  type Ready,
  ready,
  type RestartEvent,
  restartOn,
  type RestartOptions,
} from './lifecycle.js';
export { listen, Listener, type ListenerOrigin, type ListenOptions, openListeners, type Servable } from './listener.js';
export * as raw from './raw.js';
export type { FdpassEvent } from './report.js';
export {
  type Child,
  type ExitStatus,
  spawn,
  type SpawnDescriptor,
  type SpawnOptions,
  type StdioEntry,
  type StdioOption,
} from './spawn.js';
