#!/usr/bin/env bash
# Runs a program of the image from its unpacked root file system, where there is no container engine: read-only, as user 65532,
# without capabilities, in the network of this machine. It becomes the program: signals and the exit status are the program's.
# Usage, as root: deploy/image/run-rootfs.sh ROOTFS PROGRAM [ARGUMENT...]
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 ROOTFS PROGRAM [ARGUMENT...]" >&2
    exit 2
fi
root=$(realpath -e "$1")
shift

# shellcheck disable=SC2016  # the inner shell expands them
exec unshare --mount --propagation private -- sh -euc '
    root=$1
    shift
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    mount --rbind /dev "$root/dev"
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HF_HOME=/models HOME=/home/nonroot
    exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+sys_chroot,+setuid,+setgid \
        chroot --userspec=65532:65532 "$root" "$@"
' sh "$root" "$@"
