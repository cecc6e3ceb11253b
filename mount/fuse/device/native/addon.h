/*
 * The native side of the device binding: what Node.js cannot do by itself. Node-API only.
 *
 * Failures of system calls are returned to JavaScript as negative errno numbers; arguments of a
 * wrong type or size throw a TypeError or RangeError. A channel is known to JavaScript by a number,
 * as a descriptor is to a process: there is no pointer that a caller could forge or keep too long.
 */
#ifndef GFS_FUSE_ADDON_H
#define GFS_FUSE_ADDON_H

#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What `start` and the worker tell the listener; the numbers are repeated in ../addon.ts. */
enum event {
  EVENT_MESSAGE = 0,  /* value: bytes of the message, at the start of the channel's buffer */
  EVENT_END = 1,      /* value: errno of the read that failed; ENODEV: unmounted */
  EVENT_NOTIFIED = 2, /* value: 0 or the negative errno of the oldest notification without one */
  EVENT_CLOSED = 3,   /* the last event; value: 0 */
};

/* arguments.c: each throws and returns false when JavaScript gave something else. */
bool take_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments);
bool take_int(napi_env env, napi_value value, int *result);
bool take_unsigned(napi_env env, napi_value value, uint32_t *result);
bool take_bytes(napi_env env, napi_value value, uint8_t **bytes, size_t *length);
/* A string of at most `size` - 1 bytes of UTF-8 without a NUL inside. */
bool take_string(napi_env env, napi_value value, char *text, size_t size);
napi_value int_value(napi_env env, int64_t number);
/* Throws what Node-API reports, unless something was thrown already. */
bool succeeded(napi_env env, napi_status status);

/* Both return NULL, so that a function can return what they return. */
napi_value throw_type(napi_env env, const char *message);
napi_value throw_range(napi_env env, const char *message);

/* mounting.c */
napi_value js_mount(napi_env env, napi_callback_info info);
napi_value js_socket_pair(napi_env env, napi_callback_info info);
napi_value js_receive_descriptor(napi_env env, napi_callback_info info);

/* channel.c */
bool channels_prepare(napi_env env);
napi_value js_open(napi_env env, napi_callback_info info);
napi_value js_start(napi_env env, napi_callback_info info);
napi_value js_reply(napi_env env, napi_callback_info info);
napi_value js_notify(napi_env env, napi_callback_info info);
napi_value js_close(napi_env env, napi_callback_info info);

/* notifier.c: a thread that writes messages in order. */
struct notifier;
/*
 * 0 or a negative errno. The eventfd `event` tells when there is something to take. Both
 * descriptors stay the caller's, who may close them at any time.
 */
int notifier_start(int device, int event, struct notifier **started);
/* Copies the message. -ENOBUFS when too much is waiting. */
int notifier_push(struct notifier *notifier, const uint8_t *bytes, size_t length);
/* The result of the oldest message that has one; false when there is none. */
bool notifier_take(struct notifier *notifier, int *result);
/* Lets the thread end; what is waiting gets -ECANCELED. Does not wait. */
void notifier_stop(struct notifier *notifier);
/* True when the thread has ended and been freed; `notifier` is gone then. */
bool notifier_reap(struct notifier *notifier);
/* For the end of the process or worker: the thread frees itself when the kernel lets it go. */
void notifier_abandon(struct notifier *notifier);

#endif
