/*
 * For LD_PRELOAD: a vsock where there is none. Each vsock address is an abstract Unix name: "<VSOCK_NAME>-<cid>-<port>".
 * VSOCK_REFUSES: types ("dgram seqpacket") that socket(2) refuses as a kernel without them does. VSOCK_CANNOT_CONNECT: types that
 * connect(2) refuses, as where the way to the host does not carry them. VSOCK_TAKEN: a port that is taken; -1: none may be bound.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value == NULL ? "" : value;
}

static socklen_t unix_name(const struct sockaddr *address, struct sockaddr_un *un) {
  const struct sockaddr_vm *vm = (const struct sockaddr_vm *)address;
  un->sun_family = AF_UNIX;
  int length = snprintf(un->sun_path + 1, sizeof(un->sun_path) - 1, "%s-%u-%u", variable("VSOCK_NAME"), vm->svm_cid, vm->svm_port);
  un->sun_path[0] = '\0';
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

static const char *word_of(int type) {
  return type == SOCK_DGRAM ? "dgram" : type == SOCK_SEQPACKET ? "seqpacket" : "stream";
}

int socket(int domain, int type, int protocol) {
  int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
  if (domain != AF_VSOCK) return real(domain, type, protocol);
  int bare = type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (strstr(variable("VSOCK_REFUSES"), word_of(bare)) != NULL) {
    errno = bare == SOCK_DGRAM ? ENODEV : ESOCKTNOSUPPORT;
    return -1;
  }
  return real(AF_UNIX, type, protocol);
}

int bind(int fd, const struct sockaddr *address, socklen_t length) {
  int (*real)(int, const struct sockaddr *, socklen_t) = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
  if (address->sa_family != AF_VSOCK) return real(fd, address, length);
  int taken = atoi(variable("VSOCK_TAKEN"));
  if (taken == -1) errno = EACCES;
  else if ((int)((const struct sockaddr_vm *)address)->svm_port == taken) errno = EADDRINUSE;
  else {
    struct sockaddr_un un;
    socklen_t size = unix_name(address, &un);
    return real(fd, (struct sockaddr *)&un, size);
  }
  return -1;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  int (*real)(int, const struct sockaddr *, socklen_t) =
      (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
  if (address->sa_family != AF_VSOCK) return real(fd, address, length);
  int type = 0;
  socklen_t type_size = sizeof(type);
  getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size);
  if (strstr(variable("VSOCK_CANNOT_CONNECT"), word_of(type)) != NULL) {
    errno = ESOCKTNOSUPPORT;
    return -1;
  }
  struct sockaddr_un un;
  socklen_t size = unix_name(address, &un);
  return real(fd, (struct sockaddr *)&un, size);
}
