// Descriptors: duplicate, close, the close-on-exec and non-blocking flags, what a number names, which are open.
// One system call a function and no policy: nothing here knows what a listener is.
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "addon.h"
#include "arguments.h"
#include "errors.h"
#include "platform.h"
#include "socket.h"
#include "unique_fd.h"

namespace fdpass {

namespace {

std::string OfFd(const char* what, int fd) { return std::string(what) + " of fd " + std::to_string(fd); }

// dup(fd, lowest): the first free number that is not below `lowest`. fcntl(2), F_DUPFD_CLOEXEC.
// Not dup(2) and then FD_CLOEXEC: another thread may fork between the two calls, and its child would keep the copy.
Napi::Value Dup(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const int lowest = DescriptorArgument(info, 1, "lowest");

  unique_fd copy(fcntl(fd, F_DUPFD_CLOEXEC, lowest));
  if (!copy) throw SystemError(info.Env(), errno, "fcntl", OfFd("dup", fd), fd);
  return HandOver(info.Env(), std::move(copy));
}

// dupTo(fd, target): at exactly this number; what was open there is closed in the same step. dup3(2), O_CLOEXEC.
Napi::Value DupTo(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const int target = DescriptorArgument(info, 1, "target");

  unique_fd copy(RetryOnEintr([&] { return platform::DupTo(fd, target); }));
  if (!copy) {
    throw SystemError(info.Env(), errno, "dup3", OfFd("dup", fd) + " to fd " + std::to_string(target), fd);
  }
  return HandOver(info.Env(), std::move(copy));
}

// close(fd). close(2). Never again on EINTR: the number is free already, and may be another thread's by now.
Napi::Value Close(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  if (close(fd) == -1 && errno != EINTR) throw SystemError(info.Env(), errno, "close", "fd " + std::to_string(fd), fd);
  return info.Env().Undefined();
}

// closeAll(fds, count): an array; or the first `count` numbers of an Int32Array, in which negative ones are passed
// over. close_range(2) for numbers that follow each other, as those of one message do; close(2). Says nothing of what
// they say: none of the numbers is in use any more.
Napi::Value CloseAll(const Napi::CallbackInfo& info) {
  std::vector<int> numbers;
  std::span<int32_t> fds;
  if (!info[0].IsTypedArray()) {
    numbers = DescriptorsValue(info[0], "fds", INT_MAX);
    fds = numbers;
  } else {
    const auto most = static_cast<size_t>(IntegerArgument(info, 1, "count", 0, INT_MAX));
    fds = NumbersValue(info[0], "fds");  // last: see arguments.h
    if (most > fds.size()) throw OutOfRange(info[1], "count", "<= " + std::to_string(fds.size()));
    fds = fds.first(most);
  }
  const size_t count = fds.size();

  for (size_t first = 0; first < count;) {
    size_t next = first + 1;
    if (fds[first] >= 0) {
      while (next < count && fds[next] - int64_t{1} == fds[next - 1]) next++;
      const auto low = static_cast<unsigned>(fds[first]);
      const auto high = static_cast<unsigned>(fds[next - 1]);
      if (next - first == 1 || platform::CloseRange(low, high, 0) == -1) {
        for (size_t index = first; index < next; index++) close(fds[index]);
      }
    }
    first = next;
  }
  return info.Env().Undefined();
}

// getCloseOnExec(fd). fcntl(2), F_GETFD.
Napi::Value GetCloseOnExec(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  const int flags = fcntl(fd, F_GETFD);
  if (flags == -1) throw SystemError(info.Env(), errno, "fcntl", OfFd("close-on-exec", fd), fd);
  return Napi::Boolean::New(info.Env(), (flags & FD_CLOEXEC) != 0);
}

// setCloseOnExec(fd, on): of this number alone, not of its dups. fcntl(2), F_SETFD.
Napi::Value SetCloseOnExec(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const bool on = BooleanArgument(info, 1, "on");

  const int flags = fcntl(fd, F_GETFD);
  if (flags == -1 || fcntl(fd, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC) == -1) {
    throw SystemError(info.Env(), errno, "fcntl", OfFd("close-on-exec", fd), fd);
  }
  return info.Env().Undefined();
}

// getNonBlocking(fd). fcntl(2), F_GETFL.
Napi::Value GetNonBlocking(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");

  const int flags = fcntl(fd, F_GETFL);
  if (flags == -1) throw SystemError(info.Env(), errno, "fcntl", OfFd("non-blocking", fd), fd);
  return Napi::Boolean::New(info.Env(), (flags & O_NONBLOCK) != 0);
}

// setNonBlocking(fd, on): of the description, so of every dup in every process. fcntl(2), F_SETFL.
Napi::Value SetNonBlocking(const Napi::CallbackInfo& info) {
  const int fd = DescriptorArgument(info, 0, "fd");
  const bool on = BooleanArgument(info, 1, "on");

  const int flags = fcntl(fd, F_GETFL);
  if (flags == -1 || fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) == -1) {
    throw SystemError(info.Env(), errno, "fcntl", OfFd("non-blocking", fd), fd);
  }
  return info.Env().Undefined();
}

const char* KindOf(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFSOCK:
      return "socket";
    case S_IFREG:
      return "file";
    case S_IFDIR:
      return "directory";
    case S_IFIFO:
      return "pipe";
    case S_IFCHR:
      return "character";
    case S_IFBLK:
      return "block";
    case 0:
      return "anonymous";  // epoll, eventfd, pidfd: they have no type
    default:
      return "unknown";
  }
}

// describe(fd). fstat(2), fcntl(2); for a socket getsockopt(2), getsockname(2), getpeername(2).
Napi::Value Describe(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = DescriptorArgument(info, 0, "fd");

  struct stat facts = {};
  if (fstat(fd, &facts) == -1) throw SystemError(env, errno, "fstat", OfFd("description", fd), fd);
  const int flags = fcntl(fd, F_GETFD);
  const int status = fcntl(fd, F_GETFL);
  if (flags == -1 || status == -1) throw SystemError(env, errno, "fcntl", OfFd("description", fd), fd);

  Napi::Object result = Napi::Object::New(env);
  result.Set("fd", Napi::Number::New(env, fd));
  result.Set("kind", KindOf(facts.st_mode));
  result.Set("device", Napi::BigInt::New(env, static_cast<uint64_t>(facts.st_dev)));
  result.Set("inode", Napi::BigInt::New(env, static_cast<uint64_t>(facts.st_ino)));
  result.Set("closeOnExec", Napi::Boolean::New(env, (flags & FD_CLOEXEC) != 0));
  result.Set("nonBlocking", Napi::Boolean::New(env, (status & O_NONBLOCK) != 0));
  if (S_ISSOCK(facts.st_mode)) result.Set("socket", DescribeSocket(env, fd));
  return result;
}

// isSame(a, b): do both numbers name one open file description? kcmp(2), KCMP_FILE.
// Where the kernel or a sandbox does not allow that (ENOSYS, EPERM): device and inode, and the cookie of a socket.
// A socket has one description and one inode, so the answer is as good. Two open(2) of one file look the same then, and
// what has no inode of its own (eventfd, epoll) is told to be different.
Napi::Value IsSame(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int a = DescriptorArgument(info, 0, "a");
  const int b = DescriptorArgument(info, 1, "b");

  struct stat first = {};
  struct stat second = {};
  if (fstat(a, &first) == -1) throw SystemError(env, errno, "fstat", OfFd("comparison", a), a);
  if (fstat(b, &second) == -1) throw SystemError(env, errno, "fstat", OfFd("comparison", b), b);
  if (a == b) return Napi::Boolean::New(env, true);

  const int order = platform::CompareFiles(a, b);
  if (order != -1) return Napi::Boolean::New(env, order == 0);
  bool same = first.st_dev == second.st_dev && first.st_ino == second.st_ino && (first.st_mode & S_IFMT) != 0;
  if (same && S_ISSOCK(first.st_mode)) same = HaveSameCookie(a, b);
  return Napi::Boolean::New(env, same);
}

struct OpenDescriptor {
  int fd;
  std::string target;
};

// openDescriptors(): every open number of this process and what it points at, in order. proc(5), /proc/self/fd.
// One that another thread closes meanwhile may be missing or be there; the directory's own number is left out.
Napi::Value OpenDescriptors(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();

  std::vector<OpenDescriptor> found;
  {
    std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(platform::kDescriptorDirectory), closedir);
    if (!directory) throw SystemError(env, errno, "opendir", platform::kDescriptorDirectory);
    while (true) {
      errno = 0;
      const dirent* entry = readdir(directory.get());
      if (entry == nullptr) break;
      if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;  // . and ..
      const int fd = std::atoi(entry->d_name);
      if (fd == dirfd(directory.get())) continue;
      char target[PATH_MAX];
      const ssize_t size = platform::DescriptorTarget(dirfd(directory.get()), entry->d_name, target, sizeof(target));
      if (size >= 0) found.push_back({fd, std::string(target, static_cast<size_t>(size))});
    }
    if (errno != 0) throw SystemError(env, errno, "readdir", platform::kDescriptorDirectory);
  }

  Napi::Array list = Napi::Array::New(env, found.size());
  for (uint32_t index = 0; index < found.size(); index++) {
    Napi::HandleScope scope(env);
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("fd", Napi::Number::New(env, found[index].fd));
    entry.Set("target", found[index].target);
    list.Set(index, entry);
  }
  return list;
}

}  // namespace

void ExportDescriptor(Napi::Env, Napi::Object exports) {
  Export<Dup>(exports, "dup");
  Export<DupTo>(exports, "dupTo");
  Export<Close>(exports, "close");
  Export<CloseAll>(exports, "closeAll");
  Export<GetCloseOnExec>(exports, "getCloseOnExec");
  Export<SetCloseOnExec>(exports, "setCloseOnExec");
  Export<GetNonBlocking>(exports, "getNonBlocking");
  Export<SetNonBlocking>(exports, "setNonBlocking");
  Export<Describe>(exports, "describe");
  Export<IsSame>(exports, "isSame");
  Export<OpenDescriptors>(exports, "openDescriptors");
}

}  // namespace fdpass
