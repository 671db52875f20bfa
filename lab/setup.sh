#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Install what the demo, the tests or the benchmark need and is not here yet: Debian packages and a virtual environment.
# Usage: PYTHON=python3 VENV=.venv sh lab/setup.sh demo|test|bench
set -eu

purpose=${1:?usage: lab/setup.sh demo|test|bench}
python=${PYTHON:-python3}
venv=${VENV:-.venv}
here=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
cd "$here"

missing=""
need() { # need PACKAGE TEST...: remember the package unless the test holds
    package=$1
    shift
    if ! "$@" >/dev/null 2>&1; then
        missing="$missing $package"
    fi
}
have() { command -v "$1"; }
have_file() { [ -e "$1" ]; }
have_venv() { "$python" -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 11))'; }
have_static_busybox() { [ -x /bin/busybox ] && ! ldd /bin/busybox; }
have_postgres() { ls /usr/lib/postgresql/*/bin/initdb; }

need python3 have "$python"
need python3-venv have_venv
need libstdc++6 have_file /usr/lib/x86_64-linux-gnu/libstdc++.so.6
need ca-certificates have_file /etc/ssl/certs/ca-certificates.crt
need qemu-system-x86 have qemu-system-x86_64
need ipxe-qemu have_file /usr/lib/ipxe/qemu/pxe-virtio.rom
need ipxe have_file /usr/lib/ipxe/undionly.kpxe
need dnsmasq-base have dnsmasq
need mmdebstrap have mmdebstrap
need squashfs-tools have mksquashfs
need busybox-static have_static_busybox
need cpio have cpio
need zstd have zstd
need kmod have depmod
need iproute2 have ip
need binutils have strip
need util-linux have nsenter
if [ "$purpose" = test ]; then
    need ovmf have_file /usr/share/OVMF/OVMF_CODE_4M.fd
    need postgresql have_postgres
    need git have git
    need curl have curl
    need openssh-client have ssh
    need skopeo have skopeo
    need umoci have umoci
    need docker-registry have docker-registry
    need xz-utils have xz
    need bzip2 have bzip2
    need gnupg have gpg
    need apt-utils have apt-ftparchive
    need arch-test have arch-test
    need dnf have dnf
    need rpm have rpmbuild
    need createrepo-c have createrepo_c
    need libcap2-bin have getcap
    need qemu-user-static have qemu-aarch64-static
    need aria2 have aria2c
    need transmission-cli have transmission-cli
    need qbittorrent-nox have qbittorrent-nox
    need wget have wget
    need nginx-light have nginx
    need openssh-server have sshd
    need rsync have rsync
    need systemd-container have systemd-nspawn
    need acl have setfacl
    need sudo have sudo
fi
if [ "$purpose" = bench ]; then
    need nginx-light have nginx
    need curl have curl
    need rsync have rsync
    need udpcast have udp-sender
    need uftp have uftpd
    need transmission-cli have transmission-cli
    need aria2 have aria2c
    need opentracker have opentracker
fi

if [ -n "$missing" ]; then
    if ! have apt-get >/dev/null; then
        echo "This is not Debian or a relative of it. Install what these Debian packages hold, then call again:" >&2
        echo "  $missing" >&2
        exit 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "Some packages are missing, and only root can install them. Call 'sudo make $purpose', or do this first:" >&2
        echo "  sudo apt-get update && sudo apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    echo "Installing:$missing"
    log=$(mktemp)
    passing=""
    # shellcheck disable=SC2086 # a list of words
    trap 'rm -f $passing' EXIT
    # The tests start a PostgreSQL server of their own; Debian's package would start one for the whole machine.
    clusters=/etc/postgresql-common/createcluster.d
    case $missing in
        *postgresql*)
            mkdir -p $clusters
            echo "create_main_cluster = false" >$clusters/rookery-tests.conf
            passing="$clusters/rookery-tests.conf"
            ;;
    esac
    # Benchmark and tests run these servers in namespaces of their own; their packages would start them for the whole
    # machine.
    if [ "$purpose" != demo ] && [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        passing="$passing /usr/sbin/policy-rc.d"
    fi
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # a list of words
    if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "apt-get could not install them; its whole output is in $log" >&2
        exit 1
    fi
    rm -f "$log"
    if [ "$purpose" != demo ] && have systemctl >/dev/null; then
        for package in $missing; do # nor at the next boot
            case $package in
                nginx-light) systemctl disable nginx.service ;;
                openssh-server) systemctl disable ssh.service ;;
                rsync | uftp | opentracker | docker-registry) systemctl disable "$package.service" ;;
            esac >/dev/null 2>&1 || true
        done
    fi
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "The $purpose makes network namespaces and builds a root file system: run it as root (sudo make $purpose)." >&2
    exit 1
fi

# The stamp holds what was installed from, so that a changed lock file or interpreter installs again.
wanted=$({ cat requirements/dev.txt pyproject.toml; "$python" -VV; echo "$here"; } | sha256sum)
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$wanted" ]; then
    echo "Preparing the virtual environment $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$wanted" >"$venv/.installed"
fi
