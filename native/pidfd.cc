// pidfds: a descriptor that names a process and can never come to name another. Linux; elsewhere ENOTSUP.
// Making children and reaping them is spawn.cc's.
#include <limits.h>
#include <sys/socket.h>

#include <string>

#include "addon.h"
#include "arguments.h"
#include "errors.h"
#include "platform.h"
#include "unique_fd.h"

namespace fdpass {

namespace {

constexpr int kHighestSignal = 64;  // signal(7): SIGRTMAX

// pidfdOpen(pid). pidfd_open(2): close-on-exec by itself.
Napi::Value PidfdOpen(const Napi::CallbackInfo& info) {
  const auto pid = static_cast<pid_t>(IntegerArgument(info, 0, "pid", 1, INT_MAX));

  unique_fd pidfd(platform::PidfdOpen(pid));
  if (!pidfd) throw SystemError(info.Env(), errno, "pidfd_open", "pid " + std::to_string(pid));
  return HandOver(info.Env(), std::move(pidfd));
}

// peerPidfd(fd): of the process at the other end of a Unix socket, as it was when it connected. unix(7), SO_PEERPIDFD:
// close-on-exec by itself.
Napi::Value PeerPidfd(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  int number = -1;
  socklen_t length = sizeof(number);
  int result = -1;
  if (platform::kSoPeerPidfd == -1) {
    errno = ENOTSUP;
  } else {
    result = getsockopt(fd, SOL_SOCKET, platform::kSoPeerPidfd, &number, &length);
  }
  if (result == -1) {
    throw SystemError(info.Env(), errno, "getsockopt", "pidfd of the peer of fd " + std::to_string(fd), fd);
  }
  return HandOver(info.Env(), unique_fd(number));
}

// pidfdSignal(pidfd, signal): 0 only asks whether the process is there. pidfd_send_signal(2).
Napi::Value PidfdSignal(const Napi::CallbackInfo& info) {
  const int pidfd = DescriptorArgument(info, 0, "pidfd");
  const auto signal = static_cast<int>(IntegerArgument(info, 1, "signal", 0, kHighestSignal));

  if (platform::PidfdSendSignal(pidfd, signal) == -1) {
    const std::string what = "signal " + std::to_string(signal) + " by pidfd " + std::to_string(pidfd);
    throw SystemError(info.Env(), errno, "pidfd_send_signal", what, pidfd);
  }
  return info.Env().Undefined();
}

}  // namespace

void ExportPidfd(Napi::Env, Napi::Object exports) {
  Export<PidfdOpen>(exports, "pidfdOpen");
  Export<PeerPidfd>(exports, "peerPidfd");
  Export<PidfdSignal>(exports, "pidfdSignal");
}

}  // namespace fdpass
