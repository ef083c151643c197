// Socket addresses: from an object of JavaScript ({ family, address, port }, { family: 'unix', path } or
// { family: 'vsock', cid, port }) to a sockaddr and, but for vsock, back; and as text for messages. Pure: no system
// call. Source: ip(7), ipv6(7), unix(7), vsock(7).
#ifndef FDPASS_ADDRESS_H_
#define FDPASS_ADDRESS_H_

#include <napi.h>
#include <sys/socket.h>

#include <string>

namespace fdpass {

struct Address {
  sockaddr_storage storage = {};
  socklen_t length = sizeof(sockaddr_storage);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
};

// Reads and checks; `name` is the argument's. Throws as arguments.h says; ENOTSUP for an abstract name, or vsock, on
// macOS.
Address AddressValue(Napi::Value value, const std::string& name);

// As getsockname, getpeername filled it in. Null where the family is none of the first three.
Napi::Value AddressObject(Napi::Env env, const Address& address);

// "127.0.0.1:80", "[::1]:80", "/run/a.sock", "@name", "vsock:2:1234"; "unnamed" for a Unix socket without a name.
std::string AddressText(const Address& address);

}  // namespace fdpass

#endif  // FDPASS_ADDRESS_H_
