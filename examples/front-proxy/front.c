// A front process in C: accepts, reads what comes first, and passes the connection, with what it has read, to server.mjs. It never sees
// the client again. With -f it writes frames of a Channel on a stream, as docs/protocol.md has them, and the server reads FRAMING=fdpass.
// Source: unix(7), SCM_RIGHTS; cmsg(3); epoll(7).
//   cc -o build/front examples/front-proxy/front.c && build/front /tmp/front.sock 8080
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { kHeader = 12, kMost = 32768, kEvents = 64, kTries = 500 };  // kMost: of the first bytes, which must fit into one packet

static int listener, channel, poller;
static const char* path;
static bool frames;

static void Fail(const char* what) {
  perror(what);
  exit(1);
}

static void Stop(int number) {
  (void)number;
  _exit(0);
}

static void Watch(int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) Fail("epoll_ctl");
}

// A socket to the server. One that is being restarted is waited for; clients wait in the queue of the listener meanwhile.
static void Connect(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const size_t length = strlen(path);
  if (length >= sizeof address.sun_path) exit(2);
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // abstract: no file
  const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
  const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
  for (int tries = 0;; tries++, nanosleep(&pause, NULL)) {
    const int next = socket(AF_UNIX, (frames ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC, 0);
    if (next < 0) Fail("socket");
    if (connect(next, (struct sockaddr*)&address, size) == 0) {
      if (channel == 0) channel = next;
      else if (dup3(next, channel, O_CLOEXEC) < 0 || close(next) < 0) Fail("dup3");  // events that were read already name it
      break;
    }
    if ((errno != ENOENT && errno != ECONNREFUSED) || tries == kTries) Fail(path);
    close(next);
  }
  Watch(channel);  // it says when it stops
}

static void Listen(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const int on = 1;
  listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0) Fail("socket");
  if (bind(listener, (struct sockaddr*)&address, size) < 0 || listen(listener, 511) < 0) Fail("listen");
  if (getsockname(listener, (struct sockaddr*)&address, &size) < 0) Fail("getsockname");
  printf("listening on 127.0.0.1:%d, pid %d\n", ntohs(address.sin_port), (int)getpid());
}

// One sendmsg, with the descriptor at its first byte; what did not go with it goes without. Waits where the server is behind. False: it
// has ended.
static bool Pass(int fd, char* bytes, size_t length) {
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {0};
  struct iovec part = {bytes, length};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  while (part.iov_len > 0) {
    const ssize_t sent = sendmsg(channel, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return false;
    if (sent < 0) Fail("sendmsg");
    part.iov_base = (char*)part.iov_base + sent;
    part.iov_len -= (size_t)sent;
    message.msg_control = NULL;
    message.msg_controllen = 0;
  }
  return true;
}

static void Forward(int fd) {
  static char bytes[kHeader + kMost] = {'F', 'D', 'C', 1, 0, 1};  // no more frames, one descriptor
  // close() would not end this: the socket lives on in the server, and its events would come here under a number that is another's then.
  if (epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL) < 0) Fail("epoll_ctl");
  const ssize_t got = read(fd, bytes + kHeader, kMost);
  if (got > 0) {  // 0: it has ended without a word; -1: it was reset
    const uint32_t length = htonl((uint32_t)got);
    memcpy(bytes + 8, &length, sizeof length);
    const size_t head = frames ? 0 : kHeader;
    while (!Pass(fd, bytes + head, kHeader - head + (size_t)got)) Connect();
  }
  close(fd);  // the server has its own now
}

int main(int argc, char** argv) {
  frames = argc > 1 && strcmp(argv[1], "-f") == 0;
  if (frames) argv++, argc--;
  if (argc != 3) {
    fputs("front [-f] PATH PORT\n", stderr);
    return 2;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGTERM, Stop);
  if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) Fail("epoll_create1");
  path = argv[1];
  Connect();
  Listen(atoi(argv[2]));
  Watch(listener);
  for (;;) {
    struct epoll_event events[kEvents];
    const int count = epoll_wait(poller, events, kEvents, -1);
    for (int i = 0; i < count; i++) {
      const int fd = events[i].data.fd;
      if (fd == channel) {  // it stops, or has ended
        char word[64];
        if (recv(channel, word, sizeof word, 0) >= 0 || errno == ECONNRESET) Connect();  // unread it would be an error to the other side
      } else if (fd == listener) {
        const int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (accepted >= 0) Watch(accepted);
      } else {
        Forward(fd);
      }
    }
  }
}
