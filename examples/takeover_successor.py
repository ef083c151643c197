# A generation in Python's standard library alone, written from docs/protocol.md: it takes over from whoever offers at the path, serves
# HTTP (its pid), offers at the same path, and hands over to whoever comes next: a Node server, or this program again.
#   PORT=8080 node examples/container.mjs /tmp/app/takeover.sock     then     python3 examples/takeover_successor.py /tmp/app/takeover.sock
import array
import json
import os
import selectors
import signal
import socket
import struct
import sys
import time

PROTOCOL = {'min': 1, 'max': 1}
TYPES = dict(
    zip('HELLO OFFER FDS FDS_ACK READY COMMIT SERVING RELEASE RELEASED CONNECTION CONNECTION_ACK ABORT'.split(), range(1, 13))
)
NAMES = {number: name for name, number in TYPES.items()}
HEADER = struct.Struct('>3sBBBHI')  # 'FDP', layout, type, descriptors, reserved, length of the payload
MAX_RIGHTS, MAX_PAYLOAD = 253, 1 << 20
WAIT = 5  # seconds: for the set, for COMMIT, for SERVING, for RELEASE behind the probation
READY_WAIT, PROBATION, GRACE = 30, 1, 5  # seconds
OFFER_NAME = 'fdpass.takeover'  # the listener of the path travels under this name, with the others


class Gone(Exception):
    """The other side has closed, or ended."""


class Refused(Exception):
    """The other side said ABORT, or what cannot be."""


class Channel:
    """Frames over a connected Unix socket. Owns the descriptors that came until they are taken."""

    def __init__(self, connection):
        self.socket, self.bytes, self.fds = connection, b'', []
        # Credentials come before bytes: who is not trusted is not read.
        _, self.uid, _ = struct.unpack('3i', connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))

    def say(self, kind, fds=(), **fields):
        payload = json.dumps(fields).encode()
        frame = HEADER.pack(b'FDP', 1, TYPES[kind], len(fds), 0, len(payload)) + payload
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        try:
            # All rights go with the first byte; what the kernel did not take of the bytes follows without them.
            sent = self.socket.sendmsg([frame], rights, socket.MSG_NOSIGNAL)
            self.socket.sendall(frame[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is read before it is judged: what it said last may explain

    def read(self):
        """All frames that are there: (type, fields, descriptors). Waits for the first byte as long as the socket's timeout says."""
        try:
            room = socket.CMSG_SPACE(MAX_RIGHTS * 4)
            data, control, flags, _ = self.socket.recvmsg(65536, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            raise Gone from None
        for level, kind, rights in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.fds.extend(array.array('i', rights[: len(rights) // 4 * 4]))
        if flags & socket.MSG_CTRUNC:
            raise Refused('more descriptors came than this process can hold (ulimit -n)')
        if not data:
            raise Gone
        self.bytes += data
        frames = []
        while len(self.bytes) >= HEADER.size:
            magic, layout, kind, count, reserved, length = HEADER.unpack_from(self.bytes)
            if (magic, layout, reserved) != (b'FDP', 1, 0) or count > MAX_RIGHTS or length > MAX_PAYLOAD:
                raise Refused('these are no frames')
            if len(self.bytes) < HEADER.size + length:
                break
            payload, self.bytes = self.bytes[HEADER.size : HEADER.size + length], self.bytes[HEADER.size + length :]
            if len(self.fds) < count:
                raise Refused('a frame names more descriptors than came with it')
            fds, self.fds = self.fds[:count], self.fds[count:]
            fields = json.loads(payload)
            if kind in NAMES and isinstance(fields, dict):
                frames.append((NAMES[kind], fields, fds))
            elif kind >= 128:
                close_all(fds)  # one that may be ignored
            else:
                raise Refused(f'frame type {kind}')
        if not self.bytes and self.fds:
            raise Refused('descriptors came that no frame names')
        return frames

    def close(self):
        close_all(self.fds)
        self.fds = []
        self.socket.close()


def close_all(fds):
    for fd in fds:
        os.close(fd)


def describe(name, listener):
    """The entry of a listener in FDS: what the descriptor must turn out to be."""
    status = os.fstat(listener.fileno())
    where = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        text = '@' + where[1:].decode() if isinstance(where, bytes) else where
        address = {'family': 'unix', 'path': text}
    else:
        family = 'IPv4' if listener.family == socket.AF_INET else 'IPv6'
        address = {'family': family, 'address': where[0], 'port': where[1]}
    return {'name': name, 'type': 'stream', 'address': address, 'inode': str(status.st_ino), 'device': str(status.st_dev)}


# ---- The new side: connect, adopt, ready, serving, alone ---------------------------------------------------------------------


def take_over(path):
    """HELLO, OFFER and every FDS: the channel, OFFER, and the listeners by name. All of it, or an exception and nothing left open."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(WAIT)
    connection.connect('\0' + path[1:] if path.startswith('@') else path)
    channel, offer, listeners, batch = Channel(connection), None, [], 0
    try:
        if channel.uid != os.geteuid():
            raise Refused(f'uid {channel.uid} offers there')
        channel.say('HELLO', versions=PROTOCOL, pid=os.getpid(), features=[])
        deadline = time.monotonic() + WAIT
        while offer is None or len(listeners) < offer['count']:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            for kind, fields, fds in channel.read():
                if kind == 'OFFER' and offer is None:
                    offer = fields
                    close_all(fds)  # a large state, in a memory file: this program has no use for it
                    if offer['versions']['min'] > PROTOCOL['max'] or offer['versions']['max'] < PROTOCOL['min']:
                        raise Refused('the two share no version of the protocol')
                elif kind == 'FDS' and offer is not None and fields['batch'] == batch:
                    for item, fd in zip(fields['items'], fds):
                        listener = socket.socket(fileno=fd)
                        listeners.append((item['name'], listener))
                        if str(os.fstat(fd).st_ino) != item['inode']:
                            raise Refused(f'"{item["name"]}" is another socket than was said')
                    channel.say('FDS_ACK', batch=batch)
                    batch += 1
                elif kind == 'ABORT':
                    raise Refused(f'{fields["code"]}: {fields["message"]}')
                else:
                    close_all(fds)
                    raise Refused(f'{kind} came where it cannot')
    except BaseException:
        for _, listener in listeners:
            listener.close()
        channel.close()
        raise
    connection.setblocking(False)
    return channel, offer, listeners


# ---- A server with one loop, which plays both sides --------------------------------------------------------------------------


class Server:
    def __init__(self, path):
        self.path, self.loop, self.timers = path, selectors.DefaultSelector(), {}
        self.connections, self.draining, self.successor, self.phase = {}, False, None, 'starting'
        self.channel, offer, self.listeners = take_over(path)
        self.generation, self.probation = offer['generation'], offer['probation'] / 1000
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.after(0, self.stop))
        wake, wakened = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        self.wake = wake
        self.loop.register(wakened, selectors.EVENT_READ, lambda: wakened.recv(64))

    def run(self):
        # All is claimed, the application is up: READY. Nothing is accepted yet.
        self.phase = 'ready'
        self.channel.say('READY')
        self.loop.register(self.channel.socket, selectors.EVENT_READ, self.hear_predecessor)
        self.after(WAIT, lambda: self.serve(split=True), 'dialog')  # frozen, perhaps: two that accept do no harm, none does
        while not (self.draining and not self.connections and self.channel is None):
            due = min((at for at, _ in self.timers.values()), default=None)
            wait = None if due is None else max(0, due - time.monotonic())
            # What has come is read before a deadline is judged.
            for key, _ in self.loop.select(wait):
                if key.fileobj.fileno() >= 0:
                    key.data()
            for name, (at, action) in list(self.timers.items()):
                if at <= time.monotonic() and self.timers.get(name) == (at, action):
                    del self.timers[name]
                    action()

    def after(self, seconds, action, name=None):
        self.timers[name or action] = (time.monotonic() + seconds, action)

    def drop_channel(self):
        if self.channel is not None:
            self.loop.unregister(self.channel.socket)
            self.channel.close()
            self.channel = None

    # ---- To the predecessor

    def hear_predecessor(self):
        try:
            frames = self.channel.read()
        except Gone:
            self.drop_channel()
            if self.phase == 'ready':
                self.serve(split=False)  # nobody else accepts, or soon will
            if self.phase == 'serving':
                self.alone()
            return
        except (Refused, ValueError) as error:
            # Until RELEASED is here the old one accepts, whatever it writes.
            print(f'the predecessor cannot be understood: {error}', file=sys.stderr, flush=True)
            if self.phase != 'alone':
                self.channel.say('ABORT', code='ERR_FDPASS_PROTOCOL', message=str(error))
                self.phase = 'leaving'
                self.leave()
            self.drop_channel()
            return
        for kind, fields, fds in frames:
            close_all(fds)
            if kind == 'COMMIT' and self.phase == 'ready':
                self.probation = fields['probation'] / 1000
                self.serve(split=False)
            elif kind == 'RELEASED' and self.phase == 'serving':
                self.alone()
            elif kind == 'ABORT' and self.phase in ('ready', 'serving'):
                print(f'the predecessor goes on: {fields["code"]}, {fields["message"]}', file=sys.stderr, flush=True)
                self.phase = 'leaving'
                self.drop_channel()
                self.leave()
                return

    def serve(self, split):
        self.phase = 'serving'
        for name, listener in self.listeners:
            if name != OFFER_NAME:
                # O_NONBLOCK belongs to the socket, not to this process: it is set, and must stay so while another accepts too.
                self.loop.register(listener, selectors.EVENT_READ, lambda listener=listener: self.accept(listener))
        if self.channel is not None:
            self.channel.say('SERVING', split=split)
            self.after(self.probation, self.release, 'dialog')
        address = next(listener for name, listener in self.listeners if name != OFFER_NAME).getsockname()
        print(f'listening on {address[0]}:{address[1]}, pid {os.getpid()}, generation {self.generation}', flush=True)

    def release(self):
        if self.channel is not None:
            self.channel.say('RELEASE')

    def alone(self):
        """The old one has closed its listeners, or is gone. The path is ours: whoever waits there is served from now on."""
        self.phase = 'alone'
        self.timers.pop('dialog', None)
        print(f'pid {os.getpid()} is alone', flush=True)
        for name, listener in self.listeners:
            if name == OFFER_NAME:
                self.loop.register(listener, selectors.EVENT_READ, lambda listener=listener: self.greet(listener))

    # ---- To a successor

    def greet(self, listener):
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return  # somebody else was faster
        connection.setblocking(True)
        connection.settimeout(WAIT)
        channel = Channel(connection)
        refusal = None
        if channel.uid != os.geteuid():
            refusal = ('ERR_FDPASS_REFUSED', f'uid {channel.uid} is not trusted here')
        elif self.successor is not None:
            refusal = ('ERR_FDPASS_BUSY', 'another takeover is under way')
        if refusal is not None:
            channel.say('ABORT', code=refusal[0], message=refusal[1])
            channel.close()
            return
        self.successor, self.state, self.acked, self.sent = channel, 'offered', 0, 0
        connection.setblocking(False)
        self.loop.register(connection, selectors.EVENT_READ, self.hear_successor)
        self.after(READY_WAIT, lambda: self.take_back('ERR_FDPASS_READY_TIMEOUT', 'not ready in time'), 'handoff')

    def hear_successor(self):
        try:
            frames = self.successor.read()
        except Gone:
            # Until RELEASE was heard this process accepts: there is nothing to resume.
            self.forget_successor()
            return
        except (Refused, ValueError) as error:
            self.take_back('ERR_FDPASS_PROTOCOL', str(error))
            return
        for kind, fields, fds in frames:
            close_all(fds)
            if self.successor is None:
                return
            step = (self.state, kind)
            if step == ('offered', 'HELLO') and self.sent == 0:
                self.successor.say(
                    'OFFER', versions=PROTOCOL, pid=os.getpid(), generation=self.generation + 1, probation=PROBATION * 1000,
                    count=len(self.listeners), items=[],
                )  # fmt: skip
                self.send_batch()
            elif step == ('offered', 'FDS_ACK') and fields['batch'] == self.acked:
                self.acked += 1
                self.send_batch()
            elif step == ('offered', 'READY') and self.acked * MAX_RIGHTS >= len(self.listeners):
                self.state = 'committing'
                self.successor.say('COMMIT', probation=PROBATION * 1000)
                self.after(WAIT, lambda: self.take_back('ERR_FDPASS_COMMIT_TIMEOUT', 'no SERVING in time'), 'handoff')
            elif step == ('committing', 'SERVING'):
                self.state = 'probation'
                late = lambda: self.take_back('ERR_FDPASS_PROBATION', 'no RELEASE in time')  # noqa: E731
                self.after(PROBATION + WAIT, late, 'handoff')
            elif step == ('probation', 'RELEASE') and not self.successor_has_ended():
                self.hand_over()
                return
            elif kind == 'ABORT':
                print(f'the successor gave up: {fields["code"]}, {fields["message"]}', file=sys.stderr, flush=True)
                self.forget_successor()
            else:
                self.take_back('ERR_FDPASS_PROTOCOL', f'{kind} came while {self.state}')

    def send_batch(self):
        batch = self.listeners[self.sent : self.sent + MAX_RIGHTS]
        if not batch:
            return
        items = [describe(name, listener) for name, listener in batch]
        number = self.sent // MAX_RIGHTS
        self.sent += len(batch)
        self.successor.say('FDS', fds=[listener.fileno() for _, listener in batch], batch=number, items=items)

    def successor_has_ended(self):
        """RELEASE must be its last word: with the end behind it, it is no proof that somebody accepts."""
        try:
            return self.successor.socket.recv(1, socket.MSG_PEEK) == b''
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def take_back(self, code, message):
        self.successor.say('ABORT', code=code, message=message)
        self.forget_successor()

    def forget_successor(self):
        self.timers.pop('handoff', None)
        self.loop.unregister(self.successor.socket)
        self.successor.close()
        self.successor = None

    def hand_over(self):
        """The one way out of accepting: close first, then say so. The path stays: it is the successor's."""
        self.timers.pop('handoff', None)
        self.close_listeners()
        self.successor.say('RELEASED')
        self.phase = 'released'
        self.drop_channel()
        self.leave()

    # ---- HTTP, and the end

    def accept(self, listener):
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return  # the other generation was faster
        connection.setblocking(False)
        self.connections[connection] = b''
        self.loop.register(connection, selectors.EVENT_READ, lambda: self.answer(connection))

    def answer(self, connection):
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b''
        request = self.connections[connection] + data
        ended = not data
        while b'\r\n\r\n' in request:  # requests have no bodies here
            head, _, request = request.partition(b'\r\n\r\n')
            last = b'connection: close' in head.lower() or (self.draining and not request)
            body = f'{os.getpid()}\n'.encode()
            reply = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{"Connection: close" if last else "X-Kept: yes"}\r\n\r\n'
            try:
                connection.sendall(reply.encode() + body)
            except OSError:
                ended = True
            ended = ended or last
        self.connections[connection] = request
        if ended:
            self.hang_up(connection)

    def hang_up(self, connection):
        if self.connections.pop(connection, None) is not None:
            self.loop.unregister(connection)
            connection.close()

    def close_listeners(self):
        for _, listener in self.listeners:
            if listener in [key.fileobj for key in self.loop.get_map().values()]:
                self.loop.unregister(listener)
            listener.close()  # never shutdown(): it would end the socket for everybody
        self.listeners = []

    def leave(self):
        """What was accepted is finished: told with the next response, or closed when it was silent for the grace."""
        self.close_listeners()
        self.draining = True
        self.after(GRACE, lambda: [self.hang_up(connection) for connection in list(self.connections)], 'grace')

    def stop(self):
        if self.successor is not None and self.phase == 'alone':
            self.take_back('ERR_FDPASS_ABORTED', 'the predecessor was asked to stop')
        if self.phase == 'alone':
            if not self.path.startswith('@'):
                os.unlink(self.path)
        elif self.channel is not None:
            self.channel.say('ABORT', code='ERR_FDPASS_ABORTED', message='the successor was asked to stop')
        self.drop_channel()
        self.leave()


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit('usage: takeover_successor.py PATH')
    try:
        server = Server(sys.argv[1])
    except (OSError, Gone, Refused) as error:
        sys.exit(f'nothing was taken over: {error or "the other side hung up"}')
    server.run()
