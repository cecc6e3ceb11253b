# Sourced by scripts/up and scripts/test: brings a fresh clone to where the programs run. Each step
# looks first and says nothing when there is nothing to do.

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

need_node() {
  command -v node >/dev/null || die "node is missing: install Node.js 20 or newer, with npm"
  local version
  version=$(node -p process.versions.node)
  [ "${version%%.*}" -ge 20 ] || die "node is $version: install Node.js 20 or newer"
  command -v npm >/dev/null || die "npm is missing: install it (it comes with Node.js)"
}

# Not `grep -q`: it would end before ldconfig does, which pipefail takes for a failure.
has_library() {
  { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep "$1" >/dev/null
}

# The packages (by their Debian names) of what is missing among the arguments, one per line.
missing_packages() {
  local need
  for need in "$@"; do
    case $need in
    libfuse2) has_library 'libfuse\.so\.2' || echo libfuse2 ;;
    fuse3) command -v fusermount3 >/dev/null || echo fuse3 ;;
    attr) command -v setfattr >/dev/null || echo attr ;;
    acl) command -v setfacl >/dev/null || echo acl ;;
    gcc) command -v "${CC:-cc}" >/dev/null || echo gcc ;;
    libc6-dev) [ -e /usr/include/stdio.h ] || echo libc6-dev ;;
    *) command -v "$need" >/dev/null || echo "$need" ;;
    esac
  done
}

# Installs system packages that are missing: as root with apt-get, else says what to install.
# Debian 13 and Ubuntu 24.04 call libfuse2 libfuse2t64.
need_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    die "missing: ${missing[*]}. Install them, for example: sudo apt-get install ${missing[*]}"
  fi
  command -v apt-get >/dev/null || die "missing: ${missing[*]}. Install them and run this again"
  say "installing ${missing[*]} (apt-get)"
  local log
  log=$(mktemp)
  if ! apt_install "${missing[@]}" >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    die "apt-get could not install ${missing[*]}: install them and run this again"
  fi
  rm -f "$log"
}

apt_install() {
  local -x DEBIAN_FRONTEND=noninteractive
  local options=(-y -qq --no-install-recommends -o DPkg::Lock::Timeout=120)
  apt-get install "${options[@]}" "$@" </dev/null && return
  apt-get update -qq </dev/null
  apt-get install "${options[@]}" "$@" </dev/null ||
    apt-get install "${options[@]}" "${@/%libfuse2/libfuse2t64}" </dev/null
}

need_fuse() {
  [ -c /dev/fuse ] && return
  if [ "$(id -u)" = 0 ]; then
    modprobe fuse 2>/dev/null || mknod -m 666 /dev/fuse c 10 229 2>/dev/null || true
  fi
  [ -c /dev/fuse ] || die "/dev/fuse is missing: load the kernel's module with: modprobe fuse"
}

# What compiles the native part of the device binding; scripts/build-native.
need_compiler() {
  need_packages gcc libc6-dev make python3
}

# npm ci, which runs scripts/build-native too, when node_modules is not what package-lock.json says.
need_modules() {
  local stamp=node_modules/.package-lock.json
  # A link is taken as it is: npm would empty the directory that it points to, which others use.
  [ ! -L node_modules ] || [ ! -x node_modules/.bin/tsc ] || return 0
  [ ! -L node_modules ] || die "node_modules is a link to a directory without packages"
  [ -e $stamp ] && [ ! package-lock.json -nt $stamp ] && [ -x node_modules/.bin/tsc ] && return
  say "installing npm packages"
  local log
  log=$(mktemp)
  # A registry without the builds for other platforms makes `npm ci` refuse the lock file, which
  # names them as optional; `npm install` takes the same locked versions and leaves them out.
  if ! npm ci --no-audit --no-fund </dev/null >"$log" 2>&1; then
    if ! npm install --no-save --no-audit --no-fund </dev/null >>"$log" 2>&1; then
      tail -n 20 "$log" >&2
      rm -f "$log"
      die "npm could not install the packages of package-lock.json"
    fi
  fi
  rm -f "$log"
  touch $stamp
}

# Compiles the native part when a source is newer than it.
need_native() {
  local directory=mount/fuse/device/native newer
  local module=$directory/build/Release/gfs_fuse.node
  if [ -e $module ]; then
    newer=$(find $directory -maxdepth 1 -type f -newer $module -print -quit)
    [ -n "$newer" ] || return 0
  fi
  say "compiling the native part"
  scripts/build-native || die "the native part could not be compiled"
}

# Compiles when a source is newer than the last build that went well.
need_build() {
  local stamp=build/.stamp newer
  local sources=(common protocol master chunkd mount cli scripts test tsconfig.json package.json)
  if [ -e $stamp ]; then
    newer=$(find "${sources[@]}" -newer $stamp -print -quit 2>/dev/null)
    [ -n "$newer" ] || return 0
  fi
  say "building"
  mkdir -p build
  touch build/.stamp.new
  node_modules/.bin/tsc || die "the build failed"
  mv build/.stamp.new $stamp
}
