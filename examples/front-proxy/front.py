# A front process in Python's standard library alone: accepts, reads what comes first, and passes the connection, with what it has read,
# to server.mjs. It never sees the client again. Here it could choose between several servers by what was read: a TLS name, a path.
#   python3 examples/front-proxy/front.py /tmp/front.sock 8080
import os
import selectors
import signal
import socket
import sys
import time

PATIENCE = 10  # seconds
MOST = 32768  # of the first bytes, which must fit into one packet
BATCH = 64  # connections taken in one go, before those that have sent something have their turn

selector = selectors.DefaultSelector()
path, port = sys.argv[1], int(sys.argv[2] if len(sys.argv) > 2 else os.environ.get('PORT', 8080))


def server():
    """A socket to the server. One that is being restarted is waited for; clients wait in the queue of the listener meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while True:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            channel.connect('\0' + path[1:] if path.startswith('@') else path)
            selector.register(channel, selectors.EVENT_READ)  # it says when it stops
            return channel
        except (FileNotFoundError, ConnectionError):
            channel.close()
            if time.monotonic() > deadline:
                sys.exit(f'no server waits at {path}')
            time.sleep(0.02)


def another():
    global channel
    selector.unregister(channel)
    channel.close()
    channel = server()


listener = socket.create_server(('127.0.0.1', port), backlog=511)
listener.setblocking(False)
selector.register(listener, selectors.EVENT_READ)
channel = server()


def accept():
    for _ in range(BATCH):
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)


def forward(connection):
    selector.unregister(connection)
    with connection:  # closed here at the end; the server has its own then
        try:
            data = connection.recv(MOST)
        except OSError:
            return  # it was reset
        while data:  # nothing: it has ended without a word
            try:
                socket.send_fds(channel, [data], [connection.fileno()])  # waits where the server is behind
                return
            except ConnectionError:
                another()


def stop(*_):
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
print(f'listening on 127.0.0.1:{listener.getsockname()[1]}, pid {os.getpid()}', flush=True)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            accept()
        elif key.fileobj is channel:  # it stops, or has ended
            try:
                channel.recv(64)  # unread it would be an error to the other side
            except ConnectionError:
                pass
            another()
        elif key.fileobj.fileno() >= 0:  # else it was the channel before this one
            forward(key.fileobj)
