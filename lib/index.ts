/** The public face of fdpass: re-exports alone. */
export {
  type AsSocketOptions,
  Channel,
  type ChannelConnectOptions,
  ChannelListener,
  type ChannelListenOptions,
  ChannelMessage,
  type ChannelOptions,
  type ChannelPeer,
  type ChannelReceiveOptions,
  type ChannelSendOptions,
  type ChannelType,
  Descriptor,
  type Sendable,
} from './channel.js';
export {
  onConnectionState,
  connectionsOf,
  type Connection,
  type ConnectionState,
  type ConnectionStateListener,
} from './connections.js';
export { drain, type DrainOptions, type DrainReport } from './drain/drain.js';
export { FdpassError, type FdpassErrorCode, HandoffError, type HandoffPhase, type SuccessorFacts } from './errors.js';
export type { DialogOptions } from './dialog.js';
export { FdHolder } from './fdholder.js';
export { handoff, type HandoffOptions, type Readiness, type Successor } from './handoff/predecessor.js';
export {
  takeover,
  type Takeover,
  TakeoverOffer,
  type TakeoverOfferOptions,
  type TakeoverOptions,
} from './handoff/takeover.js';
export { type HaproxyListener, type HaproxyOptions, HaproxySocket, serveHaproxy, takeFromHaproxy } from './haproxy.js';
export {
  type AdoptOptions,
  type IgnoredConvention,
  type InheritanceReport,
  inheritedFrom,
  inheritedListeners,
  type InheritedListener,
  inheritListener,
  type InheritConvention,
  type InheritOptions,
} from './inherit.js';
export {
  inheritConnection,
  type InheritConnectionOptions,
  inheritDescriptor,
  inheritedDescriptors,
  type InheritedDescriptor,
} from './inheritOther.js';
export {
  drainOn,
  type DrainOnOptions,
  inheritedState,
  offerTakeover,
  type OfferOptions,
  type Ready,
  ready,
  type RestartEvent,
  restartOn,
  type RestartOptions,
} from './lifecycle.js';
export { takeFromLaunchd } from './launchd.js';
export { listen, Listener, type ListenerOrigin, type ListenOptions, openListeners, type Servable } from './listener.js';
export { moveConnections, type MovingHooks } from './moving/hooks.js';
export { moveResponses, type MovingResponses, type ResponseMover } from './moving/responses.js';
export { Notification, Notifications, type NotificationsOptions, type StoredDescriptor } from './notifications.js';
export {
  notify,
  type Notify,
  type NotifyOptions,
  type ServiceState,
  type Storable,
  type StoreOptions,
  type Watchdog,
  type WatchdogOptions,
} from './notify.js';
export * as raw from './raw.js';
export type { FdpassEvent } from './report.js';
export type {
  ArgvConvention,
  ConventionWithOptions,
  EinhornConvention,
  PlainConvention,
  PumaConvention,
  ServerStarterConvention,
  SpawnConvention,
  SystemdConvention,
  TableflipConvention,
} from './giving.js';
export {
  type Child,
  type ExitStatus,
  spawn,
  type SpawnDescriptor,
  type SpawnOptions,
  type StdioEntry,
  type StdioOption,
} from './spawn.js';
