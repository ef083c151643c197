/*
 * A foreign program that passes descriptors: plain sendmsg and recvmsg, and frames of a Channel as docs/protocol.md has them.
 * It knows nothing of fdpass but that document. Its socket is descriptor 3.
 *
 *   rights send COUNT TEXT       one sendmsg: TEXT, and COUNT times /dev/null
 *   rights receive               recvmsg until the end; a line for each: bytes, number of descriptors, the text
 *   rights frames COUNT TEXT     a message as frames: TEXT, and COUNT times /dev/null
 *   rights read-frames           reads messages of frames until the end; a line for each, as above
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SOCKET = 3, MOST = 253, HEADER = 12 };

static void fail(const char *what) {
  perror(what);
  exit(1);
}

/* One sendmsg with `count` descriptors, and then the rest of the bytes without. */
static void send_all(const char *bytes, size_t length, int count) {
  static int null = -1;
  if (null < 0 && (null = open("/dev/null", O_RDONLY)) < 0) fail("/dev/null");
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MOST * sizeof(int))];
  } control;
  memset(&control, 0, sizeof control);
  struct iovec part = {(void *)bytes, length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (count > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    for (int i = 0; i < count; i++) memcpy(CMSG_DATA(rights) + (size_t)i * sizeof(int), &null, sizeof null);
  }
  while (1) {
    const ssize_t sent = sendmsg(SOCKET, &message, MSG_NOSIGNAL);
    if (sent < 0) fail("sendmsg");
    if ((size_t)sent == part.iov_len) return;
    part.iov_base = (char *)part.iov_base + sent;
    part.iov_len -= (size_t)sent;
    message.msg_control = NULL;
    message.msg_controllen = 0;
  }
}

/* One recvmsg: the bytes, and the number of descriptors, which are closed. */
static ssize_t receive(char *bytes, size_t room, int *count) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MOST * sizeof(int))];
  } control;
  struct iovec part = {bytes, room};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  const ssize_t length = recvmsg(SOCKET, &message, 0);
  if (length < 0) fail("recvmsg");
  if (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) fail("cut");
  *count = 0;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part != NULL; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t fds = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < fds; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      if (close(fd) < 0) fail("close");
    }
    *count += (int)fds;
  }
  return length;
}

static void put_header(unsigned char *header, int more, int rights, uint32_t length) {
  memset(header, 0, HEADER);
  memcpy(header, "FDC\1", 4);
  header[4] = more ? 1 : 0;
  header[5] = (unsigned char)rights;
  for (int i = 0; i < 4; i++) header[8 + i] = (unsigned char)(length >> (24 - 8 * i));
}

static void send_frames(int count, const char *text) {
  const size_t length = strlen(text);
  char *frame = malloc(HEADER + length);
  if (frame == NULL) fail("malloc");
  size_t payload = length; /* all of it in the first frame */
  do {
    const int rights = count < MOST ? count : MOST;
    count -= rights;
    put_header((unsigned char *)frame, count > 0, rights, (uint32_t)payload);
    memcpy(frame + HEADER, text, payload);
    send_all(frame, HEADER + payload, rights);
    payload = 0;
  } while (count > 0);
  free(frame);
}

/* Reads with a small buffer, so that frames and pieces do not fall together. */
static void read_frames(void) {
  static char data[8 << 20];
  size_t have = 0, body = 0;
  int waiting = 0, rights = 0;
  static char text[8 << 20];
  while (1) {
    int count;
    const ssize_t length = receive(data + have, 1000, &count);
    if (length == 0) break;
    have += (size_t)length;
    waiting += count;
    while (have >= HEADER) {
      const unsigned char *h = (const unsigned char *)data;
      if (memcmp(h, "FDC\1", 4) != 0) fail("no frame");
      const size_t payload = (size_t)h[8] << 24 | (size_t)h[9] << 16 | (size_t)h[10] << 8 | h[11];
      if (have < HEADER + payload) break;
      const int more = h[4];
      if (waiting < h[5]) fail("too few descriptors");
      waiting -= h[5];
      rights += h[5];
      memcpy(text + body, data + HEADER, payload);
      body += payload;
      have -= HEADER + payload;
      memmove(data, data + HEADER + payload, have);
      if (more) continue;
      text[body] = 0;
      printf("%zu %d %.40s\n", body, rights, text);
      body = 0;
      rights = 0;
    }
  }
  printf("end %zu %d\n", have, waiting);
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const char *what = argc > 1 ? argv[1] : "";
  if (strcmp(what, "send") == 0 && argc == 4) {
    send_all(argv[3], strlen(argv[3]), atoi(argv[2]));
  } else if (strcmp(what, "receive") == 0) {
    static char bytes[65537];
    int count;
    for (ssize_t length; (length = receive(bytes, sizeof bytes - 1, &count)) > 0;) {
      bytes[length] = 0;
      printf("%zd %d %.40s\n", length, count, bytes);
    }
    puts("end");
  } else if (strcmp(what, "frames") == 0 && argc == 4) {
    send_frames(atoi(argv[2]), argv[3]);
  } else if (strcmp(what, "read-frames") == 0) {
    read_frames();
  } else {
    fputs("rights send|receive|frames|read-frames: see the head of rights.c\n", stderr);
    return 2;
  }
  return 0;
}
