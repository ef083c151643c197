// Readiness on the event loop, for descriptors that Node does not know: uv_poll. It reads and writes nothing.
//
// Three lives that end in any order: the Watch of JavaScript (collected some time), the handle of libuv (in the loop
// until its close callback), the environment (a worker is terminated in the middle). The handle is the one that holds:
// the callback of the user lives as long as it does, and each of the two has a pointer to the other that is cleared
// when either goes. A watch that is not closed goes on though nobody holds its object, as a timer does.
//
// libuv cannot wait for a hang-up alone: such a watch polls a descriptor of its own that is readable for nothing else.
#include <poll.h>
#include <uv.h>

#include <memory>
#include <string>
#include <unordered_map>

#include "addon.h"
#include "arguments.h"
#include "errors.h"
#include "hang_up.h"
#include "unique_fd.h"

namespace fdpass {

namespace {

class Watch;

// What libuv holds. Made with `new`, freed in the close callback and nowhere else.
struct Handle {
  uv_poll_t poll = {};
  Napi::Env env = nullptr;
  int fd = -1;       // what is polled: the user's, or `waiter`
  unique_fd waiter;  // for a hang-up alone, else empty
  int interest = 0;  // UV_READABLE, UV_WRITABLE; 0: stopped
  bool closing = false;
  Watch* owner = nullptr;  // null once the object was collected, or the handle closed
  Napi::FunctionReference callback;
  std::unique_ptr<Napi::AsyncContext> context;
  napi_async_cleanup_hook_handle hook = nullptr;
};

// The open watches of one environment. libuv keeps one watcher a descriptor; it notices only those that run.
struct PollState {
  std::unordered_map<int, Handle*> open;
};

PollState& Watches(Napi::Env env) { return *static_cast<PollState*>(State(env).poll.get()); }

void OnClosed(uv_handle_t* closed) {
  std::unique_ptr<Handle> handle(static_cast<Handle*>(closed->data));
  Napi::HandleScope scope(handle->env);
  handle->callback.Reset();
  handle->context.reset();
  napi_remove_async_cleanup_hook(handle->hook);  // last: a closing environment goes on from here
}

class Watch : public Napi::ObjectWrap<Watch> {
 public:
  // new Watch(fd, events, callback)
  explicit Watch(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Watch>(info) {
    Napi::Env env = info.Env();
    const int fd = DescriptorArgument(info, 0, "fd");
    forHangUp_ = HangUpValue(ObjectArgument(info, 1, "events"));
    const int interest = InterestArgument(info, 1);
    Napi::Function callback = FunctionArgument(info, 2, "callback");

    fd_ = fd;
    if (!forHangUp_ && Watches(env).open.count(fd) != 0) throw Failed(env, EEXIST);
    uv_loop_t* loop = nullptr;
    if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw Napi::Error::New(env);

    auto handle = std::make_unique<Handle>();
    handle->env = env;
    handle->fd = fd;
    if (forHangUp_) {
      handle->waiter = unique_fd(HangUpDescriptor(fd));
      if (!handle->waiter) throw SystemError(env, errno, "epoll_ctl", "watch of fd " + std::to_string(fd), fd);
      handle->fd = handle->waiter.get();
    }
    handle->interest = interest;
    handle->poll.data = handle.get();
    handle->callback = Napi::Persistent(callback);
    handle->context = std::make_unique<Napi::AsyncContext>(env, "fdpass.watch");
    auto [entry, isNew] = Watches(env).open.emplace(handle->fd, handle.get());
    if (!isNew) throw Failed(env, EEXIST);  // a number that was closed below its watch
    int result = uv_poll_init(loop, &handle->poll, handle->fd);
    if (result != 0) {  // libuv does not know the handle then
      Watches(env).open.erase(entry);
      throw Failed(env, -result);
    }
    handle_ = handle.release();  // from here on OnClosed frees it
    handle_->owner = this;
    napi_add_async_cleanup_hook(env, OnEnvironmentEnd, handle_, &handle_->hook);
    result = Start(handle_);
    if (result != 0) {
      CloseHandle(handle_);
      throw Failed(env, -result);
    }
  }

  ~Watch() override {
    if (handle_ != nullptr) handle_->owner = nullptr;
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Watch",
                       {InstanceMethod<&Watch::Update>("update"), InstanceMethod<&Watch::Ref>("ref"),
                        InstanceMethod<&Watch::Unref>("unref"), InstanceMethod<&Watch::Close>("close")});
  }

 private:
  static bool HangUpValue(Napi::Object events) {
    const Napi::Value hangUp = events.Get("hangUp");
    return !hangUp.IsUndefined() && BooleanValue(hangUp, "events.hangUp");
  }

  // What libuv is to wait for. A watch for a hang-up is one for life, and can only rest.
  int InterestArgument(const Napi::CallbackInfo& info, size_t index) const {
    Napi::Object events = ObjectArgument(info, index, "events");
    const Napi::Value readable = events.Get("readable");
    const Napi::Value writable = events.Get("writable");
    int interest = 0;
    if (!readable.IsUndefined() && BooleanValue(readable, "events.readable")) interest |= UV_READABLE;
    if (!writable.IsUndefined() && BooleanValue(writable, "events.writable")) interest |= UV_WRITABLE;
    const bool hangUp = HangUpValue(events);
    if (interest != 0 && (hangUp || forHangUp_)) {
      throw InvalidValue(events, "events", "must not join hangUp with others, which tell of it anyway");
    }
    if (hangUp && !forHangUp_) throw InvalidValue(events, "events", "must be as the watch was made: not for hangUp");
    return hangUp ? UV_READABLE : interest;
  }

  Napi::Error Failed(Napi::Env env, int error) const {
    return SystemError(env, error, "uv_poll", "watch of fd " + std::to_string(fd_), fd_);
  }

  static int Start(Handle* handle) {
    if (handle->interest == 0) return uv_poll_stop(&handle->poll);
    return uv_poll_start(&handle->poll, handle->interest, OnReady);
  }

  static void CloseHandle(Handle* handle) {
    if (handle->closing) return;
    handle->closing = true;
    if (handle->owner != nullptr) handle->owner->handle_ = nullptr;
    handle->owner = nullptr;
    Watches(handle->env).open.erase(handle->fd);
    uv_close(reinterpret_cast<uv_handle_t*>(&handle->poll), OnClosed);
    handle->waiter.reset();  // libuv has let go of it
  }

  // The environment ends: Node waits until OnClosed has removed the hook.
  static void OnEnvironmentEnd(napi_async_cleanup_hook_handle, void* data) { CloseHandle(static_cast<Handle*>(data)); }

  static void OnReady(uv_poll_t* poll, int status, int) {
    auto* handle = static_cast<Handle*>(poll->data);
    if (handle->waiter) {
      if (HasHungUp(handle->fd)) Call(handle, true, false, true);
    } else {
      // libuv hides POLLHUP, and gives POLLERR as EBADF: ask for ourselves. It also tells when another process that
      // shares the queue was faster, and there is nothing left.
      pollfd now = {handle->fd, 0, 0};
      if ((handle->interest & UV_READABLE) != 0) now.events |= POLLIN;
      if ((handle->interest & UV_WRITABLE) != 0) now.events |= POLLOUT;
      if (RetryOnEintr([&] { return ::poll(&now, 1, 0); }) == -1) now.revents = POLLERR;
      const bool error = (now.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
      const bool readable = error || (now.revents & POLLIN) != 0;
      const bool writable = (now.revents & POLLOUT) != 0;
      if (readable || writable) Call(handle, readable, writable, error);
    }

    // After POLLERR libuv has stopped the handle. A watch is level-triggered: it goes on until it is closed or updated.
    if (status != 0 && !handle->closing && handle->interest != 0 &&
        uv_is_active(reinterpret_cast<uv_handle_t*>(poll)) == 0) {
      Start(handle);
    }
  }

  // Through the C interface: whatever goes wrong here has no caller to be thrown at.
  static void Call(Handle* handle, bool readable, bool writable, bool error) {
    napi_env env = handle->env;
    Napi::HandleScope scope(env);
    napi_value events = nullptr;
    napi_value global = nullptr;
    if (napi_create_object(env, &events) != napi_ok || napi_get_global(env, &global) != napi_ok) return;
    const std::pair<const char*, bool> facts[] = {{"readable", readable}, {"writable", writable}, {"error", error}};
    for (const auto& [name, is] : facts) {
      napi_value value = nullptr;
      if (napi_get_boolean(env, is, &value) != napi_ok) return;
      if (napi_set_named_property(env, events, name, value) != napi_ok) return;
    }
    napi_value callback = handle->callback.Value();
    const napi_status status = napi_make_callback(env, *handle->context, global, callback, 1, &events, nullptr);
    if (status != napi_pending_exception) return;  // also: the environment is ending, no code runs any more
    napi_value thrown = nullptr;
    if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok) napi_fatal_exception(env, thrown);
  }

  Napi::Value Update(const Napi::CallbackInfo& info) {
    const int interest = InterestArgument(info, 0);
    if (handle_ == nullptr) throw Failed(info.Env(), EBADF);

    handle_->interest = interest;
    const int result = Start(handle_);
    if (result != 0) throw Failed(info.Env(), -result);
    return info.Env().Undefined();
  }

  Napi::Value Ref(const Napi::CallbackInfo& info) {
    if (handle_ != nullptr) uv_ref(reinterpret_cast<uv_handle_t*>(&handle_->poll));
    return info.Env().Undefined();
  }

  Napi::Value Unref(const Napi::CallbackInfo& info) {
    if (handle_ != nullptr) uv_unref(reinterpret_cast<uv_handle_t*>(&handle_->poll));
    return info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    if (handle_ != nullptr) CloseHandle(handle_);
    return info.Env().Undefined();
  }

  Handle* handle_ = nullptr;
  int fd_ = -1;  // the user's
  bool forHangUp_ = false;
};

}  // namespace

void ExportPoll(Napi::Env env, Napi::Object exports) {
  State(env).poll = std::make_shared<PollState>();
  exports.Set("Watch", Watch::Define(env));
}

}  // namespace fdpass
