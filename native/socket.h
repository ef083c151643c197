// What other concerns need of sockets.
#ifndef FDPASS_SOCKET_H_
#define FDPASS_SOCKET_H_

#include <napi.h>

namespace fdpass {

// The facts of a socket, as `describe` gives them: domain, type, protocol, listening, addresses, cookie, options.
Napi::Object DescribeSocket(Napi::Env env, int fd);

// Compares the cookies of two sockets. True too where this system has none: device and inode must do then.
bool HaveSameCookie(int a, int b);

}  // namespace fdpass

#endif  // FDPASS_SOCKET_H_
