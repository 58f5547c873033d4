#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# make install: a virtual environment with the wheel in $PREFIX, units, shipped policy, manual pages. Nothing of the
# administrator's is overwritten, nothing is started. DESTDIR is for building a package; then nothing of the
# machine is touched.
set -eu

wheel=$1
here=$(cd "$(dirname "$0")/.." && pwd)
root=${DESTDIR:-}

if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    echo "install: run it as root" >&2
    exit 4
fi

put() { # MODE SOURCE TARGET
    install -D -m "$1" "$2" "$root$3"
}

unit() { # SOURCE NAME
    mkdir -p "$root/usr/lib/systemd/system/$(dirname "$2")"
    sed "s|@PREFIX@|$PREFIX|g" "$here/tools/systemd/$1" > "$root/usr/lib/systemd/system/$2"
    chmod 644 "$root/usr/lib/systemd/system/$2"
}

echo "install: $root$PREFIX"
# what an interrupted run has left may have no pip yet
"$root$PREFIX/bin/python" -m pip --version > /dev/null 2>&1 || "$PYTHON" -m venv "$root$PREFIX"
"$root$PREFIX/bin/python" -m pip -q install ${root:+--no-compile} --disable-pip-version-check --upgrade --force-reinstall "$wheel"
if [ -n "$root" ]; then # the scripts name the interpreter where it will be
    for script in enforcer enforcerd enforcer-keeper enforcer-revoker; do
        sed -i "1s|^#!.*|#!$PREFIX/bin/python|" "$root$PREFIX/bin/$script"
    done
fi
mkdir -p "$root/usr/sbin"
for name in enforcer enforcerd enforcer-keeper enforcer-revoker; do
    ln -sfn "$PREFIX/bin/$name" "$root/usr/sbin/$name"
done

echo "install: policy, units, manual pages"
put 644 "$here/policy/90-default.toml" /usr/lib/enforcer/policy.d/90-default.toml
for file in README.md schema.json 10-san.toml.example; do
    put 644 "$here/policy/$file" "/usr/share/doc/mount-enforcer/policy/$file"
done
put 644 "$here/docs/external-protocol.md" /usr/share/doc/mount-enforcer/external-protocol.md
put 644 "$here/tools/examples/gfs_clusterd.py" /usr/share/doc/mount-enforcer/examples/gfs_clusterd.py
mkdir -p "$root/etc/enforcer/policy.d"
if [ ! -e "$root/etc/enforcer/enforcer.toml" ]; then
    "$root$PREFIX/bin/python" -I -c 'from enforcer import settings; print(settings.listing(), end="")' \
        > "$root/etc/enforcer/enforcer.toml"
fi
unit enforcerd.service enforcerd.service
unit enforcer-keeper.service enforcer-keeper.service
unit enforcer-revoker.service enforcer-revoker.service
unit enforcer-drain.service enforcer-drain.service
put 644 "$here/tools/systemd/sysusers.conf" /usr/lib/sysusers.d/mount-enforcer.conf
put 644 "$here/tools/systemd/tmpfiles.conf" /usr/lib/tmpfiles.d/mount-enforcer.conf
[ -e "$root/etc/logrotate.d/mount-enforcer" ] ||
    put 644 "$here/tools/systemd/logrotate.conf" /etc/logrotate.d/mount-enforcer
for page in "$here"/docs/man/*.[1-8]; do
    put 644 "$page" "/usr/share/man/man${page##*.}/${page##*/}"
done

early=yes
if [ -z "$root" ]; then
    for path in "$PREFIX" /var/lib /var/log /etc; do
        [ "$(findmnt -n -o TARGET --target "$path")" = / ] || early=no
    done
fi
if [ "$early" = yes ]; then
    unit enforcerd-early.conf enforcerd.service.d/10-early.conf
else
    rm -f "$root/usr/lib/systemd/system/enforcerd.service.d/10-early.conf"
    echo "install: program, state or log lie on a file system of their own, so enforcerd starts after local file systems"
fi

if [ -z "$root" ]; then
    [ -z "$(command -v systemd-sysusers)" ] || systemd-sysusers mount-enforcer.conf
    [ -z "$(command -v systemd-tmpfiles)" ] || systemd-tmpfiles --create mount-enforcer.conf
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    echo "install: done. Next: edit /etc/enforcer/enforcer.toml, write a policy, enforcer policy check,"
    echo "         systemctl enable --now enforcer-revoker enforcer-keeper enforcerd enforcer-drain"
fi
