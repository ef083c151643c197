// Children: start a program with exactly the given descriptors, learn that it ended, reap it. Each child is asked for
// by its own pid or pidfd, so that Node's child_process works beside it; no SIGCHLD handler, and nobody waits for "any"
// child. What the child does before it has its program stands in spawn.h. Source: clone(2), execve(2), waitid(2),
// pidfd_open(2).
#include "spawn.h"

#include <dlfcn.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "addon.h"
#include "arguments.h"
#include "errors.h"
#include "unique_fd.h"

namespace fdpass {

namespace {

using spawning::Entry;
using spawning::Failure;
using spawning::Marking;
using spawning::Plan;
using spawning::Step;

// A child, until reap() was given one of its descriptors.
struct Running {
  pid_t pid;
  unique_fd pidfd;
  unique_fd exitPipe = unique_fd();  // see WatchExit
  bool isReaped = false;             // its pid may be another's by now
};

// Threads that this file starts outlive the environment, and could outlive the addon: a worker that loaded it alone
// unloads it with its end. So it stays from then on. dlopen(3), RTLD_NODELETE.
bool KeepLoaded(void* (*code)(void*)) {
  Dl_info self = {};
  if (dladdr(reinterpret_cast<void*>(code), &self) == 0) return false;
  return dlopen(self.dli_fname, RTLD_NOW | RTLD_NODELETE) != nullptr;
}

// A thread that gets no signal and touches no environment. `data` is the thread's where this says 0, else an errno.
int StartThread(void* (*code)(void*), void* data) {
  if (!KeepLoaded(code)) return ENOMEM;
  const spawning::SignalsBlocked blocked;  // inherited: the handlers of this process belong to other threads
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, code, data);
  pthread_attr_destroy(&attributes);
  return error;
}

void* ReapAll(void* data) {
  const std::unique_ptr<std::vector<pid_t>> pids(static_cast<std::vector<pid_t>*>(data));
  for (const pid_t pid : *pids) {
    siginfo_t status = {};
    RetryOnEintr([&] { return waitid(P_PID, static_cast<id_t>(pid), &status, WEXITED); });
  }
  return nullptr;
}

// The children of one environment. Where a worker ends before them, a thread waits for them, so that none stays a
// zombie.
struct Children {
  std::vector<Running> running;

  ~Children() {
    try {
      auto left = std::make_unique<std::vector<pid_t>>();
      for (const Running& child : running) {
        if (child.isReaped) continue;
        siginfo_t status = {};
        if (waitid(P_PID, static_cast<id_t>(child.pid), &status, WEXITED | WNOHANG) == 0 && status.si_pid == 0) {
          left->push_back(child.pid);
        }
      }
      if (left->empty() || spawning::IsMainThread()) return;  // with the process they become another's children
      if (StartThread(ReapAll, left.get()) == 0) static_cast<void>(left.release());
    } catch (const std::bad_alloc&) {  // zombies until the process ends, no worse
    }
  }

  Running* find(pid_t pid) {
    const auto isIt = [&](const Running& child) { return child.pid == pid && !child.isReaped; };
    const auto found = std::find_if(running.begin(), running.end(), isIt);
    return found == running.end() ? nullptr : &*found;
  }

  // The child is reaped. Its descriptors are closed where the caller had one of them: whoever else has one may watch
  // it.
  void forget(pid_t pid, int descriptor) {
    for (Running& child : running) {
      if (child.pid == pid) child.isReaped = true;
    }
    const auto isIt = [&](const Running& child) {
      const bool isTheirs = descriptor >= 0 && (child.pidfd.get() == descriptor || child.exitPipe.get() == descriptor);
      return child.pid == pid && (isTheirs || (!child.pidfd && !child.exitPipe));
    };
    running.erase(std::remove_if(running.begin(), running.end(), isIt), running.end());
  }

  // Of the two descriptors of a child only the pidfd is one that waitid(2) takes.
  bool isExitPipe(pid_t pid, int descriptor) const {
    return std::any_of(running.begin(), running.end(), [&](const Running& child) {
      return child.pid == pid && descriptor >= 0 && child.exitPipe.get() == descriptor;
    });
  }
};

Children& ChildrenOf(Napi::Env env) { return *static_cast<Children*>(State(env).spawn.get()); }

// What was asked for, in memory that the child can use as it is.
struct Request {
  std::string file;
  std::vector<std::string> arguments;
  std::vector<std::string> variables;
  std::string directory;
  std::vector<std::string> pidVariables;
  std::vector<Entry> entries;
  bool newSession = false;
  bool sibling = false;
  // Ways around what this kernel has, so that tests can go them.
  bool withoutPidfd = false;
  bool byFork = false;
  Marking marking = Marking::kCloseRange;
};

Marking MarkingValue(Napi::Value value, const std::string& name) {
  const std::string word = StringValue(value, name);
  if (word == "range") return Marking::kCloseRange;
  if (word == "list") return Marking::kList;
  if (word == "each") return Marking::kEach;
  throw InvalidValue(value, name, "must be one of: 'range', 'list', 'each'");
}

constexpr int kHighestTarget = (1 << 30) - 1;  // nr_open of Linux stays below

std::vector<Entry> EntriesValue(Napi::Value value, const std::string& name) {
  if (!value.IsArray()) throw InvalidType(value, name, "an array of { source, target }");
  Napi::Array array = value.As<Napi::Array>();
  std::vector<Entry> entries;
  const uint32_t length = array.Length();
  for (uint32_t index = 0; index < length; index++) {
    const Napi::HandleScope scope(value.Env());
    const std::string path = name + "[" + std::to_string(index) + "]";
    Napi::Object object = ObjectValue(array.Get(index), path);
    const int source = DescriptorValue(object.Get("source"), path + ".source");
    const Napi::Value targetValue = object.Get("target");
    const int target = static_cast<int>(IntegerValue(targetValue, path + ".target", 0, kHighestTarget));
    for (const Entry& other : entries) {
      if (other.target == target) throw InvalidValue(targetValue, path + ".target", "must not be given twice");
    }
    entries.push_back({source, target});
  }
  return entries;
}

Request RequestArgument(const Napi::CallbackInfo& info, size_t index) {
  Napi::Object object = ObjectArgument(info, index, "options");
  Request request;
  request.file = StringValue(object.Get("file"), "file");
  request.arguments = StringsValue(object.Get("args"), "args");
  request.variables = StringsValue(object.Get("env"), "env");
  request.entries = EntriesValue(object.Get("fds"), "fds");

  const Napi::Value directory = object.Get("cwd");
  if (!directory.IsUndefined()) {
    request.directory = StringValue(directory, "cwd");
    if (request.directory.empty()) throw InvalidValue(directory, "cwd", "must not be empty");
  }
  const Napi::Value pidVariables = object.Get("pidVariable");
  if (!pidVariables.IsUndefined()) request.pidVariables = StringsValue(pidVariables, "pidVariable");
  const Napi::Value newSession = object.Get("newSession");
  if (!newSession.IsUndefined()) request.newSession = BooleanValue(newSession, "newSession");
  const Napi::Value sibling = object.Get("sibling");
  if (!sibling.IsUndefined()) request.sibling = BooleanValue(sibling, "sibling");

  const Napi::Value without = object.Get("fallback");
  if (without.IsUndefined()) return request;
  Napi::Object fallback = ObjectValue(without, "fallback");
  const Napi::Value pidfd = fallback.Get("pidfd");
  if (!pidfd.IsUndefined()) request.withoutPidfd = !BooleanValue(pidfd, "fallback.pidfd");
  const Napi::Value fork = fallback.Get("fork");
  if (!fork.IsUndefined()) request.byFork = BooleanValue(fork, "fallback.fork");
  const Napi::Value marking = fallback.Get("marking");
  if (!marking.IsUndefined()) request.marking = MarkingValue(marking, "fallback.marking");
  return request;
}

bool IsVariable(const std::string& variable, const std::string& name) {
  return variable.size() > name.size() && variable[name.size()] == '=' && variable.compare(0, name.size(), name) == 0;
}

// The paths that execvpe(3) would try: all of PATH, of the child's own environment, where the name holds no slash.
// An empty part is the working directory, and a relative one is below it: that of the child.
std::vector<std::string> Candidates(const Request& request) {
  constexpr size_t kLongestPath = 4096;  // PATH_MAX
  if (request.file.empty() || request.file.find('/') != std::string::npos) return {request.file};

  std::string path = "/usr/local/bin:/bin:/usr/bin";  // where there is no PATH at all
  for (const std::string& variable : request.variables) {
    if (!IsVariable(variable, "PATH")) continue;
    path = variable.substr(5);
    break;
  }
  std::vector<std::string> candidates;
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find(':', start), path.size());
    const std::string part = path.substr(start, end - start);
    if (part.size() + 1 + request.file.size() < kLongestPath) {
      candidates.push_back(part.empty() ? request.file : part + (part.back() == '/' ? "" : "/") + request.file);
    }
    start = end + 1;
  }
  return candidates;
}

// Pointers to strings, with a null behind them, as execve wants them.
std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// One more than any descriptor that can be open; 2^20 is Linux's own default limit for fs.nr_open.
int DescriptorLimit() {
  constexpr rlim_t kMost = 1 << 20;
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == -1) return static_cast<int>(kMost);
  return static_cast<int>(std::min(limit.rlim_cur, kMost));
}

const char* StepName(Step step) {
  switch (step) {
    case Step::kMove:
    case Step::kMark:
      return "fcntl";
    case Step::kPlace:
      return "dup2";
    case Step::kSession:
      return "setsid";
    case Step::kChdir:
      return "chdir";
    default:
      return "execve";
  }
}

std::string ProgramText(const Request& request) {
  const bool searched = request.file.find('/') == std::string::npos;
  return "program \"" + request.file + "\"" + (searched ? ", searched in PATH" : "");
}

// What the user cannot see in the errno alone.
std::string Hint(const Request& request, const std::vector<std::string>& candidates, int error) {
  if (error == ENOEXEC) return "; a script needs a first line as #!/bin/sh";
  if (error == E2BIG) {
    size_t size = 0;
    for (const std::string& text : request.arguments) size += text.size() + 1;
    for (const std::string& text : request.variables) size += text.size() + 1;
    return "; " + std::to_string(size) + " bytes of arguments and environment";
  }
  if (error != ENOENT) return "";
  for (const std::string& path : candidates) {
    const bool isSame = path[0] == '/' || request.directory.empty();  // a relative path is the child's
    if (!path.empty() && isSame && access(path.c_str(), F_OK) == 0) {
      return "; " + path + " is there, but the interpreter that it names is not";
    }
  }
  return "";
}

Napi::Error FailureError(Napi::Env env, const Request& request, const std::vector<std::string>& candidates,
                         const Failure& failure) {
  std::string what = ProgramText(request);
  int fd = -1;
  if (failure.step == Step::kMove || failure.step == Step::kPlace) {
    const auto index = static_cast<size_t>(failure.index);
    if (index < request.entries.size()) {
      const Entry& entry = request.entries[index];
      fd = entry.source;
      what = "fd " + std::to_string(fd) + " as fd " + std::to_string(entry.target) + " of " + what;
    }
  } else if (failure.step == Step::kChdir) {
    what = "working directory \"" + request.directory + "\" of " + what;
  } else if (failure.step == Step::kExec) {
    what += Hint(request, candidates, failure.error);
  }
  Napi::Error error = SystemError(env, failure.error, StepName(failure.step), what, fd);
  if (failure.step == Step::kExec) error.Set("path", Napi::String::New(env, request.file));
  if (failure.step == Step::kChdir) error.Set("path", Napi::String::New(env, request.directory));
  return error;
}

struct Born {
  pid_t pid = -1;
  unique_fd pidfd;
  Failure failure;
};

// Where memory was not shared, the pipe tells: it ends with the exec or with the child, after the failure if there was
// one.
Failure ReadFailure(int pipe) {
  Failure failure;
  const ssize_t size = RetryOnEintr([&] { return read(pipe, &failure, sizeof(failure)); });
  return size == sizeof(failure) ? failure : Failure();
}

// Starts the child and waits until it has its program. The pid is -1 and errno set where there is none.
Born Start(Plan& plan, bool byFork, bool withoutPidfd, unique_fd& reading, unique_fd& writing) {
  Born born;
  int pidfd = -1;
  int error = 0;
  {
    const spawning::SignalsBlocked blocked;
    born.pid = byFork ? spawning::ForkChild(plan) : spawning::CloneChild(plan, withoutPidfd ? nullptr : &pidfd);
    error = errno;
  }
  born.pidfd.reset(pidfd);
  writing.reset();
  errno = error;
  if (born.pid == -1) return born;

  born.failure = plan.begun ? plan.failure : ReadFailure(reading.get());
  if (born.failure.error != 0) {
    siginfo_t status = {};
    RetryOnEintr([&] { return waitid(P_PID, static_cast<id_t>(born.pid), &status, WEXITED); });
  } else if (!born.pidfd && !withoutPidfd) {
    born.pidfd.reset(platform::PidfdOpen(born.pid));  // the child is not reaped, so the pid is its own
  }
  return born;
}

// spawnProcess({ file, args, env, cwd, fds, pidVariable, newSession, sibling }): { pid, pidfd }. Returns, or throws,
// once the child has its program, or is gone. The pidfd is closed by the reap() that finds the child ended; dup it to
// keep it longer.
Napi::Value SpawnProcess(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Request request = RequestArgument(info, 0);

  const std::vector<std::string> candidates = Candidates(request);
  std::vector<const char*> candidatePointers;
  for (const std::string& path : candidates) candidatePointers.push_back(path.c_str());
  candidatePointers.push_back(nullptr);

  for (const std::string& name : request.pidVariables) {
    auto& all = request.variables;
    all.erase(std::remove_if(all.begin(), all.end(), [&](const auto& one) { return IsVariable(one, name); }),
              all.end());
  }
  const size_t firstSlot = request.variables.size();
  for (const std::string& name : request.pidVariables) {
    request.variables.push_back(name + "=" + std::string(spawning::kPidRoom, '\0'));
  }
  std::vector<char*> argumentPointers = Pointers(request.arguments);
  std::vector<char*> variablePointers = Pointers(request.variables);
  std::vector<char*> slots;
  for (size_t index = 0; index < request.pidVariables.size(); index++) {
    slots.push_back(variablePointers[firstSlot + index] + request.pidVariables[index].size() + 1);
  }

  // A program expects its first three to be open: what it opens next would stand in their place.
  const size_t given = request.entries.size();
  unique_fd null;
  for (int standard = 0; standard <= 2; standard++) {
    const auto isIt = [&](const Entry& entry) { return entry.target == standard; };
    if (std::any_of(request.entries.begin(), request.entries.begin() + static_cast<ptrdiff_t>(given), isIt)) continue;
    if (!null) null.reset(RetryOnEintr([] { return open("/dev/null", O_RDWR | O_CLOEXEC); }));
    if (!null) throw SystemError(env, errno, "open", "/dev/null as fd " + std::to_string(standard) + " of a child");
    request.entries.push_back({null.get(), standard});
  }
  std::array<int, 2> pipe = {-1, -1};
  if (spawning::Pipe(pipe.data()) == -1) throw SystemError(env, errno, "pipe2", ProgramText(request));
  unique_fd reading(pipe[0]);
  unique_fd writing(pipe[1]);

  Plan plan;
  plan.entries = request.entries.data();
  plan.entryCount = request.entries.size();
  for (const Entry& entry : request.entries) plan.highestTarget = std::max(plan.highestTarget, entry.target);
  plan.descriptorLimit = DescriptorLimit();
  plan.marking = request.marking;
  plan.directory = request.directory.empty() ? nullptr : request.directory.c_str();
  plan.newSession = request.newSession;
  plan.sibling = request.sibling;
  plan.pidSlots = slots.data();
  plan.pidSlotCount = slots.size();
  plan.arguments = argumentPointers.data();
  plan.variables = variablePointers.data();
  plan.candidates = candidatePointers.data();
  plan.report = writing.get();

  std::vector<Running>& running = ChildrenOf(env).running;
  running.reserve(running.size() + 1);  // nothing may throw between the birth of the child and its place in the list
  Born born = Start(plan, request.byFork, request.withoutPidfd, reading, writing);
  if (born.pid == -1) throw SystemError(env, errno, request.byFork ? "fork" : "clone", ProgramText(request));
  if (born.failure.error != 0) throw FailureError(env, request, candidates, born.failure);
  const int pidfd = born.pidfd.get();
  running.push_back({born.pid, std::move(born.pidfd)});

  Napi::Object result = Napi::Object::New(env);
  result.Set("pid", Napi::Number::New(env, born.pid));
  result.Set("pidfd", pidfd == -1 ? env.Undefined() : Napi::Number::New(env, pidfd));
  return result;
}

// "SIGTERM" of signal(7); "SIG40" for one that has no name.
std::string SignalName(int signal) {
  struct Named {
    int number;
    const char* name;
  };
  static constexpr Named kNames[] = {
      {SIGHUP, "SIGHUP"},       {SIGINT, "SIGINT"},   {SIGQUIT, "SIGQUIT"}, {SIGILL, "SIGILL"},   {SIGTRAP, "SIGTRAP"},
      {SIGABRT, "SIGABRT"},     {SIGBUS, "SIGBUS"},   {SIGFPE, "SIGFPE"},   {SIGKILL, "SIGKILL"}, {SIGUSR1, "SIGUSR1"},
      {SIGSEGV, "SIGSEGV"},     {SIGUSR2, "SIGUSR2"}, {SIGPIPE, "SIGPIPE"}, {SIGALRM, "SIGALRM"}, {SIGTERM, "SIGTERM"},
      {SIGXCPU, "SIGXCPU"},     {SIGXFSZ, "SIGXFSZ"}, {SIGPROF, "SIGPROF"}, {SIGSYS, "SIGSYS"},   {SIGIO, "SIGIO"},
      {SIGVTALRM, "SIGVTALRM"},
#if defined(__linux__)
      {SIGSTKFLT, "SIGSTKFLT"}, {SIGPWR, "SIGPWR"},
#endif
  };
  for (const Named& named : kNames) {
    if (named.number == signal) return named.name;
  }
  return "SIG" + std::to_string(signal);
}

// Asks for one child, by its pidfd where `descriptor` is one. -1 and errno as waitid(2).
int Ask(Napi::Env env, pid_t pid, int descriptor, siginfo_t* status, int options) {
  const int pidfd = ChildrenOf(env).isExitPipe(pid, descriptor) ? -1 : descriptor;
  return RetryOnEintr([&] { return spawning::WaitFor(pid, pidfd, status, options); });
}

int OptionalDescriptor(const Napi::CallbackInfo& info, size_t index) {
  return info[index].IsUndefined() ? -1 : DescriptorArgument(info, index, "descriptor");
}

// reap(pid, descriptor?): undefined while the child runs. waitid(2), WEXITED | WNOHANG. ECHILD: not a child, or reaped
// before. `descriptor` is the pidfd of the child, or what watchExit gave: where the child has ended, both are closed.
Napi::Value Reap(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto pid = static_cast<pid_t>(IntegerArgument(info, 0, "pid", 1, INT_MAX));
  const int descriptor = OptionalDescriptor(info, 1);

  siginfo_t status = {};
  if (Ask(env, pid, descriptor, &status, WEXITED | WNOHANG) == -1) {
    const int error = errno;
    if (error == ECHILD) ChildrenOf(env).forget(pid, descriptor);
    throw SystemError(env, error, "waitid", "pid " + std::to_string(pid));
  }
  if (status.si_pid == 0) return env.Undefined();

  ChildrenOf(env).forget(pid, descriptor);
  const bool exited = status.si_code == CLD_EXITED;
  Napi::Object ended = Napi::Object::New(env);
  ended.Set("exitCode", exited ? Napi::Number::New(env, status.si_status) : env.Null());
  ended.Set("signal", exited ? env.Null() : Napi::String::New(env, SignalName(status.si_status)));
  return ended;
}

// hasEnded(pid, descriptor?): whether reap() would find it ended, or reaped by somebody else. waitid(2), WNOWAIT.
Napi::Value HasEnded(const Napi::CallbackInfo& info) {
  const auto pid = static_cast<pid_t>(IntegerArgument(info, 0, "pid", 1, INT_MAX));
  const int descriptor = OptionalDescriptor(info, 1);

  siginfo_t status = {};
  const int result = Ask(info.Env(), pid, descriptor, &status, WEXITED | WNOHANG | WNOWAIT);
  if (result == -1 && errno == ECHILD && descriptor >= 0) {
    // Another's child: its pidfd tells. (Where one's own was reaped by somebody else, it tells that too.)
    pollfd ending = {descriptor, POLLIN, 0};
    const int ready = RetryOnEintr([&] { return poll(&ending, 1, 0); });
    return Napi::Boolean::New(info.Env(), ready != 0);
  }
  if (result == -1 && errno != ECHILD) throw SystemError(info.Env(), errno, "waitid", "pid " + std::to_string(pid));
  return Napi::Boolean::New(info.Env(), result == -1 || status.si_pid != 0);
}

struct Awaited {
  pid_t pid;
  unique_fd pipe;
};

// Only looks (WNOWAIT): the loop reaps. It has no tie to an environment but the pipe, whose other end may be closed by
// now.
void* AwaitExit(void* data) {
  const std::unique_ptr<Awaited> awaited(static_cast<Awaited*>(data));
  siginfo_t status = {};
  RetryOnEintr([&] { return waitid(P_PID, static_cast<id_t>(awaited->pid), &status, WEXITED | WNOWAIT); });
  return nullptr;
}

// watchExit(pid): a descriptor that becomes readable when this child of spawnProcess has ended, where there is no
// pidfd. A thread a child waits behind it. As with the pidfd, reap() closes it.
Napi::Value WatchExit(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const auto pid = static_cast<pid_t>(IntegerArgument(info, 0, "pid", 1, INT_MAX));
  const std::string what = "watch of pid " + std::to_string(pid);

  Running* child = ChildrenOf(env).find(pid);
  if (child == nullptr) throw SystemError(env, ECHILD, "waitid", what);
  if (child->exitPipe) return Napi::Number::New(env, child->exitPipe.get());
  std::array<int, 2> pipe = {-1, -1};
  if (spawning::Pipe(pipe.data()) == -1) throw SystemError(env, errno, "pipe2", what);
  unique_fd reading(pipe[0]);
  auto awaited = std::make_unique<Awaited>(Awaited{pid, unique_fd(pipe[1])});
  const int error = StartThread(AwaitExit, awaited.get());
  if (error != 0) throw SystemError(env, error, "pthread_create", what);
  static_cast<void>(awaited.release());
  child->exitPipe = std::move(reading);
  return Napi::Number::New(env, child->exitPipe.get());
}

}  // namespace

void ExportSpawn(Napi::Env env, Napi::Object exports) {
  State(env).spawn = std::make_shared<Children>();
  Export<SpawnProcess>(exports, "spawnProcess");
  Export<Reap>(exports, "reap");
  Export<HasEnded>(exports, "hasEnded");
  Export<WatchExit>(exports, "watchExit");
}

}  // namespace fdpass
