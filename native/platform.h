// What differs between Linux and macOS: the one file that asks which it is. Each function has two bodies, keeps the
// contract of the Linux call (-1 and errno), and says ENOTSUP where the system cannot do it.
//
// Close-on-exec from birth is Linux's; on macOS it is set right after, and a fork of another thread can come between.
// The calls that are younger than glibc 2.17 go by number, so that one binary loads everywhere; an old kernel says
// ENOSYS.
#ifndef FDPASS_PLATFORM_H_
#define FDPASS_PLATFORM_H_

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <linux/tcp.h>  // tcp_info: glibc's and musl's netinet/tcp.h are not the same
#include <linux/vm_sockets.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/param.h>
#include <sys/ucred.h>
#else
#error "fdpass: only Linux and macOS"
#endif

namespace fdpass::platform {

// CMSG_NXTHDR; the macro of musl compares signed with unsigned.
inline cmsghdr* NextControl(msghdr* message, cmsghdr* part) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-compare"
  return CMSG_NXTHDR(message, part);
#pragma GCC diagnostic pop
}

#if defined(__linux__)

// Numbers that the headers of an old system may lack. The last four are the same on every architecture.
#if defined(SYS_memfd_create)
inline constexpr long kMemfdCreate = SYS_memfd_create;
#elif defined(__x86_64__)
inline constexpr long kMemfdCreate = 319;
#else
inline constexpr long kMemfdCreate = 279;
#endif
inline constexpr long kPidfdSendSignal = 424;
inline constexpr long kPidfdOpen = 434;
inline constexpr long kCloseRange = 436;
inline constexpr unsigned kCloseRangeCloexec = 1U << 2;       // CLOSE_RANGE_CLOEXEC, Linux 5.11
inline constexpr unsigned kMemfdCloexec = 1;                  // MFD_CLOEXEC
inline constexpr idtype_t kPidfd = static_cast<idtype_t>(3);  // P_PIDFD, Linux 5.4

inline constexpr bool kHasAbstractNames = true;
inline constexpr int kVsock = AF_VSOCK;  // vsock(7): between a virtual machine and its host; -1: not of this system
inline constexpr int kSendFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
inline constexpr const char* kDescriptorDirectory = "/proc/self/fd";

// Socket options; -1: this system has no such option.
inline constexpr int kSoDomain = SO_DOMAIN;
inline constexpr int kSoProtocol = SO_PROTOCOL;
inline constexpr int kSoCookie = 57;  // SO_COOKIE, Linux 4.12
inline constexpr int kSoPassCred = SO_PASSCRED;
inline constexpr int kSoPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5
inline constexpr int kSoBindToDevice = SO_BINDTODEVICE;
inline constexpr int kIpFreeBind = 15;  // IP_FREEBIND
inline constexpr int kTcpDeferAccept = TCP_DEFER_ACCEPT;
inline constexpr int kTcpFastOpen = TCP_FASTOPEN;

// SCM_CREDENTIALS and SCM_PIDFD (a descriptor too: SO_PASSPIDFD, Linux 6.5).
inline constexpr int kScmCredentials = 2;
inline constexpr int kScmPidfd = 4;

inline int Socket(int domain, int type, int protocol) {
  return socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
}

inline int SocketPair(int type, int fds[2]) { return socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds); }

inline int Accept(int fd) { return accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); }

inline ssize_t ReceiveMessage(int fd, msghdr* message, int flags) {
  return recvmsg(fd, message, flags | MSG_CMSG_CLOEXEC);
}

inline int DupTo(int fd, int target) { return dup3(fd, target, O_CLOEXEC); }

// kcmp(2), KCMP_FILE: 0 where both numbers name one open file description, 1 to 3 where they do not.
inline int CompareFiles(int a, int b) {
  constexpr long kKcmpFile = 0;  // KCMP_FILE
  const long self = getpid();
  return static_cast<int>(syscall(SYS_kcmp, self, self, kKcmpFile, a, b));
}

inline int MemoryFile(const char* name) { return static_cast<int>(syscall(kMemfdCreate, name, kMemfdCloexec)); }

inline int PidfdOpen(pid_t pid) { return static_cast<int>(syscall(kPidfdOpen, pid, 0)); }  // close-on-exec by itself

// A descriptor that is readable once `fd` has hung up or failed, and for no other reason. epoll_ctl(2): no events are
// asked for, and EPOLLHUP and EPOLLERR are told unasked.
inline int HangUpDescriptor(int fd) {
  const int waiter = epoll_create1(EPOLL_CLOEXEC);
  if (waiter == -1) return -1;
  epoll_event event = {};
  if (epoll_ctl(waiter, EPOLL_CTL_ADD, fd, &event) == 0) return waiter;
  const int error = errno;
  close(waiter);
  errno = error;
  return -1;
}

inline bool HasHungUp(int waiter) {
  epoll_event event = {};
  return epoll_wait(waiter, &event, 1, 0) == 1;
}

inline socklen_t VsockAddress(sockaddr* storage, uint32_t cid, uint32_t port) {
  auto* address = reinterpret_cast<sockaddr_vm*>(storage);
  address->svm_family = AF_VSOCK;
  address->svm_cid = cid;
  address->svm_port = port;
  return sizeof(*address);
}

inline void ReadVsock(const sockaddr* storage, uint32_t* cid, uint32_t* port) {
  const auto* address = reinterpret_cast<const sockaddr_vm*>(storage);
  *cid = address->svm_cid;
  *port = address->svm_port;
}

inline int PidfdSendSignal(int pidfd, int signal) {
  return static_cast<int>(syscall(kPidfdSendSignal, pidfd, signal, nullptr, 0));
}

// close_range(2); async-signal-safe: it may be called between fork and exec.
inline int CloseRange(unsigned first, unsigned last, unsigned flags) {
  return static_cast<int>(syscall(kCloseRange, first, last, flags));
}

struct Credentials {
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

inline int PeerCredentials(int fd, Credentials* peer) {
  static_assert(sizeof(Credentials) == 12, "struct ucred of unix(7)");
  socklen_t length = sizeof(*peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &length);
}

struct Queue {
  unsigned length;
  unsigned backlog;
};

// For a listener the kernel puts its queue into two fields of tcp_info: tcp_get_info in net/ipv4/tcp.c.
inline int ListenQueue(int fd, Queue* queue) {
  constexpr unsigned kListen = 10;  // TCP_LISTEN
  tcp_info info = {};
  socklen_t length = sizeof(info);
  if (getsockopt(fd, 6 /* IPPROTO_TCP */, TCP_INFO, &info, &length) == -1) {
    if (errno == EOPNOTSUPP || errno == ENOPROTOOPT) errno = ENOTSUP;  // a socket, but not of TCP
    return -1;
  }
  if (info.tcpi_state != kListen) {
    errno = EINVAL;
    return -1;
  }
  *queue = {info.tcpi_unacked, info.tcpi_sacked};
  return 0;
}

// The path of an open descriptor is what its entry in kDescriptorDirectory points at.
inline ssize_t DescriptorTarget(int directory, const char* entry, char* target, size_t size) {
  return readlinkat(directory, entry, target, size);
}

#elif defined(__APPLE__)

inline constexpr bool kHasAbstractNames = false;
inline constexpr int kVsock = -1;
inline constexpr int kSendFlags = MSG_DONTWAIT;  // SIGPIPE: Node ignores it; see Socket below for the sockets we make
inline constexpr const char* kDescriptorDirectory = "/dev/fd";

inline constexpr int kSoDomain = -1;
inline constexpr int kSoProtocol = -1;
inline constexpr int kSoCookie = -1;
inline constexpr int kSoPassCred = -1;
inline constexpr int kSoPeerPidfd = -1;
inline constexpr int kSoBindToDevice = -1;
inline constexpr int kIpFreeBind = -1;
inline constexpr int kTcpDeferAccept = -1;
inline constexpr int kTcpFastOpen = -1;

inline constexpr int kScmCredentials = -1;
inline constexpr int kScmPidfd = -1;

inline int NotSupported() {
  errno = ENOTSUP;
  return -1;
}

// What Linux does at the birth of a descriptor. Closes it where that fails.
inline int AfterBirth(int fd, bool nonBlocking) {
  if (fd == -1) return -1;
  bool done = fcntl(fd, F_SETFD, FD_CLOEXEC) != -1;
  if (done && nonBlocking) {
    const int flags = fcntl(fd, F_GETFL);
    done = flags != -1 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) != -1;
    const int on = 1;
    if (done) setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on));
  }
  if (done) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

inline int Socket(int domain, int type, int protocol) { return AfterBirth(socket(domain, type, protocol), true); }

inline int SocketPair(int type, int fds[2]) {
  if (socketpair(AF_UNIX, type, 0, fds) == -1) return -1;
  const bool first = AfterBirth(fds[0], true) != -1;
  const bool second = AfterBirth(fds[1], true) != -1;
  if (first && second) return 0;
  const int error = errno;
  if (first) close(fds[0]);
  if (second) close(fds[1]);
  errno = error;
  return -1;
}

inline int Accept(int fd) { return AfterBirth(accept(fd, nullptr, nullptr), true); }

inline ssize_t ReceiveMessage(int fd, msghdr* message, int flags) {
  const ssize_t size = recvmsg(fd, message, flags);
  if (size == -1) return -1;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = NextControl(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t index = 0; index < count; index++)
      fcntl(reinterpret_cast<int*>(CMSG_DATA(part))[index], F_SETFD, FD_CLOEXEC);
  }
  return size;
}

inline int DupTo(int fd, int target) {
  if (fd == target) {
    errno = EINVAL;  // as dup3
    return -1;
  }
  const int result = dup2(fd, target);
  return result == -1 ? -1 : AfterBirth(result, false);
}

inline int CompareFiles(int, int) { return NotSupported(); }
inline int MemoryFile(const char*) { return NotSupported(); }
inline int PidfdOpen(pid_t) { return NotSupported(); }
inline int HangUpDescriptor(int) { return NotSupported(); }
inline bool HasHungUp(int) { return false; }
inline socklen_t VsockAddress(sockaddr*, uint32_t, uint32_t) { return 0; }
inline void ReadVsock(const sockaddr*, uint32_t*, uint32_t*) {}
inline int PidfdSendSignal(int, int) { return NotSupported(); }
inline int CloseRange(unsigned, unsigned, unsigned) { return NotSupported(); }

struct Credentials {
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

inline int PeerCredentials(int fd, Credentials* peer) {
  if (getpeereid(fd, &peer->uid, &peer->gid) == -1) return -1;
  socklen_t length = sizeof(peer->pid);
  if (getsockopt(fd, SOL_LOCAL, LOCAL_PEERPID, &peer->pid, &length) == -1) peer->pid = 0;
  return 0;
}

struct Queue {
  unsigned length;
  unsigned backlog;
};

inline int ListenQueue(int, Queue*) { return NotSupported(); }

inline ssize_t DescriptorTarget(int, const char* entry, char* target, size_t size) {
  char path[MAXPATHLEN] = "";
  if (fcntl(atoi(entry), F_GETPATH, path) == -1) path[0] = '\0';  // a socket or a pipe has none
  const size_t length = strnlen(path, sizeof(path));
  memcpy(target, path, length < size ? length : size);
  return static_cast<ssize_t>(length < size ? length : size);
}

#endif

}  // namespace fdpass::platform

#endif  // FDPASS_PLATFORM_H_
