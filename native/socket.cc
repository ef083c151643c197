// Sockets: make, bind, listen, connect, shut down, accept; addresses, options, credentials, the queue of a listener.
// One system call a function and no policy: which options a listener wants, and in which order, is for lib/.
#include "socket.h"

#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
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

std::string OfFd(const char* what, int fd) { return std::string(what) + " of fd " + std::to_string(fd); }

int DomainArgument(const Napi::CallbackInfo& info, size_t index) {
  const std::string word = StringArgument(info, index, "domain");
  if (word == "IPv4") return AF_INET;
  if (word == "IPv6") return AF_INET6;
  if (word == "unix") return AF_UNIX;
  if (word == "vsock") {
    if (platform::kVsock == -1) throw SystemError(info.Env(), ENOTSUP, "socket", "vsock: of Linux alone");
    return platform::kVsock;
  }
  throw InvalidValue(info[index], "domain", "must be one of: 'IPv4', 'IPv6', 'unix', 'vsock'");
}

int TypeArgument(const Napi::CallbackInfo& info, size_t index) {
  const std::string word = StringArgument(info, index, "type");
  if (word == "stream") return SOCK_STREAM;
  if (word == "dgram") return SOCK_DGRAM;
  if (word == "seqpacket") return SOCK_SEQPACKET;
  throw InvalidValue(info[index], "type", "must be one of: 'stream', 'dgram', 'seqpacket'");
}

const char* DomainWord(int domain) {
  switch (domain) {
    case AF_INET:
      return "IPv4";
    case AF_INET6:
      return "IPv6";
    case AF_UNIX:
      return "unix";
    case platform::kVsock:
      return "vsock";
    default:
      return "other";
  }
}

const char* TypeWord(int type) {
  switch (type) {
    case SOCK_STREAM:
      return "stream";
    case SOCK_DGRAM:
      return "dgram";
    case SOCK_SEQPACKET:
      return "seqpacket";
    default:
      return "other";
  }
}

// An error of bind or connect carries the address as Node's own does: `address` and, but for a path, `port`.
Napi::Error AddressError(Napi::Env env, int error, const char* syscall, const Address& address, int fd) {
  Napi::Error result = SystemError(env, error, syscall, AddressText(address), fd);
  const Napi::Value value = AddressObject(env, address);
  if (!value.IsObject()) return result;
  Napi::Object object = value.As<Napi::Object>();
  result.Set("address", address.family() == AF_UNIX ? object.Get("path") : object.Get("address"));
  if (address.family() != AF_UNIX) result.Set("port", object.Get("port"));
  return result;
}

// socket(domain, type, protocol): close-on-exec and non-blocking from birth. socket(2).
Napi::Value Socket(const Napi::CallbackInfo& info) {
  const int domain = DomainArgument(info, 0);
  const int type = TypeArgument(info, 1);
  const auto protocol = static_cast<int>(IntegerArgument(info, 2, "protocol", 0, INT_MAX));

  unique_fd made(platform::Socket(domain, type, protocol));
  if (!made) {
    const std::string what = std::string(DomainWord(domain)) + " " + TypeWord(type);
    throw SystemError(info.Env(), errno, "socket",
                      what + (protocol == 0 ? "" : ", protocol " + std::to_string(protocol)));
  }
  return HandOver(info.Env(), std::move(made));
}

// socketPair(type): two Unix sockets, connected to each other. socketpair(2).
Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int type = TypeArgument(info, 0);

  int fds[2] = {-1, -1};
  if (platform::SocketPair(type, fds) == -1) throw SystemError(env, errno, "socketpair", TypeWord(type));
  unique_fd first(fds[0]);
  unique_fd second(fds[1]);
  Napi::Array pair = Napi::Array::New(env, 2);
  pair.Set(uint32_t{0}, Napi::Number::New(env, first.get()));
  pair.Set(uint32_t{1}, Napi::Number::New(env, second.get()));
  static_cast<void>(first.release());
  static_cast<void>(second.release());
  return pair;
}

// bind(fd, address). bind(2).
Napi::Value Bind(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const Address address = AddressValue(info[1], "address");

  if (bind(fd, address.get(), address.length) == -1) throw AddressError(info.Env(), errno, "bind", address, fd);
  return info.Env().Undefined();
}

// listen(fd, backlog). listen(2).
Napi::Value Listen(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const auto backlog = static_cast<int>(IntegerArgument(info, 1, "backlog", 0, INT_MAX));

  if (listen(fd, backlog) == -1) {
    const int error = errno;
    std::string what = "fd " + std::to_string(fd);
    Address address;
    if (getsockname(fd, address.get(), &address.length) == 0) what += ", " + AddressText(address);
    throw SystemError(info.Env(), error, "listen", what, fd);
  }
  return info.Env().Undefined();
}

// connect(fd, address): true where it is connected, false where that is under way. connect(2).
// Not called again on EINTR: the connection goes on by itself, and a second call would say EALREADY.
Napi::Value Connect(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const Address address = AddressValue(info[1], "address");

  if (connect(fd, address.get(), address.length) == -1) {
    if (errno == EINPROGRESS || errno == EINTR) return Napi::Boolean::New(info.Env(), false);
    throw AddressError(info.Env(), errno, "connect", address, fd);
  }
  return Napi::Boolean::New(info.Env(), true);
}

// localAddress(fd). getsockname(2).
Napi::Value LocalAddress(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  Address address;
  if (getsockname(fd, address.get(), &address.length) == -1) {
    throw SystemError(info.Env(), errno, "getsockname", OfFd("local address", fd), fd);
  }
  const Napi::Value result = AddressObject(info.Env(), address);
  if (result.IsNull()) {
    throw SystemError(info.Env(), EAFNOSUPPORT, "getsockname", OfFd("local address", fd) + ", " + AddressText(address),
                      fd);
  }
  return result;
}

// peerAddress(fd). getpeername(2).
Napi::Value PeerAddress(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  Address address;
  if (getpeername(fd, address.get(), &address.length) == -1) {
    throw SystemError(info.Env(), errno, "getpeername", OfFd("peer address", fd), fd);
  }
  const Napi::Value result = AddressObject(info.Env(), address);
  if (result.IsNull()) {
    throw SystemError(info.Env(), EAFNOSUPPORT, "getpeername", OfFd("peer address", fd) + ", " + AddressText(address),
                      fd);
  }
  return result;
}

// shutdown(fd, how). shutdown(2).
Napi::Value Shutdown(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const std::string word = StringArgument(info, 1, "how");
  const int how = word == "read" ? SHUT_RD : word == "write" ? SHUT_WR : word == "both" ? SHUT_RDWR : -1;
  if (how == -1) throw InvalidValue(info[1], "how", "must be one of: 'read', 'write', 'both'");

  if (shutdown(fd, how) == -1) {
    throw SystemError(info.Env(), errno, "shutdown", word + ", fd " + std::to_string(fd), fd);
  }
  return info.Env().Undefined();
}

// accept(fd): one connection, close-on-exec and non-blocking; undefined where none waits. accept4(2).
Napi::Value Accept(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  unique_fd connection(RetryOnEintr([&] { return platform::Accept(fd); }));
  if (!connection) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return info.Env().Undefined();
    throw SystemError(info.Env(), errno, "accept", "fd " + std::to_string(fd), fd);
  }
  return HandOver(info.Env(), std::move(connection));
}

enum class Form { kFlag, kNumber, kText };

struct Option {
  const char* name;
  int level;
  int option;  // -1: not of this system
  Form form;
  bool writable;
};

// socket(7), ip(7), ipv6(7), tcp(7), unix(7). IP_FREEBIND is right for IPv6 too: Linux keeps one flag for both.
constexpr Option kOptions[] = {
    {"reuseAddress", SOL_SOCKET, SO_REUSEADDR, Form::kFlag, true},
    {"reusePort", SOL_SOCKET, SO_REUSEPORT, Form::kFlag, true},
    {"ipv6Only", IPPROTO_IPV6, IPV6_V6ONLY, Form::kFlag, true},
    {"freeBind", IPPROTO_IP, platform::kIpFreeBind, Form::kFlag, true},
    {"deferAccept", IPPROTO_TCP, platform::kTcpDeferAccept, Form::kNumber, true},
    {"fastOpen", IPPROTO_TCP, platform::kTcpFastOpen, Form::kNumber, true},
    {"bindToDevice", SOL_SOCKET, platform::kSoBindToDevice, Form::kText, true},
    {"sendBuffer", SOL_SOCKET, SO_SNDBUF, Form::kNumber, true},
    {"receiveBuffer", SOL_SOCKET, SO_RCVBUF, Form::kNumber, true},
    {"keepAlive", SOL_SOCKET, SO_KEEPALIVE, Form::kFlag, true},
    {"noDelay", IPPROTO_TCP, TCP_NODELAY, Form::kFlag, true},
    {"error", SOL_SOCKET, SO_ERROR, Form::kNumber, false},
    {"type", SOL_SOCKET, SO_TYPE, Form::kNumber, false},
    {"acceptConnections", SOL_SOCKET, SO_ACCEPTCONN, Form::kFlag, false},
    {"passCredentials", SOL_SOCKET, platform::kSoPassCred, Form::kFlag, true},
};

const Option* FindOption(const std::string& name) {
  for (const Option& option : kOptions) {
    if (name == option.name) return &option;
  }
  return nullptr;
}

const Option& OptionArgument(const Napi::CallbackInfo& info, size_t index) {
  const std::string name = StringArgument(info, index, "name");
  if (const Option* option = FindOption(name)) return *option;
  std::string names;
  for (const Option& option : kOptions) names += (names.empty() ? "'" : ", '") + std::string(option.name) + "'";
  throw InvalidValue(info[index], "name", "must be one of: " + names);
}

// The call that is refused where this system has no such option.
int GetSocketOption(int fd, const Option& option, void* value, socklen_t* length) {
  if (option.option == -1) {
    errno = ENOTSUP;
    return -1;
  }
  return getsockopt(fd, option.level, option.option, value, length);
}

std::optional<int> GetNumber(int fd, int level, int option) {
  int value = 0;
  socklen_t length = sizeof(value);
  if (option == -1 || getsockopt(fd, level, option, &value, &length) == -1) return std::nullopt;
  return value;
}

// The value of an option; an empty one where the call fails (errno says why).
Napi::Value ReadOption(Napi::Env env, int fd, const Option& option) {
  if (option.form == Form::kText) {
    std::array<char, IF_NAMESIZE> text = {};
    socklen_t length = text.size();
    if (GetSocketOption(fd, option, text.data(), &length) == -1) return Napi::Value();
    return Napi::String::New(env, text.data(), strnlen(text.data(), length));
  }
  int value = 0;
  socklen_t length = sizeof(value);
  if (GetSocketOption(fd, option, &value, &length) == -1) return Napi::Value();
  return Napi::Number::New(env, option.form == Form::kFlag ? value != 0 : value);  // macOS says the bit's own value
}

// getOption(fd, name). getsockopt(2).
Napi::Value GetOption(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const Option& option = OptionArgument(info, 1);

  const Napi::Value value = ReadOption(info.Env(), fd, option);
  if (value.IsEmpty()) throw SystemError(info.Env(), errno, "getsockopt", OfFd(option.name, fd), fd);
  return value;
}

// setOption(fd, name, value). setsockopt(2).
Napi::Value SetOption(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = DescriptorArgument(info, 0, "fd");
  const Option& option = OptionArgument(info, 1);
  if (!option.writable) throw InvalidValue(info[1], "name", "must be an option that can be set");

  std::string text;
  int number = 0;
  if (option.form == Form::kText) {
    text = StringArgument(info, 2, "value");
    if (text.size() >= IF_NAMESIZE) {
      throw OutOfRange(info[2], "value", "at most " + std::to_string(IF_NAMESIZE - 1) + " bytes long");
    }
  } else if (info[2].IsBoolean() && option.form == Form::kFlag) {
    number = info[2].As<Napi::Boolean>().Value() ? 1 : 0;
  } else {
    number = static_cast<int>(IntegerArgument(info, 2, "value", 0, option.form == Form::kFlag ? 1 : INT_MAX));
  }

  const void* value = option.form == Form::kText ? static_cast<const void*>(text.c_str()) : &number;
  const auto length = static_cast<socklen_t>(option.form == Form::kText ? text.size() + 1 : sizeof(number));
  int result = -1;
  if (option.option == -1) {
    errno = ENOTSUP;
  } else {
    result = setsockopt(fd, option.level, option.option, value, length);
  }
  if (result == -1) {
    const std::string what = option.name + (" = " + (option.form == Form::kText ? text : std::to_string(number)));
    throw SystemError(env, errno, "setsockopt", what + ", fd " + std::to_string(fd), fd);
  }
  return env.Undefined();
}

// listenQueue(fd): how many connections wait, and how many may. tcp(7), TCP_INFO of a listener.
Napi::Value ListenQueue(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  platform::Queue queue = {};
  if (platform::ListenQueue(fd, &queue) == -1) {
    throw SystemError(info.Env(), errno, "getsockopt", OfFd("TCP_INFO of the listener, queue", fd), fd);
  }
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("length", Napi::Number::New(info.Env(), queue.length));
  result.Set("backlog", Napi::Number::New(info.Env(), queue.backlog));
  return result;
}

// peerCredentials(fd): who was at the other end when it connected. unix(7), SO_PEERCRED; getpeereid(3).
Napi::Value PeerCredentials(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  platform::Credentials peer = {};
  int result = platform::PeerCredentials(fd, &peer);
  if (result == 0 && peer.uid == static_cast<uid_t>(-1)) {
    // Linux answers so for a socket without a peer. As a number it would be a user that nobody is: an error is clearer.
    errno = ENOTCONN;
    result = -1;
  }
  if (result == -1) throw SystemError(info.Env(), errno, "getsockopt", OfFd("credentials of the peer", fd), fd);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("pid", Napi::Number::New(info.Env(), peer.pid));
  object.Set("uid", Napi::Number::New(info.Env(), peer.uid));
  object.Set("gid", Napi::Number::New(info.Env(), peer.gid));
  return object;
}

std::optional<uint64_t> CookieOf(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof(cookie);
  if (platform::kSoCookie == -1 || getsockopt(fd, SOL_SOCKET, platform::kSoCookie, &cookie, &length) == -1) {
    return std::nullopt;
  }
  return cookie;
}

// Which of the options say something about such a socket. `error` is not among them: to read it clears it.
bool IsTelling(const Option& option, int domain, int protocol) {
  const std::string name = option.name;
  if (name == "error" || name == "type" || name == "acceptConnections") return false;
  if (name == "passCredentials") return domain == AF_UNIX;
  if (name == "ipv6Only") return domain == AF_INET6;
  if (name == "freeBind" || name == "bindToDevice") return domain == AF_INET || domain == AF_INET6;
  if (option.level == IPPROTO_TCP) return (domain == AF_INET || domain == AF_INET6) && protocol == IPPROTO_TCP;
  return true;
}

}  // namespace

Napi::Object DescribeSocket(Napi::Env env, int fd) {
  Address local;
  Address peer;
  const bool hasLocal = getsockname(fd, local.get(), &local.length) == 0;
  const bool hasPeer = getpeername(fd, peer.get(), &peer.length) == 0;
  const int type = GetNumber(fd, SOL_SOCKET, SO_TYPE).value_or(-1);
  const int domain = GetNumber(fd, SOL_SOCKET, platform::kSoDomain).value_or(hasLocal ? local.family() : -1);
  const bool isInternet = domain == AF_INET || domain == AF_INET6;
  const int usual = !isInternet ? 0 : type == SOCK_STREAM ? IPPROTO_TCP : type == SOCK_DGRAM ? IPPROTO_UDP : 0;
  const int protocol = GetNumber(fd, SOL_SOCKET, platform::kSoProtocol).value_or(usual);

  Napi::Object result = Napi::Object::New(env);
  result.Set("domain", DomainWord(domain));
  result.Set("type", TypeWord(type));
  result.Set("protocol", Napi::Number::New(env, protocol));
  result.Set("listening", Napi::Boolean::New(env, GetNumber(fd, SOL_SOCKET, SO_ACCEPTCONN).value_or(0) != 0));
  if (hasLocal) {
    const Napi::Value address = AddressObject(env, local);
    if (address.IsObject()) result.Set("localAddress", address);
  }
  if (hasPeer) {
    const Napi::Value address = AddressObject(env, peer);
    if (address.IsObject()) result.Set("peerAddress", address);
  }
  if (const auto cookie = CookieOf(fd)) result.Set("cookie", Napi::BigInt::New(env, *cookie));

  Napi::Object options = Napi::Object::New(env);
  for (const Option& option : kOptions) {
    if (!IsTelling(option, domain, protocol)) continue;
    const Napi::Value value = ReadOption(env, fd, option);
    if (value.IsEmpty()) continue;  // not of this kernel
    options.Set(option.name, option.form == Form::kFlag ? value.ToBoolean() : value);
  }
  result.Set("options", options);
  return result;
}

bool HaveSameCookie(int a, int b) {
  const auto first = CookieOf(a);
  const auto second = CookieOf(b);
  return first.has_value() == second.has_value() && first.value_or(0) == second.value_or(0);
}

void ExportSocket(Napi::Env, Napi::Object exports) {
  Export<Socket>(exports, "socket");
  Export<SocketPair>(exports, "socketPair");
  Export<Bind>(exports, "bind");
  Export<Listen>(exports, "listen");
  Export<Connect>(exports, "connect");
  Export<LocalAddress>(exports, "localAddress");
  Export<PeerAddress>(exports, "peerAddress");
  Export<Shutdown>(exports, "shutdown");
  Export<Accept>(exports, "accept");
  Export<GetOption>(exports, "getOption");
  Export<SetOption>(exports, "setOption");
  Export<ListenQueue>(exports, "listenQueue");
  Export<PeerCredentials>(exports, "peerCredentials");
}

}  // namespace fdpass
