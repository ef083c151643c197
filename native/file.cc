// Files that serve as a means: memory to hand over, and the lock of a directory. Nothing here reads or writes a byte.
#include <fcntl.h>
#include <sys/file.h>

#include <cstdlib>
#include <string>

#include "addon.h"
#include "arguments.h"
#include "errors.h"
#include "platform.h"
#include "unique_fd.h"

namespace fdpass {

namespace {

constexpr size_t kLongestMemoryName = 249;  // memfd_create(2): NAME_MAX less "memfd:"

// A file without a name, for systems without memfd_create(2).
int UnlinkedFile(std::string* path) {
  const char* directory = std::getenv("TMPDIR");
  *path = std::string(directory != nullptr && directory[0] == '/' ? directory : "/tmp") + "/fdpass-XXXXXX";
  unique_fd file(mkostemp(path->data(), O_CLOEXEC));
  if (!file || unlink(path->c_str()) == -1) return -1;
  return file.release();
}

// memoryFile(name): an empty file in memory. memfd_create(2), MFD_CLOEXEC; elsewhere an unlinked temporary file.
Napi::Value MemoryFile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string name = StringArgument(info, 0, "name");
  if (name.size() > kLongestMemoryName) {
    throw OutOfRange(env, "name", "at most " + std::to_string(kLongestMemoryName) + " bytes long",
                     std::to_string(name.size()) + " bytes");
  }

  unique_fd file(platform::MemoryFile(name.c_str()));
  if (!file && (errno == ENOSYS || errno == ENOTSUP)) {
    std::string path;
    file.reset(UnlinkedFile(&path));
    if (!file) throw SystemError(env, errno, "mkostemp", path);
  }
  if (!file) throw SystemError(env, errno, "memfd_create", name);
  return HandOver(env, std::move(file));
}

// flock(fd, operation): true where the lock is had (or let go), false where another holds it. flock(2), LOCK_NB.
Napi::Value Flock(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int fd = DescriptorArgument(info, 0, "fd");
  const std::string word = StringArgument(info, 1, "operation");

  int operation = 0;
  if (word == "exclusive") {
    operation = LOCK_EX;
  } else if (word == "shared") {
    operation = LOCK_SH;
  } else if (word == "unlock") {
    operation = LOCK_UN;
  } else {
    throw InvalidValue(info[1], "operation", "must be one of: 'exclusive', 'shared', 'unlock'");
  }

  if (RetryOnEintr([&] { return flock(fd, operation | LOCK_NB); }) == -1) {
    if (errno == EWOULDBLOCK) return Napi::Boolean::New(env, false);
    throw SystemError(env, errno, "flock", word + " of fd " + std::to_string(fd), fd);
  }
  return Napi::Boolean::New(env, true);
}

}  // namespace

void ExportFile(Napi::Env, Napi::Object exports) {
  Export<MemoryFile>(exports, "memoryFile");
  Export<Flock>(exports, "flock");
}

}  // namespace fdpass
