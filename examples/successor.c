// A successor that knows nothing of fdpass, in plain C: takes the listener that was handed down, says that it is ready,
// and replies with its pid. SIGTERM answers what has begun, and ends it. Source: sd_listen_fds(3), sd_notify(3),
// poll(2).
//   cc -o build/successor examples/successor.c && PORT=8080 node examples/foreign.mjs build/successor
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { kListener = 3, kConnections = 1000, kRequest = 4096 };

static struct pollfd polled[1 + kConnections];  // [0]: the listener
static struct {
  char bytes[kRequest + 1];
  size_t length;
} requests[1 + kConnections];
static int count = 1;
static volatile sig_atomic_t stopping;

static void Stop(int number) {
  (void)number;
  stopping = 1;
}

static int Number(const char* name) {
  const char* value = getenv(name);
  return value ? atoi(value) : 0;
}

static void Notify(const char* message) {
  const char* path = getenv("NOTIFY_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (!path || strlen(path) >= sizeof address.sun_path) return;
  memcpy(address.sun_path, path, strlen(path));
  if (path[0] == '@') address.sun_path[0] = '\0';  // abstract: no file
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const socklen_t length = offsetof(struct sockaddr_un, sun_path) + strlen(path);
  if (fd < 0 || sendto(fd, message, strlen(message), MSG_NOSIGNAL, (struct sockaddr*)&address, length) < 0)
    perror("NOTIFY_SOCKET");
  if (fd >= 0) close(fd);
}

// The listener is non-blocking for all who hold it, and must stay so: another may accept what poll() has seen here.
static void Accept(void) {
  const int fd = accept4(kListener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  polled[count] = (struct pollfd){.fd = fd, .events = POLLIN};
  requests[count++].length = 0;
}

static void Close(int i) {
  close(polled[i].fd);
  count--;
  polled[i] = polled[count];
  requests[i] = requests[count];
}

// One request a connection, replied to as soon as its head is here.
static void Read(int i) {
  char* bytes = requests[i].bytes;
  const ssize_t got = read(polled[i].fd, bytes + requests[i].length, kRequest - requests[i].length);
  if (got < 0 && errno == EAGAIN) return;
  if (got > 0) {
    requests[i].length += (size_t)got;
    bytes[requests[i].length] = '\0';
    if (!strstr(bytes, "\r\n\r\n") && requests[i].length < kRequest) return;
    char body[32], reply[256];
    const int size = snprintf(body, sizeof body, "%d\n", (int)getpid());
    const int all = snprintf(reply, sizeof reply,
                             "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
                             "Connection: close\r\n\r\n%s",
                             size, body);
    if (send(polled[i].fd, reply, (size_t)all, MSG_NOSIGNAL) != all) perror("send");
  }
  Close(i);
}

int main(void) {
  if (Number("LISTEN_PID") != (int)getpid() || Number("LISTEN_FDS") < 1) {
    fputs("no listener was handed down: LISTEN_PID and LISTEN_FDS do not speak of this process\n", stderr);
    return 1;
  }
  fcntl(kListener, F_SETFD, FD_CLOEXEC);
  polled[0] = (struct pollfd){.fd = kListener, .events = POLLIN};

  // SIGTERM comes in ppoll() alone: there is no moment in which it would be overlooked.
  sigset_t blocked, waiting;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, &waiting);
  sigaction(SIGTERM, &(struct sigaction){.sa_handler = Stop}, NULL);
  Notify("READY=1");

  const struct timespec quiet = {.tv_sec = 1};
  for (bool listening = true; listening || count > 1;) {
    if (stopping && listening) {
      close(kListener);
      listening = false;
    }
    polled[0].fd = listening && count <= kConnections ? kListener : -1;  // -1: poll() passes over it
    const int events = ppoll(polled, (nfds_t)count, listening ? NULL : &quiet, &waiting);
    if (events == 0) break;    // what is left says nothing
    if (events < 0) continue;  // EINTR
    for (int i = count - 1; i > 0; i--)
      if (polled[i].revents) Read(i);
    if (polled[0].revents) Accept();
  }
  return 0;
}
