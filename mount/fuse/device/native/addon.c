/* The functions that JavaScript sees; ../addon.ts has their types. */

#include "addon.h"

NAPI_MODULE_INIT() {
  static const struct {
    const char *name;
    napi_callback function;
  } functions[] = {
      {"mount", js_mount},
      {"socketPair", js_socket_pair},
      {"receiveDescriptor", js_receive_descriptor},
      {"open", js_open},
      {"start", js_start},
      {"reply", js_reply},
      {"notify", js_notify},
      {"close", js_close},
  };
  if (!channels_prepare(env)) return NULL;
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function = NULL;
    if (!succeeded(env, napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH,
                                             functions[i].function, NULL, &function)) ||
        !succeeded(env, napi_set_named_property(env, exports, functions[i].name, function)))
      return NULL;
  }
  return exports;
}
