{
  # In a checkout a warning is an error; with a user's compiler, of whatever age, it is not.
  "variables": {"werror": ["<!(node -p \"require('fs').existsSync('tsconfig.json') ? '-Werror' : '-Wno-error'\")"]},
  "targets": [
    {
      "target_name": "fdpass",
      "sources": ["<!@(node -p \"require('fs').readdirSync('native').filter((name) => name.endsWith('.cc')).map((name) => 'native/' + name).join(' ')\")"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": [
        "NAPI_VERSION=8",
        "NAPI_CPP_EXCEPTIONS",
        # ALL: a std::bad_alloc becomes an Error too, instead of the end of the process.
        "NODE_ADDON_API_CPP_EXCEPTIONS_ALL",
        # A throw in a worker that is being terminated would end the whole process.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      ],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc!": ["-fno-exceptions", "-std=gnu++17", "-std=gnu++20"],
      # restrict: gcc 12 sees an overlap in every "text" + std::string (GCC bug 105651); clang does not know the word.
      "cflags_cc": [
        "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", "<@(werror)",
        "-Wno-unknown-warning-option", "-Wno-restrict",
      ],
      "conditions": [
        # Without the version script the addon exports the C++ runtime, and clashes with Node's own.
        ["OS=='linux'", {"ldflags": ["-Wl,--version-script=<(module_root_dir)/exports.map"]}],
        [
          "OS=='mac'",
          {
            "xcode_settings": {
              "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
              "CLANG_CXX_LIBRARY": "libc++",
              "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
              "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
              "GCC_WARN_ABOUT_MISSING_NEWLINE": "YES",
              "MACOSX_DEPLOYMENT_TARGET": "11.0",
              "OTHER_CPLUSPLUSFLAGS": ["-Wall", "-Wextra", "<@(werror)"],
            },
          },
        ],
      ],
    }
  ]
}
