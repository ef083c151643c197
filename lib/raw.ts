/**
 * 'fdpass/raw': the raw operations on descriptors and sockets, typed. Each is one system call and has no policy.
 * It needs native.ts and errors.ts alone, and works in any thread.
 *
 * Every operation checks its arguments: a wrong type is a TypeError (`ERR_INVALID_ARG_TYPE`), a number that is no
 * integer or out of range a RangeError (`ERR_OUT_OF_RANGE`), a word it does not know a TypeError
 * (`ERR_INVALID_ARG_VALUE`); each names the argument. What the kernel refuses is an Error with Node's own fields: `code`
 * ('EBADF'), `errno` (negative), `syscall`, and `fd` or `address` and `port`; its message says what was done to what:
 * "EBADF: bad file descriptor, fcntl (dup of fd 99)". What the system cannot do says `ENOTSUP`.
 *
 * A descriptor that is returned belongs to the caller, who must close it; it is close-on-exec from birth (on macOS:
 * right after). A number must not be used after it was closed: it may be another's by then.
 */
import { FdpassError } from './errors.js';
import { native, type NativeExit, type NativeSpawnOptions, type NativeWatch } from './native.js';

/**
 * An address of a socket. Numbers and paths only: no names are looked up.
 *
 * A Unix path has at most 107 bytes (macOS: 103). `'@name'` is an abstract name (Linux), `''` is what an unnamed socket
 * answers and cannot be bound or connected to. A path that is not UTF-8 comes with replacement characters.
 */
export type SocketAddress =
  | { family: 'IPv4'; address: string; port: number }
  | { family: 'IPv6'; address: string; port: number; scopeId?: number }
  | { family: 'unix'; path: string };

/** An address between a virtual machine and its host: numbers from 0 to 2^32-1. Linux. @see vsock(7) */
export interface VsockAddress {
  family: 'vsock';
  /** Which machine: 2 is the host. */
  cid: number;
  port: number;
}

/** The address family: AF_INET, AF_INET6, AF_UNIX, AF_VSOCK (Linux). */
export type SocketDomain = SocketAddress['family'] | 'vsock';

/** SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET (Unix and vsock; not on macOS). */
export type SocketType = 'stream' | 'dgram' | 'seqpacket';

/** A process as the kernel vouches for it. `pid` is 0 where it cannot be known (another pid namespace, some macOS). */
export interface Credentials {
  pid: number;
  uid: number;
  gid: number;
}

/** The options that are a number or a flag; see {@link setOption}. */
export type NumericOption =
  | 'reuseAddress'
  | 'reusePort'
  | 'ipv6Only'
  | 'freeBind'
  | 'deferAccept'
  | 'fastOpen'
  | 'sendBuffer'
  | 'receiveBuffer'
  | 'keepAlive'
  | 'noDelay'
  | 'error'
  | 'type'
  | 'acceptConnections'
  | 'passCredentials';

/** Every option by name; see {@link setOption}. */
export type SocketOption = NumericOption | 'bindToDevice';

/** The options of a socket as {@link describe} reads them. One that this system, or this kind of socket, has not is absent. */
export interface SocketOptions {
  reuseAddress?: boolean;
  reusePort?: boolean;
  ipv6Only?: boolean;
  freeBind?: boolean;
  /** Seconds; 0: off. */
  deferAccept?: number;
  /** Length of the queue; 0: off. */
  fastOpen?: number;
  /** The interface, '' where the socket is not bound to one. */
  bindToDevice?: string;
  /** Bytes; Linux says twice what was set. */
  sendBuffer?: number;
  /** Bytes; Linux says twice what was set. */
  receiveBuffer?: number;
  keepAlive?: boolean;
  noDelay?: boolean;
  passCredentials?: boolean;
}

/** What a socket is. */
export interface SocketDescription {
  domain: SocketDomain | 'other';
  type: SocketType | 'other';
  /** 6 is TCP, 17 is UDP, 0 is what a Unix socket has. */
  protocol: number;
  /** listen(2) was called on it. */
  listening: boolean;
  /** Absent where the family is none of {@link SocketAddress}. */
  localAddress?: SocketAddress;
  /** Absent where it is not connected. */
  peerAddress?: SocketAddress;
  /** Linux: a number that no other socket of this boot has. */
  cookie?: bigint;
  options: SocketOptions;
}

/** What a descriptor names. */
export interface Description {
  fd: number;
  /** 'anonymous': epoll, eventfd, pidfd and the like, which have no type. A file in memory is a 'file'. */
  kind: 'socket' | 'file' | 'directory' | 'pipe' | 'character' | 'block' | 'anonymous' | 'unknown';
  device: bigint;
  inode: bigint;
  /** Of this number alone. */
  closeOnExec: boolean;
  /** Of the description: shared by every dup, in every process. */
  nonBlocking: boolean;
  /** For a socket. */
  socket?: SocketDescription;
}

/** A message of {@link receive}. */
export interface Message {
  /** Empty at the end of a stream; a datagram may be empty too. */
  bytes: Buffer;
  /** The descriptors that came with it, in the order they were sent. They are the caller's to close. */
  fds: number[];
  /**
   * Who sent it: only where it was asked for, and the socket has `passCredentials` set. What was sent before that was
   * set is nobody's: `pid` 0, `uid` and `gid` 65534.
   */
  credentials?: Credentials;
  /** The address of the sender: only where it was asked for, and the sender has one. */
  from?: SocketAddress;
}

/** What a {@link Watch} waits for. An absent one is false; all false: it rests. */
export interface WatchInterest {
  readable?: boolean;
  writable?: boolean;
  /**
   * That the other end is gone for good, or an error came, and nothing else: data may lie there. Not together with the others, which tell
   * of it anyway; a watch is made for it or not. It needs a descriptor of its own, sees a descriptor that is watched already, and leaves it
   * as it is, blocking or not. Linux; elsewhere `ENOTSUP`.
   *
   * @see epoll_ctl(2), EPOLLHUP, EPOLLERR
   */
  hangUp?: boolean;
}

/** What a {@link Watch} tells. */
export interface WatchEvents {
  /** Something can be read without waiting: data, a connection, the end, an error. */
  readable: boolean;
  /** Something can be written without waiting. */
  writable: boolean;
  /** The other end is gone (POLLHUP) or an error waits (POLLERR). Then `readable` is true as well: read, to learn which. */
  error: boolean;
}

/** How {@link spawnProcess} starts a child. */
export type SpawnProcessOptions = Omit<NativeSpawnOptions, 'fallback'>;

/** How a child ended: one of the two is null. */
export type ProcessExit = NativeExit;

/**
 * Duplicates a descriptor: a second number for the same open file description, so the same queue and the same O_NONBLOCK.
 *
 * @param fd - What to duplicate.
 * @param lowest - The first number that will do. Default 0.
 * @returns The lowest free number from `lowest` on; the caller's to close.
 * @throws `EBADF`; `EMFILE`: no number is free; `EINVAL`: `lowest` is above the limit of the process.
 * @see fcntl(2), F_DUPFD_CLOEXEC
 */
export function dup(fd: number, lowest = 0): number {
  return native.dup(fd, lowest);
}

/**
 * Duplicates a descriptor to exactly this number. What was open there is closed, without a word and whoever's it was.
 *
 * @returns `target`; the caller's to close.
 * @throws `EBADF`: `fd` is not open, or `target` is above the limit; `EINVAL`: the two are one.
 * @see dup3(2), O_CLOEXEC
 */
export function dupTo(fd: number, target: number): number {
  return native.dupTo(fd, target);
}

/**
 * Closes a descriptor. Its dups stay open. Close a {@link Watch} of it first: the event loop would go on with the number.
 * Never for a descriptor that Node opened (a net.Socket's, a file handle's): Node would close it again.
 *
 * @throws `EBADF`; `EIO`, `ENOSPC`, `EDQUOT` from the file system: the number is free nevertheless. `EINTR` is no error
 * and nothing is retried, for the same reason.
 * @see close(2)
 */
export function close(fd: number): void {
  native.close(fd);
}

/**
 * Closes many descriptors at once: at the price of one call where they follow each other, as those of one message do.
 * What close(2) would say of each is not told (a number that is not open is passed over): none of them is in use any more, whatever it
 * says. Otherwise as {@link close}.
 *
 * @see close_range(2), Linux 5.9; close(2)
 */
export function closeAll(fds: readonly number[]): void {
  native.closeAll(fds);
}

/**
 * Says whether the descriptor is closed by exec, and so does not reach a child.
 *
 * @throws `EBADF`
 * @see fcntl(2), F_GETFD
 */
export function getCloseOnExec(fd: number): boolean {
  return native.getCloseOnExec(fd);
}

/**
 * Sets or clears close-on-exec, of this number alone. To clear it here lets every child inherit it that any thread starts
 * from now on: rather name it to spawn, which clears it in that one child.
 *
 * @throws `EBADF`
 * @see fcntl(2), F_SETFD
 */
export function setCloseOnExec(fd: number, on: boolean): void {
  native.setCloseOnExec(fd, on);
}

/**
 * Says whether reads, writes and accepts return at once.
 *
 * @throws `EBADF`
 * @see fcntl(2), F_GETFL
 */
export function getNonBlocking(fd: number): boolean {
  return native.getNonBlocking(fd);
}

/**
 * Sets or clears O_NONBLOCK: of the open file description, so of every dup in every process that holds one.
 * A program in C, Perl or Ruby that inherits a listener often wants it cleared; Node needs it set.
 *
 * @throws `EBADF`
 * @see fcntl(2), F_SETFL
 */
export function setNonBlocking(fd: number, on: boolean): void {
  native.setNonBlocking(fd, on);
}

/**
 * Says what a descriptor names. Reads no data, changes nothing, and does not clear a pending error of a socket.
 *
 * @throws `EBADF`
 * @see fstat(2), fcntl(2), getsockopt(2), getsockname(2), getpeername(2)
 */
export function describe(fd: number): Description {
  return native.describe(fd);
}

/**
 * Says whether two numbers name the same open file description (one is a dup of the other, or came from where the other
 * did). Where the kernel or a sandbox forbids to ask, device, inode and cookie decide: for sockets as good; two open(2)
 * of one file are called the same then, and two descriptors without an inode of their own (eventfd, epoll) different.
 *
 * @throws `EBADF`
 * @see kcmp(2), KCMP_FILE
 */
export function isSame(a: number, b: number): boolean {
  return native.isSame(a, b);
}

/**
 * Lists the open descriptors of this process, all threads, in ascending order. A snapshot: other threads open and close.
 *
 * @returns Each number and what it points at, as "socket:[8121]" or a path. macOS: '' for what has no path.
 * @throws `ENOENT`: /proc is not mounted; `EMFILE`: the list itself needs a descriptor.
 * @see proc(5), /proc/self/fd
 */
export function openDescriptors(): { fd: number; target: string }[] {
  return native.openDescriptors().sort((a, b) => a.fd - b.fd);
}

/**
 * Makes a file without a name. On Linux it lives in memory; elsewhere, or where the kernel is older than 3.17, it is an
 * unlinked file in TMPDIR (else /tmp).
 *
 * @param name - For the eyes of a reader of /proc alone, at most 249 bytes; two may have the same.
 * @returns The descriptor, open for reading and writing, of length 0; the caller's to close.
 * @throws `EMFILE`, `ENFILE`, `ENOMEM`
 * @see memfd_create(2)
 */
export function memoryFile(name: string): number {
  return native.memoryFile(name);
}

/**
 * Takes, or lets go, the lock of an open file description. Never waits. A dup shares the lock; the last close lets it go.
 *
 * @returns False where another description holds a lock that forbids this one.
 * @throws `EBADF`, `ENOLCK`
 * @see flock(2), LOCK_NB
 */
export function flock(fd: number, operation: 'exclusive' | 'shared' | 'unlock'): boolean {
  return native.flock(fd, operation);
}

/**
 * Makes a socket, non-blocking. Not bound, not connected.
 *
 * @param protocol - 0, the default, is the usual one of domain and type.
 * @returns The descriptor; the caller's to close.
 * @throws `EMFILE`, `ENFILE`, `EAFNOSUPPORT`: no IPv6 here; `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`, `ENODEV` (vsock): no such combination.
 * @see socket(2), SOCK_CLOEXEC | SOCK_NONBLOCK
 */
export function socket(domain: SocketDomain, type: SocketType, protocol = 0): number {
  return native.socket(domain, type, protocol);
}

/**
 * Makes two Unix sockets that are connected to each other, non-blocking.
 *
 * @returns Both ends, alike; the caller's to close. Their peerCredentials are those of this process, in whichever
 * process they end up.
 * @throws `EMFILE`, `ENFILE`
 * @see socketpair(2)
 */
export function socketPair(type: SocketType): [number, number] {
  return native.socketPair(type);
}

/**
 * Binds a socket to an address. Unlinks nothing: a path that exists is `EADDRINUSE`, whoever made it.
 *
 * @throws `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `EINVAL`: it is bound already; `ENOENT`: no such directory.
 * @see bind(2)
 */
export function bind(fd: number, address: SocketAddress | VsockAddress): void {
  native.bind(fd, address);
}

/**
 * Makes a bound socket accept connections into its queue. On a listener: sets the length of the queue anew, for all who
 * share it.
 *
 * @param backlog - How many connections may wait, 0 to 2^31-1; the kernel cuts it to net.core.somaxconn.
 * @throws `EADDRINUSE`: another one listens there since the bind; `EOPNOTSUPP` (as `ENOTSUP`): a datagram socket;
 * `ENOTSOCK`; `EINVAL`: it is connected, or a Unix socket that is not bound.
 * @see listen(2)
 */
export function listen(fd: number, backlog: number): void {
  native.listen(fd, backlog);
}

/**
 * Connects a socket. Does not wait.
 *
 * @returns True where it is connected; false where that is under way: watch it until it is writable, then read the
 * option `error`.
 * @throws `ECONNREFUSED`, `ENOENT`, `EACCES`, `ENETUNREACH`; `EAGAIN`: the queue of a Unix listener is full.
 * @see connect(2)
 */
export function connect(fd: number, address: SocketAddress | VsockAddress): boolean {
  return native.connect(fd, address);
}

/**
 * Ends one direction of a connection, or both, for every dup in every process. Never of a listener: nobody who shares it accepts any more.
 *
 * @throws `ENOTCONN`, `ENOTSOCK`
 * @see shutdown(2)
 */
export function shutdown(fd: number, how: 'read' | 'write' | 'both'): void {
  native.shutdown(fd, how);
}

/**
 * The address that a socket is bound to, as the kernel has it: a port 0 that was asked for is the real one here.
 *
 * @throws `EBADF`, `ENOTSOCK`; `EAFNOSUPPORT`: a family that is none of ours.
 * @see getsockname(2)
 */
export function localAddress(fd: number): SocketAddress {
  return native.localAddress(fd);
}

/**
 * The address of the other end of a connection.
 *
 * @throws `EBADF`, `ENOTSOCK`; `ENOTCONN`: there is none; `EAFNOSUPPORT`: a family that is none of ours.
 * @see getpeername(2)
 */
export function peerAddress(fd: number): SocketAddress {
  return native.peerAddress(fd);
}

/**
 * Takes one connection from the queue of a listener, non-blocking. On a listener that blocks, it waits: see
 * {@link setNonBlocking}.
 *
 * @returns The connection, the caller's to close; undefined where none waits.
 * @throws `EINVAL`: not a listener; `EMFILE`, `ENFILE`: the connection stays in the queue; `ECONNABORTED` and the errors of
 * the network (accept(2) lists them): of that one connection, go on with the next.
 * @see accept4(2), SOCK_CLOEXEC | SOCK_NONBLOCK
 */
export function accept(fd: number): number | undefined {
  return native.accept(fd);
}

/**
 * Reads an option of a socket; see {@link setOption} for the names. A flag is 0 or 1. Read-only are `error` (the pending
 * error as a positive errno; reading clears it), `type` (the kernel's number) and `acceptConnections` (1 for a listener).
 *
 * @throws `EBADF`, `ENOTSOCK`; `ENOPROTOOPT`, `EOPNOTSUPP` (as `ENOTSUP`): not an option of this socket, or of this system.
 * @see getsockopt(2), socket(7), ip(7), ipv6(7), tcp(7), unix(7)
 */
export function getOption(fd: number, name: NumericOption): number;
/** The interface that the socket is bound to; '' where it is bound to none. Linux; elsewhere `ENOTSUP`. */
export function getOption(fd: number, name: 'bindToDevice'): string;
export function getOption(fd: number, name: SocketOption): number | string {
  return native.getOption(fd, name);
}

/**
 * Sets an option of a socket.
 *
 * Flags (a boolean, 0 or 1): `reuseAddress`, `reusePort`, `ipv6Only`, `freeBind` (Linux: an address that is not here yet),
 * `keepAlive`, `noDelay`, `passCredentials` (Linux: {@link receive} can tell who sent). Numbers: `deferAccept` (Linux:
 * seconds to wait for the first byte before a connection is given to accept), `fastOpen` (Linux: length of the queue),
 * `sendBuffer`, `receiveBuffer` (bytes). Text: `bindToDevice` (Linux: an interface, '' for none).
 *
 * @throws `EBADF`, `ENOTSOCK`; `ENOPROTOOPT`, `EOPNOTSUPP` (as `ENOTSUP`): not an option of this socket, or of this system;
 * `EPERM`; `ENODEV`: no such interface; `EINVAL`: too late (`ipv6Only` of a bound socket).
 * @see setsockopt(2)
 */
export function setOption(fd: number, name: NumericOption, value: number | boolean): void;
/** Binds the socket to an interface; '' unbinds it. Linux; elsewhere `ENOTSUP`. */
export function setOption(fd: number, name: 'bindToDevice', value: string): void;
export function setOption(fd: number, name: SocketOption, value: number | boolean | string): void {
  native.setOption(fd, name, value);
}

/**
 * The queue of a TCP listener: how many connections wait for accept, and how many may. Linux; elsewhere `ENOTSUP`.
 *
 * @throws `ENOTSUP`: a socket that is not of TCP; `EINVAL`: it does not listen; `EBADF`, `ENOTSOCK`.
 * @see tcp(7), TCP_INFO (tcpi_unacked, tcpi_sacked)
 */
export function listenQueue(fd: number): { length: number; backlog: number } {
  return native.listenQueue(fd);
}

/**
 * Who is at the other end of a Unix socket: the process that called connect, listen or socketpair, as it was then.
 *
 * @throws `ENOTCONN`: there is no other end, or the kernel does not know it (a socket of the internet); `EBADF`, `ENOTSOCK`.
 * @see unix(7), SO_PEERCRED; getpeereid(3)
 */
export function peerCredentials(fd: number): Credentials {
  return native.peerCredentials(fd);
}

/**
 * Sends one message over a socket, descriptors with it where it is a Unix socket. Never waits, raises no SIGPIPE.
 * The descriptors stay open here, and are shared from now on, even while the message is on its way.
 *
 * @param bytes - On a stream at least one where there are descriptors: the kernel would lose them.
 * @param fds - At most 253.
 * @param to - For a socket that is not connected.
 * @returns How many bytes went: on a stream perhaps not all. All the descriptors went with the first: send the rest
 * without them. Undefined where there is no room now, and nothing was sent.
 * @throws `EPIPE`, `ECONNRESET`, `ENOTCONN`, `EMSGSIZE`; `EBADF`: `fd` or one of `fds` is not open; `ETOOMANYREFS`: too many
 * descriptors of this user are on their way; `EINVAL`: rights on a socket that is not a Unix socket.
 * @see sendmsg(2), unix(7) SCM_RIGHTS
 */
export function send(
  fd: number,
  bytes: Uint8Array,
  fds: readonly number[] = [],
  to?: SocketAddress,
): number | undefined {
  return native.send(fd, bytes, fds, to);
}

/**
 * Receives one message from a socket, and the descriptors that came with it, close-on-exec from birth. Never waits.
 * On a stream, bytes that were sent before a message with descriptors can come together with it; those after it cannot.
 *
 * @param size - Room for so many bytes, 1 to 2^30. There is always room for 253 descriptors.
 * @param options - `credentials`: say who sent it; set `passCredentials` on the socket before. `from`: say the sender's address.
 * @returns Undefined where nothing waits.
 * @throws {@link FdpassError} `ERR_FDPASS_LIMIT`: descriptors were lost on the way in, most often because this process
 * reached its limit of open files, or a datagram was longer than `size`. The message is lost, and what came of its
 * descriptors is closed. `ECONNRESET`, `ENOTCONN`, `EBADF`, `ENOTSOCK`, `ENOMEM`.
 * @see recvmsg(2), MSG_CMSG_CLOEXEC; unix(7) SCM_RIGHTS
 */
export function receive(
  fd: number,
  size: number,
  options: { credentials?: boolean; from?: boolean } = {},
): Message | undefined {
  const message = native.receive(fd, size, options.credentials, options.from);
  if (message?.truncated === undefined) return message;

  const { truncated, received, limit } = message;
  const came = `${received} ${received === 1 ? 'descriptor' : 'descriptors'} came with it and ${received === 1 ? 'is' : 'are'} closed`;
  const lost =
    truncated === 'rights'
      ? `A message on fd ${fd} had more descriptors than this process could take: ${came}, the rest are lost; ` +
        `its limit of open descriptors is ${limit < 0 ? 'infinite' : limit}`
      : `A datagram on fd ${fd} was longer than the ${size} bytes there was room for: it is lost; ${came}`;
  throw new FdpassError('ERR_FDPASS_LIMIT', lost, { syscall: 'recvmsg', fd });
}

/**
 * A watch of one descriptor on the event loop, made by {@link watch}. It does not own the descriptor, and keeps the
 * process alive while it is open, unless {@link Watch.unref} was called. Not closed, it goes on even where nobody holds
 * this object. The end of a worker closes it.
 */
export class Watch {
  readonly #native: NativeWatch;

  /** As {@link watch}. */
  constructor(fd: number, events: WatchInterest, callback: (events: WatchEvents) => void) {
    this.#native = new native.Watch(fd, events, callback);
  }

  /**
   * Waits for these from now on, in place of the ones before.
   *
   * @throws `EBADF`: the watch is closed.
   */
  update(events: WatchInterest): void {
    this.#native.update(events);
  }

  /** Keeps the process alive again. */
  ref(): void {
    this.#native.ref();
  }

  /** Lets the process end though this watch is open. */
  unref(): void {
    this.#native.unref();
  }

  /** Ends the watch; the callback is not called again. Does not close the descriptor. A second call does nothing. */
  close(): void {
    this.#native.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Watches a descriptor on the event loop, for descriptors that Node does not know. The callback is called for as long as
 * there is something to tell (level-triggered): read until {@link receive} or {@link accept} says undefined, or
 * {@link Watch.update} it to rest, or {@link Watch.close} it. An exception of the callback is an uncaughtException.
 *
 * The description becomes non-blocking, for all who share it.
 *
 * @param fd - A socket, a pipe, a pidfd, an epoll descriptor; not a file. Close the watch before it.
 * @throws `EEXIST`: it is watched already, here or by Node; `EPERM`: a file or directory; `EBADF`; for `hangUp` also `EMFILE`, `ENOTSUP`.
 * @see poll(2); uv_poll of libuv
 */
export function watch(fd: number, events: WatchInterest, callback: (events: WatchEvents) => void): Watch {
  return new Watch(fd, events, callback);
}

/**
 * Opens a descriptor for a process: it is readable when the process has ended, and never comes to name another one.
 * Linux 5.3; elsewhere `ENOTSUP` (`ENOSYS` where the kernel is older).
 *
 * @param pid - A process, not a thread. Only for one's own child, not yet reaped, is it sure to be the one that is meant.
 * @returns The descriptor; the caller's to close.
 * @throws `ESRCH`: no such process; `EMFILE`, `ENFILE`.
 * @see pidfd_open(2)
 */
export function pidfdOpen(pid: number): number {
  return native.pidfdOpen(pid);
}

/**
 * Opens a descriptor for the process at the other end of a Unix socket, the one that {@link peerCredentials} tells of: it never comes to
 * name another one. Linux 6.5; elsewhere `ENOTSUP` (`ENOPROTOOPT` where the kernel is older).
 *
 * @returns The pidfd; the caller's to close.
 * @throws `ESRCH`, `EINVAL`: that process has ended, and was reaped; `ENODATA`: there is no other end that is known; `EMFILE`, `ENFILE`.
 * @see unix(7), SO_PEERPIDFD
 */
export function peerPidfd(fd: number): number {
  return native.peerPidfd(fd);
}

/**
 * Sends a signal to the process that a pidfd names, and to no other. Linux 5.1; elsewhere `ENOTSUP`.
 *
 * @param signal - A number, 0 to 64; 0 sends nothing and only asks.
 * @throws `ESRCH`: it has ended, and was reaped; `EPERM`; `EBADF`: not a pidfd; `EINVAL`: no such signal.
 * @see pidfd_send_signal(2); os.constants.signals has the numbers
 */
export function pidfdSignal(pidfd: number, signal: number): void {
  native.pidfdSignal(pidfd, signal);
}

/**
 * Starts a process that has exactly the descriptors it is given, at exactly these numbers. Strips no variable, follows no
 * convention: `spawn` of 'fdpass' does. The child must be reaped: {@link reap}, or {@link watchExit}.
 *
 * @returns Its pid and, on Linux, a pidfd that becomes readable when it has ended. The pidfd is not the caller's to close:
 * the {@link reap} that is given it does, once the child has ended, and the end of the worker. Close a {@link Watch} of
 * it before.
 * @throws The error of the call that failed in the child, with `syscall` 'execve' or 'chdir'; `EAGAIN`, `ENOMEM`, `EMFILE`.
 * @see fork(2), execve(2), close_range(2)
 */
export function spawnProcess(options: SpawnProcessOptions): { pid: number; pidfd: number | undefined } {
  return native.spawnProcess(options);
}

/**
 * Asks how a child has ended, and lets the kernel forget it. Does not wait.
 *
 * @param pidfd - The child's, where there is one: safer than its pid. Closed where the child has ended.
 * @returns Undefined where it still runs.
 * @throws `ECHILD`: no child of this process, or reaped before.
 * @see waitid(2), WEXITED | WNOHANG
 */
export function reap(pid: number, pidfd?: number): ProcessExit | undefined {
  return native.reap(pid, pidfd);
}

/**
 * Calls back once when a child of {@link spawnProcess} has ended, having reaped it and closed its pidfd; both null where
 * somebody else did. For systems without pidfds: costs a thread while it waits.
 *
 * @returns The watch behind it, which keeps the process alive unless it is unref'd; closed, it calls back no more.
 * @throws `ECHILD`: no child of {@link spawnProcess} in this thread, or reaped before; `EAGAIN`: no more threads.
 * @see waitid(2), WNOWAIT
 */
export function watchExit(pid: number, callback: (exit: ProcessExit) => void): Watch {
  const descriptor = native.watchExit(pid);
  const watched = watch(descriptor, { readable: true }, () => {
    if (!native.hasEnded(pid, descriptor)) return;
    watched.close(); // first: reap closes the descriptor below it
    let exit: ProcessExit | undefined;
    try {
      exit = native.reap(pid, descriptor);
    } catch {
      // ECHILD: somebody else has reaped it, and knows how it ended
    }
    callback(exit ?? { exitCode: null, signal: null });
  });
  return watched;
}
