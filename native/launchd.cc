// launchd, the supervisor of macOS: its sockets come by a call, and not by variables. Elsewhere ENOTSUP.
// Source: launch(3), launch_activate_socket.
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>

#include <memory>
#include <string>
#include <vector>

#include "addon.h"
#include "arguments.h"
#include "errors.h"
#include "unique_fd.h"

#if defined(__APPLE__)
// <launch.h> is not in every SDK that builds this.
extern "C" int launch_activate_socket(const char* name, int** fds, size_t* count);
#endif

namespace fdpass {

namespace {

// The descriptors of one name in `Sockets`, close-on-exec. An errno where there are none.
int Activate([[maybe_unused]] const std::string& name, [[maybe_unused]] std::vector<unique_fd>& sockets) {
#if defined(__APPLE__)
  int* fds = nullptr;
  size_t count = 0;
  const int error = launch_activate_socket(name.c_str(), &fds, &count);
  if (error != 0) return error;
  const std::unique_ptr<int, decltype(&free)> owner(fds, free);
  sockets.reserve(count);
  for (size_t index = 0; index < count; index++) {
    sockets.emplace_back(fds[index]);
    if (fcntl(fds[index], F_SETFD, FD_CLOEXEC) == -1) return errno;
  }
  return 0;
#else
  return ENOTSUP;
#endif
}

// launchActivateSocket(name): numbers, the caller's.
Napi::Value LaunchActivateSocket(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string name = StringValue(info[0], "name");

  std::vector<unique_fd> sockets;
  const int error = Activate(name, sockets);
  if (error != 0) throw SystemError(env, error, "launch_activate_socket", "\"" + name + "\"");
  Napi::Array numbers = Napi::Array::New(env, sockets.size());
  for (uint32_t index = 0; index < sockets.size(); index++) {
    numbers.Set(index, Napi::Number::New(env, sockets[index].get()));
  }
  for (unique_fd& socket : sockets) static_cast<void>(socket.release());  // JavaScript has them now
  return numbers;
}

}  // namespace

void ExportLaunchd(Napi::Env, Napi::Object exports) { Export<LaunchActivateSocket>(exports, "launchActivateSocket"); }

}  // namespace fdpass
