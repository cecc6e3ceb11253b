/*
 * Notifications (FUSE_NOTIFY_INVAL_ENTRY and so on) block in the kernel on the lock of an inode or
 * a page. Who holds that lock may be waiting for an answer from this very process, so they are
 * written by a thread that nothing waits for.
 *
 * That thread also must not keep the device from being closed. A write(2) in progress holds a
 * reference to its open file, and the thread, which cannot be killed while it waits for the lock,
 * holds one to the process's table of descriptors: the driver's end would not release the device,
 * so the requests that it has taken would never be ended, and the lock never be released. So the
 * thread has a table of its own with nothing in it but a clone of the device (FUSE_DEV_IOC_CLONE)
 * and an eventfd. When the process closes the device or dies, the kernel ends the requests that
 * were read from it.
 */

#include "addon.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* include/uapi/linux/fuse.h; not included, as older headers lack it. Since Linux 4.2. */
#define FUSE_DEV_IOC_CLONE _IOR(229, 0, uint32_t)

/* close_range(2), since Linux 5.9; the number is the same on all architectures. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define CLOSE_RANGE_UNSHARE (1U << 1)

/*
 * Waiting messages take at most this much. An invalidation has under 400 bytes, so this is room for
 * tens of thousands: more than a kernel that lets go of its locks at all leaves behind.
 */
#define WAITING_BYTES_MAX ((size_t)8 << 20)

struct job {
  struct job *next;
  int result;
  size_t length;
  uint8_t bytes[];
};

struct jobs {
  struct job *first, **end;
};

struct notifier {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  pthread_t thread;
  int device, event; /* The channel's descriptors; the thread looks at them until `ready`. */
  /* All below is guarded by the mutex. */
  struct jobs waiting, done;
  size_t waiting_bytes;
  int failure; /* Why the thread has no descriptor, as a negative errno. */
  bool ready, stopping, ended, abandoned;
};

static void append(struct jobs *jobs, struct job *job) {
  job->next = NULL;
  *jobs->end = job;
  jobs->end = &job->next;
}

static struct job *shift(struct jobs *jobs) {
  struct job *job = jobs->first;
  if (!job) return NULL;
  jobs->first = job->next;
  if (!jobs->first) jobs->end = &jobs->first;
  return job;
}

static void free_jobs(struct jobs *jobs) {
  for (struct job *job = shift(jobs); job; job = shift(jobs)) free(job);
}

static void free_notifier(struct notifier *notifier) {
  free_jobs(&notifier->waiting);
  free_jobs(&notifier->done);
  pthread_cond_destroy(&notifier->changed);
  pthread_mutex_destroy(&notifier->mutex);
  free(notifier);
}

/* What the thread uses: descriptors of its own. */
struct descriptors {
  int device, event;
};

/* Leaves this thread alone with two descriptors in a table of its own. */
static bool own_table(struct descriptors two) {
  unsigned low = (unsigned)(two.device < two.event ? two.device : two.event);
  unsigned high = (unsigned)(two.device < two.event ? two.event : two.device);
  if (syscall(SYS_close_range, high + 1, ~0U, CLOSE_RANGE_UNSHARE) != 0) return false;
  if (low > 0) syscall(SYS_close_range, 0U, low - 1, 0U);
  if (high > low + 1) syscall(SYS_close_range, low + 1, high - 1, 0U);
  return true;
}

/* Another open file of the same connection, or -1. */
static int clone_device(int device) {
  uint32_t original = (uint32_t)device;
  int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (clone < 0 || ioctl(clone, FUSE_DEV_IOC_CLONE, &original) == 0) return clone;
  close(clone);
  return -1;
}

/*
 * Makes the thread's own descriptors. Where a table of its own or a clone is not to be had, because
 * the kernel is older than 5.9 or the user may not open /dev/fuse and fusermount3 did it, there are
 * duplicates instead; then a blocked notification can keep the device open until it is aborted.
 */
static int own_descriptors(struct descriptors given, struct descriptors *own) {
  *own = given;
  if (!own_table(given)) {
    own->device = fcntl(given.device, F_DUPFD_CLOEXEC, 0);
    own->event = fcntl(given.event, F_DUPFD_CLOEXEC, 0);
    if (own->device < 0 || own->event < 0) return -errno;
  }
  int clone = clone_device(own->device);
  if (clone < 0) return 0;
  close(own->device);
  own->device = clone;
  return 0;
}

static void wake(int event) {
  uint64_t one = 1;
  /* It can only fail when the counter is full, and then the loop wakes up anyway. */
  if (write(event, &one, sizeof one) < 0) return;
}

static int write_whole(int device, const uint8_t *bytes, size_t length) {
  ssize_t written = 0;
  do written = write(device, bytes, length);
  while (written < 0 && errno == EINTR);
  return written < 0 ? -errno : 0;
}

static void *run(void *argument) {
  struct notifier *notifier = argument;
  struct descriptors own;
  int failure = own_descriptors((struct descriptors){notifier->device, notifier->event}, &own);
  pthread_mutex_lock(&notifier->mutex);
  notifier->failure = failure;
  notifier->ready = true;
  pthread_cond_signal(&notifier->changed);
  while (failure == 0) {
    struct job *job = shift(&notifier->waiting);
    if (!job && notifier->stopping) break;
    if (!job) {
      pthread_cond_wait(&notifier->changed, &notifier->mutex);
      continue;
    }
    notifier->waiting_bytes -= sizeof *job + job->length;
    if (notifier->stopping) {
      job->result = -ECANCELED;
    } else {
      pthread_mutex_unlock(&notifier->mutex);
      job->result = write_whole(own.device, job->bytes, job->length);
      pthread_mutex_lock(&notifier->mutex);
    }
    append(&notifier->done, job);
    wake(own.event);
  }
  /* Closed here: who joins a thread may go on before the kernel has closed its descriptors. */
  if (own.device >= 0) close(own.device);
  notifier->ended = true;
  bool mine = notifier->abandoned;
  wake(own.event);
  if (own.event >= 0) close(own.event);
  pthread_mutex_unlock(&notifier->mutex);
  if (mine) free_notifier(notifier);
  return NULL;
}

/* Signals are for the main thread. */
static int create_thread(struct notifier *notifier) {
  sigset_t all, before;
  sigfillset(&all);
  int error = pthread_sigmask(SIG_SETMASK, &all, &before);
  if (error != 0) return -error;
  error = pthread_create(&notifier->thread, NULL, run, notifier);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return -error;
}

int notifier_start(int device, int event, struct notifier **started) {
  struct notifier *notifier = calloc(1, sizeof *notifier);
  if (!notifier) return -ENOMEM;
  pthread_mutex_init(&notifier->mutex, NULL);
  pthread_cond_init(&notifier->changed, NULL);
  notifier->waiting.end = &notifier->waiting.first;
  notifier->done.end = &notifier->done.first;
  notifier->device = device;
  notifier->event = event;
  int failure = create_thread(notifier);
  if (failure != 0) {
    free_notifier(notifier);
    return failure;
  }
  pthread_mutex_lock(&notifier->mutex);
  while (!notifier->ready) pthread_cond_wait(&notifier->changed, &notifier->mutex);
  failure = notifier->failure;
  pthread_mutex_unlock(&notifier->mutex);
  if (failure != 0) {
    pthread_join(notifier->thread, NULL);
    free_notifier(notifier);
    return failure;
  }
  *started = notifier;
  return 0;
}

int notifier_push(struct notifier *notifier, const uint8_t *bytes, size_t length) {
  size_t size = sizeof(struct job) + length;
  struct job *job = malloc(size);
  if (!job) return -ENOMEM;
  job->result = 0;
  job->length = length;
  if (length > 0) memcpy(job->bytes, bytes, length);
  int result = 0;
  pthread_mutex_lock(&notifier->mutex);
  if (notifier->stopping) {
    result = -ENODEV;
  } else if (size > WAITING_BYTES_MAX - notifier->waiting_bytes) {
    result = -ENOBUFS;
  } else {
    notifier->waiting_bytes += size;
    append(&notifier->waiting, job);
    pthread_cond_signal(&notifier->changed);
  }
  pthread_mutex_unlock(&notifier->mutex);
  if (result != 0) free(job);
  return result;
}

bool notifier_take(struct notifier *notifier, int *result) {
  pthread_mutex_lock(&notifier->mutex);
  struct job *job = shift(&notifier->done);
  pthread_mutex_unlock(&notifier->mutex);
  if (!job) return false;
  *result = job->result;
  free(job);
  return true;
}

void notifier_stop(struct notifier *notifier) {
  pthread_mutex_lock(&notifier->mutex);
  notifier->stopping = true;
  pthread_cond_signal(&notifier->changed);
  pthread_mutex_unlock(&notifier->mutex);
}

bool notifier_reap(struct notifier *notifier) {
  pthread_mutex_lock(&notifier->mutex);
  bool ended = notifier->ended;
  pthread_mutex_unlock(&notifier->mutex);
  if (!ended) return false;
  /* It may still be on its way out of the mutex. */
  pthread_join(notifier->thread, NULL);
  free_notifier(notifier);
  return true;
}

void notifier_abandon(struct notifier *notifier) {
  pthread_mutex_lock(&notifier->mutex);
  bool ended = notifier->ended;
  notifier->stopping = true;
  notifier->abandoned = true;
  if (!ended) pthread_detach(notifier->thread);
  pthread_cond_signal(&notifier->changed);
  pthread_mutex_unlock(&notifier->mutex);
  if (!ended) return;
  pthread_join(notifier->thread, NULL);
  free_notifier(notifier);
}
