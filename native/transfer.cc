// The same calls as in rights.cc, for a Channel that carries thousands of messages a second: through memory that the
// caller owns and uses again, so that a call makes no object and a message costs little more than its system call.
// Bytes lie in a Uint8Array, descriptors in an Int32Array. What the bytes mean is for lib/channel/.
//
// From the return of recvmsg on a received number stands in that memory, and nothing that follows in the call can fail.
#include <limits.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "addon.h"
#include "arguments.h"
#include "errors.h"
#include "platform.h"
#include "unique_fd.h"

namespace fdpass {

namespace {

constexpr size_t kMaxRights = 253;  // SCM_MAX_FD, unix(7)
// Rights, and what else options of the socket may add: credentials, pidfd, security label, timestamps.
constexpr size_t kControlSize = CMSG_SPACE(kMaxRights * sizeof(int)) + 1024;
constexpr size_t kMostNumbers = kControlSize / sizeof(int);  // more rights than these cannot come in one message

// How receiveMany ended; lib/channel/transfer.ts has the same numbers.
enum State : int32_t { kEmpty = 0, kMore = 1, kEnd = 2, kRightsLost = 3, kBytesLost = 4, kFailed = 5 };

// transfer(fd, bytes, start, end, fds, count): one sendmsg of bytes[start, end) and the first `count` of `fds`. The
// number of bytes that went, with all the rights; -1 where there is no room now. For a Unix socket; where it is a
// stream and there are descriptors, there is a byte: both are the caller's to know. sendmsg(2), MSG_NOSIGNAL |
// MSG_DONTWAIT.
Napi::Value Transfer(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = DescriptorArgument(info, 0, "fd");
  const auto start = static_cast<size_t>(IntegerArgument(info, 2, "start", 0, INT_MAX));
  const auto end = static_cast<size_t>(IntegerArgument(info, 3, "end", 0, INT_MAX));
  const auto count = static_cast<size_t>(IntegerArgument(info, 5, "count", 0, kMaxRights));
  const std::span<uint8_t> bytes = BytesValue(info[1], "bytes");
  if (start > end || end > bytes.size()) throw OutOfRange(info[3], "end", "within the bytes");
  std::span<int32_t> fds;
  if (count > 0) fds = NumbersValue(info[4], "fds");
  if (count > fds.size()) throw OutOfRange(info[5], "count", "<= " + std::to_string(fds.size()));

  iovec part = {bytes.data() + start, end - start};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxRights * sizeof(int))> control;
  if (count > 0) {
    message.msg_control = control.data();
    message.msg_controllen = static_cast<socklen_t>(CMSG_SPACE(count * sizeof(int)));
    std::memset(control.data(), 0, message.msg_controllen);
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = static_cast<socklen_t>(CMSG_LEN(count * sizeof(int)));
    std::memcpy(CMSG_DATA(rights), fds.data(), count * sizeof(int));
  }

  const ssize_t sent = RetryOnEintr([&] { return sendmsg(fd, &message, platform::kSendFlags); });
  if (sent == -1) {
    const int error = errno;
    if (error == EAGAIN || error == EWOULDBLOCK) return Napi::Number::New(env, -1);
    const std::string what = std::to_string(end - start) + " bytes and " + std::to_string(count) +
                             " descriptors on fd " + std::to_string(fd);
    throw SystemError(env, error, "sendmsg", what, fd);
  }
  return Napi::Number::New(env, static_cast<double>(sent));
}

// The rights of a message, as numbers to `fds`, which has room for kMostNumbers. Whatever else is a descriptor is
// closed.
size_t TakeRights(msghdr* message, int32_t* fds) {
  size_t taken = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = platform::NextControl(message, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_RIGHTS) {
      const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      std::memcpy(fds + taken, CMSG_DATA(part), count * sizeof(int));
      taken += count;
    } else if (part->cmsg_type == platform::kScmPidfd && part->cmsg_len >= CMSG_LEN(sizeof(int))) {
      int pidfd = -1;
      std::memcpy(&pidfd, CMSG_DATA(part), sizeof(pidfd));
      const unique_fd unasked(pidfd);  // SO_PASSPIDFD is set: the kernel made it, nobody here has asked for it
    }
  }
  return taken;
}

// receiveMany(fd, bytes, fds, ends, least, most): recvmsg again and again, each of `most` bytes, until nothing waits,
// or there is no longer room for `least` bytes or the descriptors of one more message. In `ends`: [0] how many
// messages, [1] the State, [2] errno where it failed, [3] unused; then for each message where its bytes and its
// descriptors end. A message that was cut is lost, its descriptors are closed, and it is the last. recvmsg(2),
// MSG_CMSG_CLOEXEC | MSG_DONTWAIT.
Napi::Value ReceiveMany(const Napi::CallbackInfo& info) {
  constexpr size_t kHead = 4;
  Napi::Env env = info.Env();
  const int fd = DescriptorArgument(info, 0, "fd");
  const auto least = static_cast<size_t>(IntegerArgument(info, 4, "least", 1, INT_MAX));
  const auto most = static_cast<size_t>(IntegerArgument(info, 5, "most", 1, INT_MAX));
  const std::span<uint8_t> bytes = BytesValue(info[1], "bytes");
  const std::span<int32_t> fds = NumbersValue(info[2], "fds");
  const std::span<int32_t> ends = NumbersValue(info[3], "ends");
  if (ends.size() < kHead + 2) throw OutOfRange(env, "ends.length", ">= 6", std::to_string(ends.size()));
  if (fds.size() < kMostNumbers) {
    throw OutOfRange(env, "fds.length", ">= " + std::to_string(kMostNumbers), std::to_string(fds.size()));
  }

  alignas(cmsghdr) std::array<char, kControlSize> control;
  size_t length = 0;
  size_t rights = 0;
  size_t messages = 0;
  State state = kMore;
  int error = 0;
  while (bytes.size() - length >= least && fds.size() - rights >= kMostNumbers &&
         ends.size() - kHead >= 2 * (messages + 1)) {
    iovec part = {bytes.data() + length, std::min(most, bytes.size() - length)};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    const ssize_t size = RetryOnEintr([&] {
      message.msg_controllen = control.size();
      return platform::ReceiveMessage(fd, &message, MSG_DONTWAIT);
    });
    if (size == -1) {
      error = errno;
      state = error == EAGAIN || error == EWOULDBLOCK ? kEmpty : kFailed;
      break;
    }
    const size_t taken = TakeRights(&message, fds.data() + rights);
    if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
      for (size_t index = 0; index < taken; index++) unique_fd(fds[rights + index]).reset();
      state = (message.msg_flags & MSG_CTRUNC) != 0 ? kRightsLost : kBytesLost;
      break;
    }
    if (size == 0 && taken == 0) {
      state = kEnd;
      break;
    }
    length += static_cast<size_t>(size);
    rights += taken;
    ends[kHead + 2 * messages] = static_cast<int32_t>(length);
    ends[kHead + 2 * messages + 1] = static_cast<int32_t>(rights);
    messages++;
  }
  ends[0] = static_cast<int32_t>(messages);
  ends[1] = state;
  ends[2] = error;
  return env.Undefined();
}

// systemError(error, syscall, what, fd): the Error of an errno that receiveMany told of.
Napi::Value MakeSystemError(const Napi::CallbackInfo& info) {
  const auto error = static_cast<int>(IntegerArgument(info, 0, "error", 1, INT_MAX));
  const std::string syscall = StringArgument(info, 1, "syscall");
  const std::string what = StringArgument(info, 2, "what");
  const int fd = DescriptorArgument(info, 3, "fd");
  return SystemError(info.Env(), error, syscall.c_str(), what, fd).Value();
}

}  // namespace

void ExportTransfer(Napi::Env, Napi::Object exports) {
  Export<Transfer>(exports, "transfer");
  Export<ReceiveMany>(exports, "receiveMany");
  Export<MakeSystemError>(exports, "systemError");
}

}  // namespace fdpass
