# A connect loop without end: connects, reads until the server closes, starts over. Prints each new answer and each new error once.
# Ctrl-C ends it, or --count; then it says how many went well, and exits with 1 where one failed.
#   python3 examples/clients/loop.py 8080 --count 1000
import argparse
import os
import signal
import socket
import sys
import time

arguments = argparse.ArgumentParser()
arguments.add_argument('port', type=int, nargs='?', default=int(os.environ.get('PORT', 8080)))
arguments.add_argument('--count', type=int, default=sys.maxsize)
options = arguments.parse_args()

running = True


def stop(_signal, _frame):
    global running
    running = False


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)

said = set()


def say(line):
    if line not in said:
        print(line, flush=True)
    said.add(line)


def ask(port):
    with socket.create_connection(('127.0.0.1', port), timeout=5) as connection, connection.makefile() as answer:
        return answer.read().strip()


ok = failed = 0
while running and ok + failed < options.count:
    try:
        answer = ask(options.port)
        if not answer.startswith('hello'):
            raise OSError(f'the answer is "{answer}"')
        ok += 1
        say(answer)
    except OSError as error:
        failed += 1
        say(f'failed: {error}')
    time.sleep(0.001)

print(f'ok {ok}, failed {failed}', flush=True)
sys.exit(1 if failed else 0)
