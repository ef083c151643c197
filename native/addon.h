// The addon's parts and what they share. Each concern stands in a file of its own and has one function here, which puts
// its operations into the exports. State lives per environment (one a thread), never in a static.
#ifndef FDPASS_ADDON_H_
#define FDPASS_ADDON_H_

#include <napi.h>

#include <memory>

namespace fdpass {

void ExportDescriptor(Napi::Env env, Napi::Object exports);
void ExportFile(Napi::Env env, Napi::Object exports);
void ExportSocket(Napi::Env env, Napi::Object exports);
void ExportRights(Napi::Env env, Napi::Object exports);
void ExportTransfer(Napi::Env env, Napi::Object exports);
void ExportPoll(Napi::Env env, Napi::Object exports);
void ExportPidfd(Napi::Env env, Napi::Object exports);
void ExportSpawn(Napi::Env env, Napi::Object exports);
void ExportLaunchd(Napi::Env env, Napi::Object exports);

// What one environment holds; ends with it, after every cleanup hook has run. A concern that needs state keeps a struct
// of its own in its own slot; only its own file knows what is in there.
struct AddonState {
  std::shared_ptr<void> poll;
  std::shared_ptr<void> spawn;
};

inline AddonState& State(Napi::Env env) { return *env.GetInstanceData<AddonState>(); }

using Operation = Napi::Value (*)(const Napi::CallbackInfo& info);

// Export<Dup>(exports, "dup"): the function becomes `exports.dup`.
template <Operation operation>
void Export(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<operation>(exports.Env(), name));
}

}  // namespace fdpass

#endif  // FDPASS_ADDON_H_
