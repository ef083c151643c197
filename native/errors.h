// Errors of the system as JavaScript sees them: code, errno (negative, as in Node), syscall, and what was done to which
// socket. Source: uv_err_name, uv_strerror; errno(3) for the few that libuv has no name for.
#ifndef FDPASS_ERRORS_H_
#define FDPASS_ERRORS_H_

#include <errno.h>
#include <napi.h>

#include <string>

namespace fdpass {

// An Error with `code` ('EBADF'), `errno` (-9), `syscall` ('fcntl') and, where `fd` is not negative, `fd`.
// The message reads "EBADF: bad file descriptor, fcntl (dup of fd 99)": `what` is the part in parentheses.
// `error` is a positive errno. To be thrown: `throw SystemError(info.Env(), errno, "fcntl", "dup of fd 99", 99);`
Napi::Error SystemError(Napi::Env env, int error, const char* syscall, const std::string& what, int fd = -1);

// "ECHILD" and "no child processes" of a positive errno. Never null; for an unknown number "Unknown system error -999".
std::string ErrorName(int error);
std::string ErrorText(int error);

// Calls `call` again for as long as it says -1 and EINTR. Never for close(2), and not for connect(2).
template <typename Call>
auto RetryOnEintr(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

}  // namespace fdpass

#endif  // FDPASS_ERRORS_H_
