// Arguments from JavaScript, checked. The wording is Node's own (lib/internal/errors.js), so that users find what they
// know.
#include "arguments.h"

#include <cmath>

namespace fdpass {

namespace {

constexpr size_t kLongestQuoted = 40;  // characters of a string that an error repeats

template <typename ErrorType>
ErrorType WithCode(ErrorType error, const char* code) {
  error.Set("code", Napi::String::New(error.Env(), code));
  return error;
}

std::string Quoted(const std::string& text) {
  return text.size() > kLongestQuoted ? "'" + text.substr(0, kLongestQuoted) + "'..." : "'" + text + "'";
}

// The value as a programmer would write it. Only for values that no code of the user can be hidden in.
std::string Written(Napi::Value value) {
  if (value.IsString()) return Quoted(value.As<Napi::String>().Utf8Value());
  if (value.IsNumber() || value.IsBoolean()) return value.ToString().Utf8Value();
  if (value.IsBigInt()) return value.ToString().Utf8Value() + "n";
  return Received(value);
}

}  // namespace

std::string Received(Napi::Value value) {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return "type boolean (" + Written(value) + ")";
    case napi_number:
      return "type number (" + Written(value) + ")";
    case napi_string:
      return "type string (" + Written(value) + ")";
    case napi_bigint:
      return "type bigint (" + Written(value) + ")";
    case napi_symbol:
      return "type symbol";
    case napi_function:
      return "a function";
    default:
      return value.IsArray() ? "an array" : "an object";
  }
}

Napi::TypeError InvalidType(Napi::Value value, const std::string& name, const std::string& expected) {
  const std::string message = "The \"" + name + "\" argument must be " + expected + ". Received " + Received(value);
  return WithCode(Napi::TypeError::New(value.Env(), message), "ERR_INVALID_ARG_TYPE");
}

Napi::TypeError InvalidValue(Napi::Value value, const std::string& name, const std::string& reason) {
  const std::string message = "The argument '" + name + "' " + reason + ". Received " + Written(value);
  return WithCode(Napi::TypeError::New(value.Env(), message), "ERR_INVALID_ARG_VALUE");
}

Napi::RangeError OutOfRange(Napi::Env env, const std::string& name, const std::string& expected,
                            const std::string& received) {
  const std::string message =
      "The value of \"" + name + "\" is out of range. It must be " + expected + ". Received " + received;
  return WithCode(Napi::RangeError::New(env, message), "ERR_OUT_OF_RANGE");
}

Napi::RangeError OutOfRange(Napi::Value value, const std::string& name, const std::string& expected) {
  return OutOfRange(value.Env(), name, expected, Written(value));
}

int64_t IntegerValue(Napi::Value value, const std::string& name, int64_t lowest, int64_t highest) {
  if (!value.IsNumber()) throw InvalidType(value, name, "of type number");
  const double number = value.As<Napi::Number>().DoubleValue();
  if (std::trunc(number) != number) throw OutOfRange(value, name, "an integer");  // also NaN: it equals nothing
  if (!(number >= static_cast<double>(lowest) && number <= static_cast<double>(highest))) {
    throw OutOfRange(value, name, ">= " + std::to_string(lowest) + " && <= " + std::to_string(highest));
  }
  return static_cast<int64_t>(number);
}

int DescriptorValue(Napi::Value value, const std::string& name) {
  return static_cast<int>(IntegerValue(value, name, 0, INT_MAX));
}

bool BooleanValue(Napi::Value value, const std::string& name) {
  if (!value.IsBoolean()) throw InvalidType(value, name, "of type boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string StringValue(Napi::Value value, const std::string& name) {
  if (!value.IsString()) throw InvalidType(value, name, "of type string");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) throw InvalidValue(value, name, "must be a string without null bytes");
  return text;
}

Napi::Object ObjectValue(Napi::Value value, const std::string& name) {
  if (value.Type() != napi_object) throw InvalidType(value, name, "of type object");
  return value.As<Napi::Object>();
}

Napi::Function FunctionValue(Napi::Value value, const std::string& name) {
  if (!value.IsFunction()) throw InvalidType(value, name, "of type function");
  return value.As<Napi::Function>();
}

std::span<uint8_t> BytesValue(Napi::Value value, const std::string& name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw InvalidType(value, name, "an instance of Buffer or Uint8Array");
  }
  Napi::Uint8Array bytes = value.As<Napi::Uint8Array>();
  return {bytes.Data(), bytes.ElementLength()};
}

std::span<int32_t> NumbersValue(Napi::Value value, const std::string& name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    throw InvalidType(value, name, "an instance of Int32Array");
  }
  Napi::Int32Array numbers = value.As<Napi::Int32Array>();
  return {numbers.Data(), numbers.ElementLength()};
}

std::vector<std::string> StringsValue(Napi::Value value, const std::string& name) {
  if (!value.IsArray()) throw InvalidType(value, name, "an array of strings");
  Napi::Array array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  std::vector<std::string> strings;
  strings.reserve(length);
  for (uint32_t index = 0; index < length; index++) {
    Napi::HandleScope scope(value.Env());
    strings.push_back(StringValue(array.Get(index), name + "[" + std::to_string(index) + "]"));
  }
  return strings;
}

std::vector<int> DescriptorsValue(Napi::Value value, const std::string& name, uint32_t most) {
  if (!value.IsArray()) throw InvalidType(value, name, "an array of descriptors");
  Napi::Array array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  if (length > most) {
    throw OutOfRange(value.Env(), name + ".length", "<= " + std::to_string(most), std::to_string(length));
  }
  std::vector<int> fds;
  fds.reserve(length);
  for (uint32_t index = 0; index < length; index++) {
    Napi::HandleScope scope(value.Env());
    fds.push_back(DescriptorValue(array.Get(index), name + "[" + std::to_string(index) + "]"));
  }
  return fds;
}

}  // namespace fdpass
