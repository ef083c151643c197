// Socket addresses, both ways.
#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstring>

#include "arguments.h"
#include "errors.h"
#include "platform.h"

namespace fdpass {

namespace {

constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);
// One byte is kept for the NUL: Linux would take 108, but then no C program can read the name back.
constexpr size_t kLongestPath = sizeof(sockaddr_un::sun_path) - 1;

void SetInternet(Address& address, Napi::Object object, const std::string& name, bool six) {
  const std::string text = StringValue(object.Get("address"), name + ".address");
  const auto port = static_cast<uint16_t>(IntegerValue(object.Get("port"), name + ".port", 0, 65535));
  if (six) {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    const Napi::Value scope = object.Get("scopeId");
    if (!scope.IsUndefined()) {
      in6->sin6_scope_id = static_cast<uint32_t>(IntegerValue(scope, name + ".scopeId", 0, UINT32_MAX));
    }
    if (inet_pton(AF_INET6, text.c_str(), &in6->sin6_addr) != 1) {
      throw InvalidValue(object.Get("address"), name + ".address", "must be an IPv6 address, as in '::1'");
    }
    address.length = sizeof(sockaddr_in6);
  } else {
    auto* in4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    in4->sin_family = AF_INET;
    in4->sin_port = htons(port);
    if (inet_pton(AF_INET, text.c_str(), &in4->sin_addr) != 1) {
      throw InvalidValue(object.Get("address"), name + ".address", "must be an IPv4 address, as in '127.0.0.1'");
    }
    address.length = sizeof(sockaddr_in);
  }
}

void SetUnix(Address& address, Napi::Object object, const std::string& name) {
  const Napi::Value value = object.Get("path");
  const std::string path = StringValue(value, name + ".path");
  if (path.empty() || path == "@") throw InvalidValue(value, name + ".path", "must not be empty");
  const bool abstract = path[0] == '@';
  if (path.size() > kLongestPath + (abstract ? 1 : 0)) {
    throw OutOfRange(value.Env(), name + ".path", "at most " + std::to_string(kLongestPath) + " bytes long",
                     "'" + path + "', " + std::to_string(path.size() - (abstract ? 1 : 0)) + " bytes");
  }
  if (abstract && !platform::kHasAbstractNames) {
    throw SystemError(value.Env(), ENOTSUP, "socket", "abstract name " + path + ": of Linux alone");
  }
  auto* un = reinterpret_cast<sockaddr_un*>(&address.storage);
  un->sun_family = AF_UNIX;
  std::memcpy(un->sun_path, path.data(), path.size());
  // An abstract name is a NUL and the bytes to the end of the length; a path is followed by its NUL.
  if (abstract) un->sun_path[0] = '\0';
  address.length = static_cast<socklen_t>(kPathOffset + path.size() + (abstract ? 0 : 1));
}

void SetVsock(Address& address, Napi::Object object, const std::string& name) {
  const auto cid = static_cast<uint32_t>(IntegerValue(object.Get("cid"), name + ".cid", 0, UINT32_MAX));
  const auto port = static_cast<uint32_t>(IntegerValue(object.Get("port"), name + ".port", 0, UINT32_MAX));
  if (platform::kVsock == -1) throw SystemError(object.Env(), ENOTSUP, "socket", "vsock: of Linux alone");
  address.length = platform::VsockAddress(address.get(), cid, port);
}

// The name of a Unix socket as we write it: '' unnamed, '@name' abstract, else the path.
std::string UnixPath(const Address& address) {
  if (address.length <= kPathOffset) return "";
  const auto* un = reinterpret_cast<const sockaddr_un*>(&address.storage);
  const size_t size = std::min<size_t>(address.length - kPathOffset, sizeof(sockaddr_storage) - kPathOffset);
  if (un->sun_path[0] == '\0') {
    if (!platform::kHasAbstractNames) return "";  // macOS gives an unnamed socket a full length of zeros
    return "@" + std::string(un->sun_path + 1, size - 1);
  }
  const std::string path(un->sun_path, strnlen(un->sun_path, size));
  return path[0] == '@' ? std::string("./").append(path) : path;  // a relative path that would read as an abstract name
}

std::string InternetText(const Address& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.family() == AF_INET6) {
    inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_addr, text, sizeof(text));
  } else {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_addr, text, sizeof(text));
  }
  return text;
}

uint16_t InternetPort(const Address& address) {
  return ntohs(address.family() == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_port
                                            : reinterpret_cast<const sockaddr_in*>(&address.storage)->sin_port);
}

}  // namespace

Address AddressValue(Napi::Value value, const std::string& name) {
  Napi::Object object = ObjectValue(value, name);
  const Napi::Value familyValue = object.Get("family");
  const std::string family = StringValue(familyValue, name + ".family");

  Address address;
  if (family == "IPv4" || family == "IPv6") {
    SetInternet(address, object, name, family == "IPv6");
  } else if (family == "unix") {
    SetUnix(address, object, name);
  } else if (family == "vsock") {
    SetVsock(address, object, name);
  } else {
    throw InvalidValue(familyValue, name + ".family", "must be one of: 'IPv4', 'IPv6', 'unix', 'vsock'");
  }
  return address;
}

Napi::Value AddressObject(Napi::Env env, const Address& address) {
  Napi::Object object = Napi::Object::New(env);
  switch (address.family()) {
    case AF_INET6:
    case AF_INET: {
      const bool six = address.family() == AF_INET6;
      object.Set("family", six ? "IPv6" : "IPv4");
      object.Set("address", InternetText(address));
      object.Set("port", Napi::Number::New(env, InternetPort(address)));
      if (six) {
        const uint32_t scope = reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_scope_id;
        if (scope != 0) object.Set("scopeId", Napi::Number::New(env, scope));
      }
      return object;
    }
    case AF_UNIX:
      object.Set("family", "unix");
      object.Set("path", UnixPath(address));
      return object;
    default:
      return env.Null();
  }
}

std::string AddressText(const Address& address) {
  switch (address.family()) {
    case AF_INET6: {
      const uint32_t scope = reinterpret_cast<const sockaddr_in6*>(&address.storage)->sin6_scope_id;
      return "[" + InternetText(address) + (scope == 0 ? "" : "%" + std::to_string(scope)) +
             "]:" + std::to_string(InternetPort(address));
    }
    case AF_INET:
      return InternetText(address) + ":" + std::to_string(InternetPort(address));
    case AF_UNIX: {
      const std::string path = UnixPath(address);
      return path.empty() ? "unnamed" : path;
    }
    case platform::kVsock: {
      uint32_t cid = 0;
      uint32_t port = 0;
      platform::ReadVsock(address.get(), &cid, &port);
      return "vsock:" + std::to_string(cid) + ":" + std::to_string(port);
    }
    default:
      return "address family " + std::to_string(address.family());
  }
}

}  // namespace fdpass
