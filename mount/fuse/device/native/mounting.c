/* mount(2), and the socket over which fusermount3 hands over a descriptor that it has mounted. */

#include "addon.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

/* mount(2): the data is cut off after a page. */
#define DATA_BYTES_MAX 4096

/* mount(source, target, type, flags, data): 0 or a negative errno. */
napi_value js_mount(napi_env env, napi_callback_info info) {
  napi_value arguments[5];
  char source[PATH_MAX], target[PATH_MAX], type[64], data[DATA_BYTES_MAX];
  uint32_t flags = 0;
  if (!take_arguments(env, info, 5, arguments)) return NULL;
  if (!take_string(env, arguments[0], source, sizeof source)) return NULL;
  if (!take_string(env, arguments[1], target, sizeof target)) return NULL;
  if (!take_string(env, arguments[2], type, sizeof type)) return NULL;
  if (!take_unsigned(env, arguments[3], &flags)) return NULL;
  if (!take_string(env, arguments[4], data, sizeof data)) return NULL;
  return int_value(env, mount(source, target, type, flags, data) == 0 ? 0 : -errno);
}

/* socketPair(): an array of two descriptors, or a negative errno. */
napi_value js_socket_pair(napi_env env, napi_callback_info info) {
  (void)info;
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0)
    return int_value(env, -errno);
  napi_value pair = NULL, one = int_value(env, sockets[0]), other = int_value(env, sockets[1]);
  if (one && other && succeeded(env, napi_create_array_with_length(env, 2, &pair)) &&
      succeeded(env, napi_set_element(env, pair, 0, one)) &&
      succeeded(env, napi_set_element(env, pair, 1, other)))
    return pair;
  close(sockets[0]);
  close(sockets[1]);
  return NULL;
}

/* The first descriptor in a control message; any further ones are closed. -ENOMSG: none. */
static int first_descriptor(struct msghdr *message) {
  int found = -ENOMSG;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int descriptor = -1;
      memcpy(&descriptor, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      if (found < 0) found = descriptor;
      else close(descriptor);
    }
  }
  return found;
}

/* receiveDescriptor(socket): a descriptor or a negative errno. Does not wait: -EAGAIN. */
napi_value js_receive_descriptor(napi_env env, napi_callback_info info) {
  napi_value arguments[1];
  int socket = -1;
  if (!take_arguments(env, info, 1, arguments)) return NULL;
  if (!take_int(env, arguments[0], &socket)) return NULL;
  char byte = 0;
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
  struct iovec part = {.iov_base = &byte, .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &part,
      .msg_iovlen = 1,
      .msg_control = control,
      .msg_controllen = sizeof control,
  };
  ssize_t received = 0;
  do received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (received < 0 && errno == EINTR);
  return int_value(env, received < 0 ? -errno : first_descriptor(&message));
}
