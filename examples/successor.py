# A successor that knows nothing of fdpass, in Python's standard library alone: takes the listener that was handed down, says that
# it is ready, and replies with its pid. SIGTERM answers what has begun, and ends it. Source: sd_listen_fds(3), sd_notify(3).
#   PORT=8080 node examples/foreign.mjs python3 examples/successor.py
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LISTEN_FDS_START = 3


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    timeout = 5  # of a connection that says nothing, seconds
    wbufsize = -1  # head and body in one write

    def do_GET(self):
        body = f'{os.getpid()}\n'.encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain')
        self.send_header('Content-Length', str(len(body)))
        self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # the end waits for the requests that have begun

    # The socket is non-blocking for all who hold it, and must stay so: the other process may accept what was seen here. Python
    # raises BlockingIOError then, which serve_forever() takes for no connection. Never call settimeout() on it.
    def __init__(self, listener):
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


def inherited_listener():
    if os.environ.pop('LISTEN_PID', '') != str(os.getpid()) or int(os.environ.pop('LISTEN_FDS', '0')) < 1:
        sys.exit('no listener was handed down: LISTEN_PID and LISTEN_FDS do not speak of this process')
    os.set_inheritable(LISTEN_FDS_START, False)
    return socket.socket(fileno=LISTEN_FDS_START)


def notify(message):
    address = os.environ.get('NOTIFY_SOCKET', '')
    if not address:
        return
    if address.startswith('@'):
        address = '\0' + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(message.encode(), address)


server = Server(inherited_listener())
# shutdown() waits for serve_forever(), so it cannot be called from a signal handler, which interrupts that
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
notify('READY=1')
server.serve_forever(poll_interval=0.1)
server.server_close()
