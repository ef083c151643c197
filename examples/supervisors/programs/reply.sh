#!/bin/sh
# For socat: one connection. It reads the request, and answers with the pid of the socat that accepts.
while read -r line && [ "${#line}" -gt 1 ]; do :; done
printf 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n' "$((${#SOCAT_PPID} + 1))" "$SOCAT_PPID"
