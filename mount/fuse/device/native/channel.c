/*
 * A channel: /dev/fuse of one mount, read on the event loop and written from it.
 *
 *   open ──start──> reading ──close──> closing ──thread ended, handles closed──> freed
 *
 * It is freed only in the last close callback of libuv, a turn of the loop after whatever called
 * close, so nothing here has to look out for a channel that vanishes while it calls JavaScript.
 */

#include "addon.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

/* include/uapi/linux/fuse.h: the kernel refuses to fill a smaller buffer. */
#define FUSE_MIN_READ_BUFFER 8192
/* So many messages per turn of the loop at most, so that timers and sockets have theirs. */
#define MESSAGES_PER_TURN_MAX 64
/* A header, and the pieces of 1 MiB of a file; ../channel.ts joins what is in more. */
#define PARTS_MAX 64
/* Nothing that the kernel takes is longer than a page of data and its header. */
#define NOTIFICATION_BYTES_MAX ((1 << 20) + 4096)

struct channel {
  struct channel *next;
  napi_env env;
  uint32_t id;
  int device;
  napi_ref listener;
  napi_ref buffer;
  napi_async_context context;
  napi_async_cleanup_hook_handle cleanup;
  uv_poll_t poll;
  uv_poll_t notified; /* On `event`. Not uv_async_t: the thread has not the loop's descriptors. */
  int event;
  int handles; /* libuv's that are not closed yet. */
  struct notifier *notifier;
  bool closing;
  bool dying; /* The environment goes: no JavaScript runs any more. */
};

/* All channels of an environment (the main thread's or a worker's). */
struct channels {
  struct channel *first;
  uint32_t last_id;
};

static void delete_references(struct channel *channel) {
  if (channel->listener) napi_delete_reference(channel->env, channel->listener);
  if (channel->buffer) napi_delete_reference(channel->env, channel->buffer);
  if (channel->context) napi_async_destroy(channel->env, channel->context);
}

static void free_channels(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  free(data);
}

bool channels_prepare(napi_env env) {
  struct channels *channels = calloc(1, sizeof *channels);
  if (!channels) {
    napi_throw_error(env, NULL, "out of memory");
    return false;
  }
  if (succeeded(env, napi_set_instance_data(env, channels, free_channels, NULL))) return true;
  free(channels);
  return false;
}

static struct channels *channels_of(napi_env env) {
  void *data = NULL;
  return succeeded(env, napi_get_instance_data(env, &data)) ? data : NULL;
}

/* Calls the listener. What it throws is an uncaught exception of the process, as from a timer. */
static void emit(struct channel *channel, enum event event, int64_t value) {
  if (channel->dying) return;
  napi_env env = channel->env;
  napi_handle_scope scope = NULL;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value listener = NULL, receiver = NULL, thrown = NULL;
  napi_value arguments[2];
  if (napi_get_reference_value(env, channel->listener, &listener) == napi_ok && listener &&
      napi_get_global(env, &receiver) == napi_ok &&
      napi_create_int32(env, event, &arguments[0]) == napi_ok &&
      napi_create_int64(env, value, &arguments[1]) == napi_ok) {
    napi_status status =
        napi_make_callback(env, channel->context, receiver, listener, 2, arguments, NULL);
    if (status == napi_pending_exception &&
        napi_get_and_clear_last_exception(env, &thrown) == napi_ok)
      napi_fatal_exception(env, thrown);
  }
  napi_close_handle_scope(env, scope);
}

static void free_channel(struct channel *channel) {
  if (channel->cleanup) napi_remove_async_cleanup_hook(channel->cleanup);
  if (!channel->dying) delete_references(channel);
  free(channel);
}

static void unlink_channel(struct channel *channel) {
  void *data = NULL;
  if (napi_get_instance_data(channel->env, &data) != napi_ok || !data) return;
  struct channel **link = &((struct channels *)data)->first;
  while (*link && *link != channel) link = &(*link)->next;
  if (*link) *link = channel->next;
}

static void on_handle_closed(uv_handle_t *handle) {
  struct channel *channel = handle->data;
  if (--channel->handles > 0) return;
  bool opened = channel->id != 0;
  if (opened && !channel->dying) {
    unlink_channel(channel);
    emit(channel, EVENT_CLOSED, 0);
  }
  free_channel(channel);
}

static void close_notified(struct channel *channel) {
  uv_poll_stop(&channel->notified);
  uv_close((uv_handle_t *)&channel->notified, on_handle_closed);
  close(channel->event);
  channel->event = -1;
}

static void on_notified(uv_poll_t *handle, int status, int events) {
  (void)status, (void)events;
  struct channel *channel = handle->data;
  uint64_t wakings = 0;
  int result = 0;
  if (read(channel->event, &wakings, sizeof wakings) < 0 && errno != EAGAIN) return;
  while (channel->notifier && notifier_take(channel->notifier, &result))
    emit(channel, EVENT_NOTIFIED, result);
  if (!channel->notifier || !notifier_reap(channel->notifier)) return;
  channel->notifier = NULL;
  close_notified(channel);
}

/*
 * Closing the device ends the requests that were read and not answered, which lets go of the locks
 * that a notification may be waiting for (see notifier.c).
 */
static void begin_close(struct channel *channel) {
  if (channel->closing) return;
  channel->closing = true;
  uv_poll_stop(&channel->poll);
  uv_close((uv_handle_t *)&channel->poll, on_handle_closed);
  close(channel->device);
  channel->device = -1;
  notifier_stop(channel->notifier);
  uv_ref((uv_handle_t *)&channel->notified);
}

/* The process or worker ends with the channel open. A blocked thread is not waited for. */
static void on_cleanup(napi_async_cleanup_hook_handle handle, void *data) {
  (void)handle;
  struct channel *channel = data;
  channel->dying = true;
  begin_close(channel);
  if (!channel->notifier) return; /* Its handles are closing already. */
  notifier_abandon(channel->notifier);
  channel->notifier = NULL;
  close_notified(channel);
}

/* Where the next message goes. JavaScript may have detached the buffer since the last one. */
static bool read_target(struct channel *channel, struct iovec *target) {
  napi_handle_scope scope = NULL;
  napi_value buffer = NULL;
  napi_typedarray_type type = napi_uint8_array;
  if (napi_open_handle_scope(channel->env, &scope) != napi_ok) return false;
  bool found =
      napi_get_reference_value(channel->env, channel->buffer, &buffer) == napi_ok && buffer &&
      napi_get_typedarray_info(channel->env, buffer, &type, &target->iov_len, &target->iov_base,
                               NULL, NULL) == napi_ok;
  napi_close_handle_scope(channel->env, scope);
  return found && target->iov_len >= FUSE_MIN_READ_BUFFER;
}

static void end_reading(struct channel *channel, int error) {
  uv_poll_stop(&channel->poll);
  emit(channel, EVENT_END, error);
}

/*
 * Reads until there is nothing more. ENOENT: the request was interrupted before it was taken.
 * ENODEV: unmounted. libuv reports the device's EPOLLERR as a status; read(2) says what it means.
 */
static void on_readable(uv_poll_t *handle, int status, int events) {
  (void)status, (void)events;
  struct channel *channel = handle->data;
  for (int turn = 0; turn < MESSAGES_PER_TURN_MAX && !channel->closing; turn++) {
    struct iovec target;
    if (!read_target(channel, &target)) return end_reading(channel, EFAULT);
    ssize_t length = read(channel->device, target.iov_base, target.iov_len);
    if (length >= 0) {
      emit(channel, EVENT_MESSAGE, length);
      continue;
    }
    if (errno == EAGAIN) return;
    if (errno != EINTR && errno != ENOENT) return end_reading(channel, errno);
  }
}

/* 0 or a negative errno; then the handles that were made are closing, and free the channel. */
static int start_handles(struct channel *channel, uv_loop_t *loop) {
  channel->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (channel->event < 0) return -errno;
  int failure = uv_poll_init(loop, &channel->notified, channel->event);
  if (failure != 0) {
    close(channel->event);
    return failure;
  }
  channel->handles++;
  failure = uv_poll_start(&channel->notified, UV_READABLE, on_notified);
  uv_unref((uv_handle_t *)&channel->notified); /* Only reading keeps the process alive. */
  if (failure == 0) failure = uv_poll_init(loop, &channel->poll, channel->device);
  if (failure != 0) {
    close_notified(channel);
    return failure;
  }
  channel->handles++;
  failure = notifier_start(channel->device, channel->event, &channel->notifier);
  if (failure == 0) return 0;
  uv_close((uv_handle_t *)&channel->poll, on_handle_closed);
  close_notified(channel);
  return failure;
}

static struct channel *create(napi_env env, int device, napi_value buffer, napi_value listener) {
  struct channel *channel = calloc(1, sizeof *channel);
  if (!channel) {
    napi_throw_error(env, NULL, "out of memory");
    return NULL;
  }
  channel->env = env;
  channel->device = device;
  channel->poll.data = channel;
  channel->notified.data = channel;
  napi_value name = NULL;
  if (succeeded(env, napi_create_string_utf8(env, "gfs_fuse", NAPI_AUTO_LENGTH, &name)) &&
      succeeded(env, napi_async_init(env, NULL, name, &channel->context)) &&
      succeeded(env, napi_create_reference(env, listener, 1, &channel->listener)) &&
      succeeded(env, napi_create_reference(env, buffer, 1, &channel->buffer)) &&
      succeeded(env, napi_add_async_cleanup_hook(env, on_cleanup, channel, &channel->cleanup)))
    return channel;
  free_channel(channel);
  return NULL;
}

/*
 * open(device, buffer, listener): a channel's number, or a negative errno. From then on the channel
 * owns the descriptor, which must be that of a mounted device.
 */
napi_value js_open(napi_env env, napi_callback_info info) {
  napi_value arguments[3];
  napi_valuetype type = napi_undefined;
  uint8_t *bytes = NULL;
  size_t length = 0;
  int device = -1;
  uv_loop_t *loop = NULL;
  struct channels *channels = channels_of(env);
  if (!channels || !take_arguments(env, info, 3, arguments)) return NULL;
  if (!take_int(env, arguments[0], &device)) return NULL;
  if (!take_bytes(env, arguments[1], &bytes, &length)) return NULL;
  if (!succeeded(env, napi_typeof(env, arguments[2], &type))) return NULL;
  if (type != napi_function) return throw_type(env, "the listener is not a function");
  if (length < FUSE_MIN_READ_BUFFER) return throw_range(env, "the buffer is too small");
  if (device < 0) return throw_range(env, "not a descriptor");
  if (!succeeded(env, napi_get_uv_event_loop(env, &loop))) return NULL;
  struct channel *channel = create(env, device, arguments[1], arguments[2]);
  if (!channel) return NULL;
  int failure = start_handles(channel, loop);
  if (failure != 0) {
    /* The descriptor stays the caller's. Without a handle there is no callback to free it. */
    channel->closing = true;
    if (channel->handles == 0) free_channel(channel);
    return int_value(env, failure);
  }
  channel->id = ++channels->last_id;
  channel->next = channels->first;
  channels->first = channel;
  return int_value(env, channel->id);
}

/* The open channel that an argument names; NULL when it is closed or was never there. */
static struct channel *take_channel(napi_env env, napi_value argument) {
  uint32_t id = 0;
  struct channels *channels = channels_of(env);
  if (!channels || !take_unsigned(env, argument, &id)) return NULL;
  struct channel *channel = channels->first;
  while (channel && channel->id != id) channel = channel->next;
  return channel && !channel->closing ? channel : NULL;
}

/* NULL when an exception is on its way, as Node-API wants it. */
static napi_value no_channel(napi_env env) {
  bool pending = true;
  if (napi_is_exception_pending(env, &pending) != napi_ok || pending) return NULL;
  return int_value(env, -ENODEV);
}

/* start(channel): 0 or a negative errno. */
napi_value js_start(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  if (!take_arguments(env, info, 1, arguments)) return NULL;
  struct channel *channel = take_channel(env, arguments[0]);
  if (!channel) return no_channel(env);
  return int_value(env, uv_poll_start(&channel->poll, UV_READABLE, on_readable));
}

/*
 * reply(channel, ...parts): writes the parts as one message; 0 or a negative errno. The parts are
 * arguments and not an array: no getter can run between the look at one and the look at the next.
 */
napi_value js_reply(napi_env env, napi_callback_info info) {
  napi_value arguments[1 + PARTS_MAX];
  size_t count = 1 + PARTS_MAX;
  if (!succeeded(env, napi_get_cb_info(env, info, &count, arguments, NULL, NULL))) return NULL;
  if (count > 1 + PARTS_MAX) return throw_range(env, "too many parts");
  struct channel *channel = take_channel(env, arguments[0]);
  if (!channel) return no_channel(env);
  struct iovec parts[PARTS_MAX];
  for (size_t i = 1; i < count; i++) {
    uint8_t *bytes = NULL;
    if (!take_bytes(env, arguments[i], &bytes, &parts[i - 1].iov_len)) return NULL;
    parts[i - 1].iov_base = bytes;
  }
  ssize_t written = 0;
  do written = writev(channel->device, parts, (int)count - 1);
  while (written < 0 && errno == EINTR);
  return int_value(env, written < 0 ? -errno : 0);
}

/* notify(channel, message): 0 when EVENT_NOTIFIED will tell the result, or a negative errno. */
napi_value js_notify(napi_env env, napi_callback_info info) {
  napi_value arguments[2];
  uint8_t *bytes = NULL;
  size_t length = 0;
  if (!take_arguments(env, info, 2, arguments)) return NULL;
  struct channel *channel = take_channel(env, arguments[0]);
  if (!channel) return no_channel(env);
  if (!take_bytes(env, arguments[1], &bytes, &length)) return NULL;
  if (length > NOTIFICATION_BYTES_MAX) return throw_range(env, "the message is too long");
  return int_value(env, notifier_push(channel->notifier, bytes, length));
}

/* close(channel): begins to, and EVENT_CLOSED says when it is done. 0, or -ENODEV: it is closed. */
napi_value js_close(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  if (!take_arguments(env, info, 1, arguments)) return NULL;
  struct channel *channel = take_channel(env, arguments[0]);
  if (!channel) return no_channel(env);
  begin_close(channel);
  return int_value(env, 0);
}
