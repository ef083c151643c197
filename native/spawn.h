// What happens between the birth of a child and its program, and the two ways to be born. Only spawn.cc includes it.
//
// RunChild and what it calls run in the child. That child shares the memory of this process (clone with CLONE_VM, as
// posix_spawn of glibc and musl does it), or has a copy of it that was made while other threads held locks (fork). So
// there: no allocation, no lock, no throw, only async-signal-safe calls; all memory is prepared before, in a Plan.
// Source: vfork(2), clone(2), signal-safety(7), close_range(2), getdents64(2).
#ifndef FDPASS_SPAWN_H_
#define FDPASS_SPAWN_H_

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>

#include "platform.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#endif

// The child never returns from its functions, so the marks that a sanitizer puts on its stack would stay in this
// process.
#define FDPASS_IN_CHILD __attribute__((no_sanitize("address", "thread")))

namespace fdpass::spawning {

// What failed, as a number that the child can write down. StepName knows the system call.
enum class Step : int { kNone, kMove, kMark, kPlace, kSession, kChdir, kExec };

struct Failure {
  int error = 0;  // errno; 0: none
  Step step = Step::kNone;
  int index = 0;  // kMove, kPlace: of the entry; kExec: of the candidate
};

// One descriptor of the child. `copy` is the child's own.
struct Entry {
  int source;
  int target;
  int copy = -1;
};

// How everything else is kept from the program; each falls back on the next.
enum class Marking { kCloseRange, kList, kEach };

// Room for the digits of a pid and a NUL, in the memory of the environment. The child writes them.
constexpr size_t kPidRoom = 11;

struct Plan {
  Entry* entries = nullptr;  // 0, 1 and 2 are always among the targets
  size_t entryCount = 0;
  int highestTarget = 2;
  int descriptorLimit = 0;  // for Marking::kEach: from here on nothing is open
  Marking marking = Marking::kCloseRange;
  const char* directory = nullptr;  // null: stay
  bool newSession = false;
  bool sibling = false;  // a child of this process's parent
  char* const* pidSlots = nullptr;
  size_t pidSlotCount = 0;
  char* const* arguments = nullptr;
  char* const* variables = nullptr;
  const char* const* candidates = nullptr;  // paths to try, in order; ends with a null
  int report = -1;                          // a pipe for the failure, where memory is not shared

  // Written by the child, and seen by this process where memory is shared.
  volatile bool begun = false;
  Failure failure;
};

[[noreturn]] FDPASS_IN_CHILD inline void Fail(Plan& plan, Step step, size_t index, int error) {
  const Failure failure = {error, step, static_cast<int>(index)};
  plan.failure = failure;
  while (write(plan.report, &failure, sizeof(failure)) == -1 && errno == EINTR) {
  }
  _exit(127);
}

#if defined(__linux__)

constexpr size_t kKernelSignalSetSize = 8;  // 64 signals, one bit each

// Blocks every signal of this thread for its lifetime: a handler of this process must not run in a child that shares
// its memory. By number, since the libc's own call leaves out the signals that it keeps for itself.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    const uint64_t all = ~uint64_t{0};
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before_, kKernelSignalSetSize);
  }
  ~SignalsBlocked() { syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, kKernelSignalSetSize); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  uint64_t before_ = 0;
};

// Every disposition to SIG_DFL, the ignored ones too: exec would keep those. The table of dispositions is the child's
// own. By number: sigaction(3) of musl takes a lock. All zero is SIG_DFL, without flags, whatever the order of the
// fields.
FDPASS_IN_CHILD inline void ResetDispositions() {
  alignas(8) const unsigned char kDefault[64] = {};
  for (int signal = 1; signal <= 64; signal++) {
    syscall(SYS_rt_sigaction, signal, kDefault, nullptr, kKernelSignalSetSize);  // SIGKILL, SIGSTOP: EINVAL
  }
}

FDPASS_IN_CHILD inline void EmptyMask() {
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, kKernelSignalSetSize);
}

// From `first` on, by the kernel's own list. False where it cannot be read.
FDPASS_IN_CHILD inline bool MarkListed(int first) {
  struct Header {  // linux_dirent64; the name follows
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
  };
  constexpr size_t kNameOffset = 19;

  const int directory = open(platform::kDescriptorDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory == -1) return false;
  alignas(8) char buffer[2048];
  for (;;) {
    const long size = syscall(SYS_getdents64, directory, buffer, sizeof(buffer));
    if (size == -1) return false;
    if (size == 0) break;
    for (long at = 0; at < size;) {
      const auto* header = reinterpret_cast<const Header*>(buffer + at);
      int fd = 0;
      bool isNumber = false;
      for (const char* digit = buffer + at + kNameOffset; *digit >= '0' && *digit <= '9'; digit++) {
        fd = fd * 10 + (*digit - '0');
        isNumber = true;
      }
      if (isNumber && fd >= first) fcntl(fd, F_SETFD, FD_CLOEXEC);
      at += header->size;
    }
  }
  close(directory);
  return true;
}

FDPASS_IN_CHILD inline bool MarkRange(int first) {
  return platform::CloseRange(static_cast<unsigned>(first), ~0U, platform::kCloseRangeCloexec) == 0;
}

inline int Pipe(int fds[2]) { return pipe2(fds, O_CLOEXEC); }

// waitid(2) for one child, by its pidfd where there is one: another process can never be meant. Linux 5.3 has pidfds
// and no P_PIDFD; until it is reaped a child's pid is its own too.
inline int WaitFor(pid_t pid, int pidfd, siginfo_t* status, int options) {
  if (pidfd >= 0) {
    const int result = waitid(platform::kPidfd, static_cast<id_t>(pidfd), status, options);
    if (result == 0 || errno != EINVAL) return result;
  }
  return waitid(P_PID, static_cast<id_t>(pid), status, options);
}

inline bool IsMainThread() { return syscall(SYS_gettid) == getpid(); }

#elif defined(__APPLE__)

class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

FDPASS_IN_CHILD inline void ResetDispositions() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; signal++) sigaction(signal, &standard, nullptr);
}

FDPASS_IN_CHILD inline void EmptyMask() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

FDPASS_IN_CHILD inline bool MarkListed(int) { return false; }
FDPASS_IN_CHILD inline bool MarkRange(int) { return false; }

inline int Pipe(int fds[2]) {
  if (pipe(fds) == -1) return -1;
  fcntl(fds[0], F_SETFD, FD_CLOEXEC);
  fcntl(fds[1], F_SETFD, FD_CLOEXEC);
  return 0;
}

inline int WaitFor(pid_t pid, int, siginfo_t* status, int options) {
  return waitid(P_PID, static_cast<id_t>(pid), status, options);
}

inline bool IsMainThread() { return pthread_main_np() != 0; }

#endif

// Every descriptor from 3 on becomes close-on-exec; dup2 takes that off again for those of the plan.
FDPASS_IN_CHILD inline void MarkEverything(const Plan& plan) {
  constexpr int kFirst = 3;
  if (plan.marking == Marking::kCloseRange && MarkRange(kFirst)) return;
  if (plan.marking != Marking::kEach && MarkListed(kFirst)) return;
  for (int fd = kFirst; fd < plan.descriptorLimit; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// A copy at a number that is no target: above them all, else, at the limit of descriptors, wherever there is room.
FDPASS_IN_CHILD inline int CopyAside(const Plan& plan, int fd) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, plan.highestTarget + 1);
  if (copy != -1 || errno == EBADF) return copy;
  for (int lowest = 3;; lowest = copy + 1) {
    copy = fcntl(fd, F_DUPFD_CLOEXEC, lowest);
    bool isTarget = false;
    for (size_t index = 0; index < plan.entryCount; index++) isTarget |= plan.entries[index].target == copy;
    if (copy == -1 || !isTarget) return copy;
  }
}

FDPASS_IN_CHILD inline void WritePid(char* slot, pid_t pid) {
  char reversed[kPidRoom];
  size_t length = 0;
  for (; pid > 0; pid /= 10) reversed[length++] = static_cast<char>('0' + pid % 10);
  for (size_t index = 0; index < length; index++) slot[index] = reversed[length - 1 - index];
  slot[length] = '\0';
}

// execvpe(3): a candidate that is not there, or may not be run, is passed over; that there was one of the second kind
// is what is told in the end. A file without a known format is not given to a shell.
FDPASS_IN_CHILD inline void TryCandidates(Plan& plan) {
  int error = ENOENT;
  size_t which = 0;
  bool denied = false;
  for (size_t index = 0; plan.candidates[index] != nullptr; index++) {
    execve(plan.candidates[index], plan.arguments, plan.variables);
    if (!denied) {
      error = errno;
      which = index;
    }
    switch (errno) {
      case EACCES:
        denied = true;
        break;
      case ENOENT:
      case ENOTDIR:
      case ENODEV:
      case ESTALE:
      case ETIMEDOUT:
        break;
      default:
        Fail(plan, Step::kExec, index, errno);
    }
  }
  Fail(plan, Step::kExec, which, error);
}

[[noreturn]] FDPASS_IN_CHILD inline void RunChild(Plan& plan) {
  plan.begun = true;
  ResetDispositions();

  // Aside of all targets first: then no dup2 below can hit a source that is still needed, whatever the cycles, and none
  // is dup2(x, x), which would leave close-on-exec as it is. EINVAL and EBADF speak of a limit here.
  for (size_t index = 0; index < plan.entryCount; index++) {
    Entry& entry = plan.entries[index];
    entry.copy = CopyAside(plan, entry.source);
    if (entry.copy == -1) Fail(plan, Step::kMove, index, errno == EINVAL ? EMFILE : errno);
  }
  const int report = CopyAside(plan, plan.report);
  if (report == -1) Fail(plan, Step::kMove, plan.entryCount, errno == EINVAL ? EMFILE : errno);
  plan.report = report;

  MarkEverything(plan);
  for (size_t index = 0; index < plan.entryCount; index++) {
    const Entry& entry = plan.entries[index];
    int result = dup2(entry.copy, entry.target);
    while (result == -1 && (errno == EINTR || errno == EBUSY)) result = dup2(entry.copy, entry.target);
    if (result == -1) Fail(plan, Step::kPlace, index, errno == EBADF ? EMFILE : errno);
  }

  if (plan.newSession && setsid() == -1) Fail(plan, Step::kSession, 0, errno);
  if (plan.directory != nullptr && chdir(plan.directory) == -1) Fail(plan, Step::kChdir, 0, errno);
  const pid_t pid = getpid();
  for (size_t index = 0; index < plan.pidSlotCount; index++) WritePid(plan.pidSlots[index], pid);

  EmptyMask();  // last: from here on a signal ends the child, as it would end any program
  TryCandidates(plan);
  _exit(127);
}

// fork(2): the child has a copy of the memory.
inline pid_t ForkChild(Plan& plan) {
  const pid_t pid = fork();
  if (pid == 0) RunChild(plan);
  return pid;
}

#if defined(__linux__)

FDPASS_IN_CHILD inline int RunCloned(void* plan) { RunChild(*static_cast<Plan*>(plan)); }

// As vfork(2), with a stack of the child's own: nothing of this process's memory is copied, however large it is, and
// this thread waits until the child has its program or is gone. `pidfd` comes with the birth (CLONE_PIDFD, Linux 5.2),
// so that it names this child for sure; an older kernel leaves it as it is, or says EINVAL.
//
// A sibling (CLONE_PARENT) is reaped by the parent of this process: all that is left here is the pidfd. Without one,
// and for the init of a PID namespace, whose children have nobody else, it becomes a child.
//
// qemu's user mode and the like make a fork of it: `plan.begun` tells.
[[gnu::noinline]] inline pid_t CloneChild(Plan& plan, int* pidfd) {
  constexpr int kFlags = CLONE_VM | CLONE_VFORK | SIGCHLD;
  constexpr int kClonePidfd = 0x1000;          // CLONE_PIDFD
  alignas(16) unsigned char stack[32 * 1024];  // in this frame, which stays while the child uses it
  const auto born = [&](int more) { return clone(RunCloned, stack + sizeof(stack), kFlags | more, &plan, pidfd); };
  if (pidfd != nullptr && plan.sibling) {
    const pid_t pid = born(kClonePidfd | CLONE_PARENT);
    if (pid != -1 || errno != EINVAL) return pid;
  }
  const pid_t pid = pidfd == nullptr ? -1 : born(kClonePidfd);
  if (pid != -1 || (pidfd != nullptr && errno != EINVAL)) return pid;
  return clone(RunCloned, stack + sizeof(stack), kFlags, &plan);
}

#elif defined(__APPLE__)

// vfork(2) is deprecated there, and has become fork(2).
inline pid_t CloneChild(Plan& plan, int*) { return ForkChild(plan); }

#endif

}  // namespace fdpass::spawning

#endif  // FDPASS_SPAWN_H_
