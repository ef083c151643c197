// Arguments from JavaScript, checked: type, range, integer. A wrong type is a TypeError (ERR_INVALID_ARG_TYPE), a wrong
// number a RangeError (ERR_OUT_OF_RANGE), a wrong word a TypeError (ERR_INVALID_ARG_VALUE), as in Node; each names the
// argument and says what came. No system call, no policy.
//
// XValue checks a value that was found somewhere (`name` may be a path: "options.fds[2].source"), XArgument the n-th
// argument of a call. Each may run code of the user where the value is an object with getters, or a Proxy: so read
// bytes (BytesValue) last of all, their memory must not move between the check and the system call.
#ifndef FDPASS_ARGUMENTS_H_
#define FDPASS_ARGUMENTS_H_

#include <limits.h>
#include <napi.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fdpass {

// The errors, for checks of one's own. `expected` completes "must be": "of type number", "an array".
// `reason` of InvalidValue completes "The argument 'name' ": "must be one of: 'stream', 'dgram'".
Napi::TypeError InvalidType(Napi::Value value, const std::string& name, const std::string& expected);
Napi::TypeError InvalidValue(Napi::Value value, const std::string& name, const std::string& reason);
Napi::RangeError OutOfRange(Napi::Value value, const std::string& name, const std::string& expected);
Napi::RangeError OutOfRange(Napi::Env env, const std::string& name, const std::string& expected,
                            const std::string& received);

// What came, in a few words: "type string ('3')", "undefined", "an instance of Array".
std::string Received(Napi::Value value);

// An integer from lowest to highest, both included, in the safe range of a JavaScript number.
int64_t IntegerValue(Napi::Value value, const std::string& name, int64_t lowest, int64_t highest);
// A descriptor number, 0 to INT_MAX. Whether it is open is for the kernel to say.
int DescriptorValue(Napi::Value value, const std::string& name);
bool BooleanValue(Napi::Value value, const std::string& name);
// UTF-8. A NUL inside is refused: it would end the string early in every system call.
std::string StringValue(Napi::Value value, const std::string& name);
Napi::Object ObjectValue(Napi::Value value, const std::string& name);
Napi::Function FunctionValue(Napi::Value value, const std::string& name);
// A Uint8Array (a Buffer is one). The memory belongs to JavaScript: good until the next call into it.
std::span<uint8_t> BytesValue(Napi::Value value, const std::string& name);
// An Int32Array. The same holds for its memory.
std::span<int32_t> NumbersValue(Napi::Value value, const std::string& name);
std::vector<std::string> StringsValue(Napi::Value value, const std::string& name);
// At most `most` descriptor numbers.
std::vector<int> DescriptorsValue(Napi::Value value, const std::string& name, uint32_t most);

inline int64_t IntegerArgument(const Napi::CallbackInfo& info, size_t index, const std::string& name, int64_t lowest,
                               int64_t highest) {
  return IntegerValue(info[index], name, lowest, highest);
}
inline int DescriptorArgument(const Napi::CallbackInfo& info, size_t index, const std::string& name) {
  return DescriptorValue(info[index], name);
}
inline bool BooleanArgument(const Napi::CallbackInfo& info, size_t index, const std::string& name) {
  return BooleanValue(info[index], name);
}
inline std::string StringArgument(const Napi::CallbackInfo& info, size_t index, const std::string& name) {
  return StringValue(info[index], name);
}
inline Napi::Object ObjectArgument(const Napi::CallbackInfo& info, size_t index, const std::string& name) {
  return ObjectValue(info[index], name);
}
inline Napi::Function FunctionArgument(const Napi::CallbackInfo& info, size_t index, const std::string& name) {
  return FunctionValue(info[index], name);
}

}  // namespace fdpass

#endif  // FDPASS_ARGUMENTS_H_
