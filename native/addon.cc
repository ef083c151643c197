// The entry of the addon. Node calls it once an environment: in the main thread and in every worker that loads it.
#include "addon.h"

namespace fdpass {

namespace {

Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new AddonState());  // Node-API deletes it with the environment
  ExportDescriptor(env, exports);
  ExportFile(env, exports);
  ExportSocket(env, exports);
  ExportRights(env, exports);
  ExportTransfer(env, exports);
  ExportPoll(env, exports);
  ExportPidfd(env, exports);
  ExportSpawn(env, exports);
  ExportLaunchd(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(NODE_GYP_MODULE_NAME, Initialize)

}  // namespace fdpass
