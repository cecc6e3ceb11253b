{
  "targets": [
    {
      "target_name": "gfs_fuse",
      "type": "loadable_module",
      "sources": ["addon.c", "arguments.c", "channel.c", "mounting.c", "notifier.c"],
      "defines": ["NAPI_VERSION=8", "_GNU_SOURCE"],
      "cflags": ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-fvisibility=hidden"]
    }
  ]
}
