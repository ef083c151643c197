// unique_fd: the owner of one descriptor, from the call that makes it until JavaScript has its number.
// It knows nothing of what the number names. It never retries close(2), and never changes errno.
#ifndef FDPASS_UNIQUE_FD_H_
#define FDPASS_UNIQUE_FD_H_

#include <errno.h>
#include <napi.h>
#include <unistd.h>

#include <utility>

namespace fdpass {

class unique_fd {
 public:
  unique_fd() = default;
  explicit unique_fd(int fd) : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(other.release()) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  unique_fd(const unique_fd&) = delete;
  unique_fd& operator=(const unique_fd&) = delete;
  ~unique_fd() { reset(); }

  // True where it holds a descriptor: false for the -1 of a call that failed.
  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }

  // Gives the number away; whoever takes it must close it.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

  // Closes what it holds and takes `fd`. The number is free even where close(2) says EINTR: a second close could
  // hit the descriptor of another thread. errno is kept, so that the error of the call before can still be read.
  void reset(int fd = -1) {
    const int old = std::exchange(fd_, fd);
    if (old < 0) return;
    const int saved = errno;
    close(old);
    errno = saved;
  }

 private:
  int fd_ = -1;
};

// Gives the descriptor to JavaScript. It is let go only once the number exists there: where that fails, it is closed.
inline Napi::Value HandOver(Napi::Env env, unique_fd&& fd) {
  Napi::Number number = Napi::Number::New(env, fd.get());
  static_cast<void>(fd.release());
  return number;
}

}  // namespace fdpass

#endif  // FDPASS_UNIQUE_FD_H_
