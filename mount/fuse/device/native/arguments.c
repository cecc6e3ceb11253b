/* Checked conversion of what JavaScript passes. */

#include "addon.h"

#include <string.h>

bool succeeded(napi_env env, napi_status status) {
  if (status == napi_ok) return true;
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return false;
  const napi_extended_error_info *info = NULL;
  const char *message = "Node-API failed";
  if (napi_get_last_error_info(env, &info) == napi_ok && info->error_message)
    message = info->error_message;
  napi_throw_type_error(env, NULL, message);
  return false;
}

bool take_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments) {
  size_t given = count;
  if (!succeeded(env, napi_get_cb_info(env, info, &given, arguments, NULL, NULL))) return false;
  if (given >= count) return true;
  napi_throw_type_error(env, NULL, "too few arguments");
  return false;
}

/* Node-API's own conversion would wrap: 2 ** 32 would be the descriptor 0. */
static bool take_whole(napi_env env, napi_value value, double min, double max, double *result) {
  if (!succeeded(env, napi_get_value_double(env, value, result))) return false;
  if (*result >= min && *result <= max && *result == (double)(int64_t)*result) return true;
  napi_throw_range_error(env, NULL, "the number is out of range");
  return false;
}

bool take_int(napi_env env, napi_value value, int *result) {
  double number = 0;
  if (!take_whole(env, value, INT32_MIN, INT32_MAX, &number)) return false;
  *result = (int)number;
  return true;
}

bool take_unsigned(napi_env env, napi_value value, uint32_t *result) {
  double number = 0;
  if (!take_whole(env, value, 0, UINT32_MAX, &number)) return false;
  *result = (uint32_t)number;
  return true;
}

bool take_bytes(napi_env env, napi_value value, uint8_t **bytes, size_t *length) {
  napi_typedarray_type type = napi_int8_array;
  void *data = NULL;
  napi_status status = napi_get_typedarray_info(env, value, &type, length, &data, NULL, NULL);
  if (status != napi_ok || type != napi_uint8_array) {
    napi_throw_type_error(env, NULL, "a Uint8Array was expected");
    return false;
  }
  *bytes = data;
  return true;
}

bool take_string(napi_env env, napi_value value, char *text, size_t size) {
  size_t length = 0;
  if (!succeeded(env, napi_get_value_string_utf8(env, value, NULL, 0, &length))) return false;
  if (length >= size) {
    napi_throw_range_error(env, NULL, "the string is too long");
    return false;
  }
  if (!succeeded(env, napi_get_value_string_utf8(env, value, text, size, &length))) return false;
  if (strlen(text) == length) return true;
  napi_throw_range_error(env, NULL, "the string has a NUL in it");
  return false;
}

napi_value throw_type(napi_env env, const char *message) {
  napi_throw_type_error(env, NULL, message);
  return NULL;
}

napi_value throw_range(napi_env env, const char *message) {
  napi_throw_range_error(env, NULL, message);
  return NULL;
}

napi_value int_value(napi_env env, int64_t number) {
  napi_value value = NULL;
  return succeeded(env, napi_create_int64(env, number, &value)) ? value : NULL;
}
