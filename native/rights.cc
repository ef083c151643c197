// Rights: bytes and descriptors over a Unix socket. unix(7), SCM_RIGHTS; sendmsg(2), recvmsg(2).
// One message a call; what the bytes mean, and which descriptors belong to which of them, is for lib/channel.ts.
//
// A received descriptor is open in this process from the moment recvmsg returns. So everything that could fail is made
// before the call or owns what it holds: no path out of here loses one.
#include <limits.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>

#include "addon.h"
#include "address.h"
#include "arguments.h"
#include "errors.h"
#include "platform.h"
#include "unique_fd.h"

namespace fdpass {

namespace {

constexpr size_t kMaxRights = 253;       // SCM_MAX_FD, unix(7)
constexpr size_t kRoomForOthers = 1024;  // credentials, pidfd, security label, timestamps: each an option of the socket
constexpr size_t kStackBytes = 64 * 1024;  // larger messages are received into the heap
constexpr int64_t kLargestReceive = 1 << 30;

std::string Count(size_t count, const char* singular) {
  return std::to_string(count) + " " + singular + (count == 1 ? "" : "s");
}

bool IsStream(int fd) {
  int type = 0;
  socklen_t length = sizeof(type);
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

// True for a socket that cannot carry descriptors: the kernel would drop them without a word (sock_cmsg_send in
// net/core/sock.c). False where there is no telling: then the kernel says what is wrong.
bool IsNotUnix(int fd) {
  Address address;
  return getsockname(fd, address.get(), &address.length) == 0 && address.family() != AF_UNIX;
}

// send(fd, bytes, fds, to): the number of bytes that went, with all the rights; undefined where there is no room now.
// sendmsg(2), MSG_NOSIGNAL | MSG_DONTWAIT.
Napi::Value Send(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = DescriptorArgument(info, 0, "fd");
  const std::vector<int> fds = DescriptorsValue(info[2], "fds", kMaxRights);
  std::optional<Address> to;
  if (!info[3].IsUndefined()) to = AddressValue(info[3], "to");
  const std::span<uint8_t> bytes = BytesValue(info[1], "bytes");  // last: see arguments.h
  std::string what = Count(bytes.size(), "byte");
  if (!fds.empty()) what += " and " + Count(fds.size(), "descriptor");
  what += " on fd " + std::to_string(fd);
  if (to) what += " to " + AddressText(*to);
  if (!fds.empty() && IsNotUnix(fd)) throw SystemError(env, EINVAL, "sendmsg", what + ", not a Unix socket", fd);
  if (bytes.empty() && !fds.empty() && IsStream(fd)) {
    // The kernel would take them, deliver nothing, and say 0.
    throw OutOfRange(env, "bytes.length", ">= 1: on a stream, descriptors travel with a byte", "0");
  }

  iovec part = {bytes.data(), bytes.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (to) {
    message.msg_name = to->get();
    message.msg_namelen = to->length;
  }
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxRights * sizeof(int))> control = {};
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = static_cast<socklen_t>(CMSG_SPACE(fds.size() * sizeof(int)));
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = static_cast<socklen_t>(CMSG_LEN(fds.size() * sizeof(int)));
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  }

  const ssize_t sent = RetryOnEintr([&] { return sendmsg(fd, &message, platform::kSendFlags); });
  if (sent == -1) {
    const int error = errno;
    if (error == EAGAIN || error == EWOULDBLOCK) return env.Undefined();
    throw SystemError(env, error, "sendmsg", what, fd);
  }
  return Napi::Number::New(env, static_cast<double>(sent));
}

// The descriptors of one message. It owns them until JavaScript has all their numbers.
class Rights {
 public:
  // `message` as recvmsg left it. Allocates nothing.
  explicit Rights(msghdr* message) {
    for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = platform::NextControl(message, part)) {
      if (part->cmsg_level != SOL_SOCKET) continue;
      if (part->cmsg_type == SCM_RIGHTS) {
        const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t index = 0; index < count; index++) Own(part, index);
      } else if (part->cmsg_type == platform::kScmPidfd && part->cmsg_len >= CMSG_LEN(sizeof(int))) {
        // Somebody has set SO_PASSPIDFD: the kernel made a descriptor that nobody here has asked for.
        int pidfd = -1;
        std::memcpy(&pidfd, CMSG_DATA(part), sizeof(pidfd));
        const unique_fd unasked(pidfd);
      } else if (part->cmsg_type == platform::kScmCredentials && part->cmsg_len >= CMSG_LEN(sizeof(credentials_))) {
        std::memcpy(&credentials_, CMSG_DATA(part), sizeof(credentials_));
        hasCredentials_ = true;
      }
    }
  }

  size_t count() const { return count_; }
  const platform::Credentials* credentials() const { return hasCredentials_ ? &credentials_ : nullptr; }

  Napi::Array Numbers(Napi::Env env) const {
    Napi::Array numbers = Napi::Array::New(env, count_);
    for (uint32_t index = 0; index < count_; index++) numbers.Set(index, Napi::Number::New(env, fds_[index].get()));
    return numbers;
  }

  // JavaScript has them now.
  void Release() {
    for (size_t index = 0; index < count_; index++) static_cast<void>(fds_[index].release());
    count_ = 0;
  }

  static constexpr size_t kControlSize = CMSG_SPACE(kMaxRights * sizeof(int)) + kRoomForOthers;

 private:
  void Own(const cmsghdr* part, size_t index) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(part) + index * sizeof(int), sizeof(fd));
    fds_[count_++] = unique_fd(fd);
  }

  std::array<unique_fd, kControlSize / sizeof(int)> fds_;  // as many as the control buffer could hold: never too few
  size_t count_ = 0;
  platform::Credentials credentials_ = {};
  bool hasCredentials_ = false;
};

Napi::Object CredentialsObject(Napi::Env env, const platform::Credentials& credentials) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("pid", Napi::Number::New(env, credentials.pid));
  object.Set("uid", Napi::Number::New(env, credentials.uid));
  object.Set("gid", Napi::Number::New(env, credentials.gid));
  return object;
}

double DescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == -1 || limit.rlim_cur == RLIM_INFINITY) return -1;
  return static_cast<double>(limit.rlim_cur);
}

// receive(fd, size, credentials, from): one message of at most `size` bytes; undefined where none waits.
// recvmsg(2), MSG_CMSG_CLOEXEC | MSG_DONTWAIT, with room for 253 rights.
// A message that did not fit is lost, its descriptors are closed, and the result is { truncated, received, limit }:
// 'rights' where descriptors were lost (MSG_CTRUNC: the kernel says no errno, not even for EMFILE), 'bytes' where the
// end of a datagram was (MSG_TRUNC).
Napi::Value Receive(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = DescriptorArgument(info, 0, "fd");
  const auto size = static_cast<size_t>(IntegerArgument(info, 1, "size", 1, kLargestReceive));
  const bool wantsCredentials = !info[2].IsUndefined() && BooleanArgument(info, 2, "options.credentials");
  const bool wantsFrom = !info[3].IsUndefined() && BooleanArgument(info, 3, "options.from");

  std::array<uint8_t, kStackBytes> stack;
  std::unique_ptr<uint8_t[]> heap;
  if (size > stack.size()) {
    heap.reset(new (std::nothrow) uint8_t[size]);
    if (!heap) throw SystemError(env, ENOMEM, "recvmsg", "a buffer of " + Count(size, "byte"), fd);
  }
  uint8_t* data = heap ? heap.get() : stack.data();

  iovec part = {data, size};
  alignas(cmsghdr) std::array<char, Rights::kControlSize> control;
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  Address from;
  if (wantsFrom) message.msg_name = from.get();
  const ssize_t length = RetryOnEintr([&] {
    message.msg_controllen = control.size();
    if (wantsFrom) message.msg_namelen = from.length;
    return platform::ReceiveMessage(fd, &message, MSG_DONTWAIT);
  });
  if (length == -1) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return env.Undefined();
    throw SystemError(env, errno, "recvmsg", "fd " + std::to_string(fd), fd);
  }
  Rights rights(&message);

  Napi::Object result = Napi::Object::New(env);
  if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
    result.Set("truncated", (message.msg_flags & MSG_CTRUNC) != 0 ? "rights" : "bytes");
    result.Set("received", Napi::Number::New(env, static_cast<double>(rights.count())));
    result.Set("limit", Napi::Number::New(env, DescriptorLimit()));
    return result;
  }
  result.Set("bytes", Napi::Buffer<uint8_t>::Copy(env, data, static_cast<size_t>(length)));
  result.Set("fds", rights.Numbers(env));
  if (wantsCredentials && rights.credentials() != nullptr) {
    result.Set("credentials", CredentialsObject(env, *rights.credentials()));
  }
  if (wantsFrom && message.msg_namelen > 0) {
    from.length = message.msg_namelen;
    const Napi::Value address = AddressObject(env, from);
    if (!address.IsNull()) result.Set("from", address);
  }
  rights.Release();
  return result;
}

}  // namespace

void ExportRights(Napi::Env, Napi::Object exports) {
  Export<Send>(exports, "send");
  Export<Receive>(exports, "receive");
}

}  // namespace fdpass
