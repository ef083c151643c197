// Errors of the system as JavaScript sees them. Nothing here makes a system call.
#include "errors.h"

#include <uv.h>

#include <array>

namespace fdpass {

namespace {

struct Named {
  int error;
  const char* name;
  const char* text;
};

// What libuv has no name for and our calls can say: waitid, execve, sendmsg, flock.
constexpr Named kUnknownToLibuv[] = {
    {ECHILD, "ECHILD", "no child processes"},
    {ENOEXEC, "ENOEXEC", "exec format error"},
    {ETOOMANYREFS, "ETOOMANYREFS", "too many references: cannot splice"},
    {ENOLCK, "ENOLCK", "no locks available"},
    {EDEADLK, "EDEADLK", "resource deadlock avoided"},
    {EDQUOT, "EDQUOT", "disk quota exceeded"},
    {EBADMSG, "EBADMSG", "bad message"},
    {EUSERS, "EUSERS", "too many users"},
    {ESTALE, "ESTALE", "stale file handle"},
#if defined(__linux__)
    {ELIBBAD, "ELIBBAD", "accessing a corrupted shared library"},
    {ENOMEDIUM, "ENOMEDIUM", "no medium found"},
    {ENOKEY, "ENOKEY", "required key not available"},
    {ENOPKG, "ENOPKG", "package not installed"},
#endif
};

const Named* Find(int error) {
  for (const Named& named : kUnknownToLibuv) {
    if (named.error == error) return &named;
  }
  return nullptr;
}

}  // namespace

std::string ErrorName(int error) {
  if (const Named* named = Find(error)) return named->name;
  std::array<char, 64> name;
  return uv_err_name_r(-error, name.data(), name.size());  // uv_err_name would leak for a number it does not know
}

std::string ErrorText(int error) {
  if (const Named* named = Find(error)) return named->text;
  std::array<char, 128> text;
  return uv_strerror_r(-error, text.data(), text.size());
}

Napi::Error SystemError(Napi::Env env, int error, const char* syscall, const std::string& what, int fd) {
  const std::string name = ErrorName(error);
  std::string message = name + ": " + ErrorText(error) + ", " + syscall;
  if (!what.empty()) message += " (" + what + ")";

  Napi::Error result = Napi::Error::New(env, message);
  result.Set("code", Napi::String::New(env, name));
  result.Set("errno", Napi::Number::New(env, -error));
  result.Set("syscall", Napi::String::New(env, syscall));
  if (fd >= 0) result.Set("fd", Napi::Number::New(env, fd));
  return result;
}

}  // namespace fdpass
