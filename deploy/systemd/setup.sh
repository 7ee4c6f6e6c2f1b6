#!/usr/bin/env bash
# Sets a host of the mesh up under systemd: as root, in a checkout. Every step may be run again.
#
#   setup.sh install                          on every host: programs, units, users, directories
#   setup.sh etcd ADDRESS                     a first etcd member, from the files that `meshadm init --files-only` made
#   setup.sh replica                          the replica's secrets as encrypted credentials
#   setup.sh sidecar NAME ADDRESS JOIN-FILE   the sidecar NAME, which others reach at ADDRESS; JOIN-FILE - is stdin
#
# $DESTDIR goes before every path that is written, for packagers and tests; then nothing is started or encrypted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
root=${DESTDIR:-}
etc=$root/etc/mesh
credstore=$root/etc/credstore.encrypted
PYTHON=${PYTHON:-/usr/bin/python3} # not one from a home directory, which service users can't enter

fail() { echo "setup.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
live() { [ -z "$root" ]; }

# Encrypts standard input as the credential $1 into the file $2, and prints where it is.
encrypt() {
  install -d -m 0700 "$(dirname "$2")"
  if live; then systemd-creds encrypt --name="$1" - "$2"; else cat > "$2"; fi
  echo "encrypted $2"
}

install_all() {
  if live; then
    [ "$(id -u)" = 0 ] || fail "run it as root"
    "$PYTHON" -m venv /opt/hostmesh || fail "$PYTHON can't make a venv (Debian: apt-get install python3-venv)"
    /opt/hostmesh/bin/pip install --quiet "$checkout[sidecar,cli]"
    ln -sf /opt/hostmesh/bin/meshadm /usr/local/bin/meshadm
  fi
  install -D -m 0755 "$here/mesh-sidecar-tidy" "$root/opt/hostmesh/bin/mesh-sidecar-tidy"
  install -D -m 0644 -t "$root/etc/systemd/system" "$here"/*.service "$here"/*.target "$here"/*.slice
  install -D -m 0644 "$here/sysusers.d/mesh.conf" "$root/etc/sysusers.d/mesh.conf"
  install -D -m 0644 "$here/tmpfiles.d/mesh.conf" "$root/etc/tmpfiles.d/mesh.conf"
  if live; then
    systemd-sysusers
    systemd-tmpfiles --create /etc/tmpfiles.d/mesh.conf
    systemd-creds setup
    systemctl daemon-reload
    systemctl enable mesh.target
  fi
}

etcd_member() {
  local address=${1:?"setup.sh etcd ADDRESS"}
  [ -f "$etc/etcd/server.key" ] || fail "$etc/etcd/server.key is missing: run \`meshadm init --files-only\` first"
  if live; then [ -x /usr/local/bin/etcd ] || fail "put etcd 3.6.14, 3.7.1 or newer at /usr/local/bin/etcd first"; fi
  sed "s/10\.0\.0\.1/$address/g" "$here/../etcd/etcd.conf.yaml" > "$etc/etcd.conf.yaml"
  install -m 0644 "$etc/etcd/server.crt" "$etc/etcd/peers.crt"
  encrypt server.key "$etc/credentials/etcd-server.key.cred" < "$etc/etcd/server.key"
  chmod 0755 "$etc/etcd"
  chmod 0644 "$etc"/etcd/*.crt
  if live; then systemctl enable --now mesh-etcd; fi
}

replica() {
  local config=$etc/controlplane.yaml
  [ -f "$config" ] || fail "$config is missing: run \`meshadm init\` first"
  [ -f "$etc/kek" ] || fail "$etc/kek is missing: bring it from the host where \`meshadm init\` ran"
  encrypt kek "$etc/credentials/kek.cred" < "$etc/kek"
  encrypt etcd.key "$etc/credentials/etcd.key.cred" < "$etc/etcd/replica.key"
  # Without `kek` the replica takes the credential of that name.
  sed -i -e '/^kek:/d' -e 's#^  key: .*#  key: "/run/credentials/mesh-controlplane.service/etcd.key"#' "$config"
  chmod 0644 "$config"
  chmod 0755 "$etc" "$etc/etcd"
  chmod 0644 "$etc"/etcd/*.crt
  if live; then systemctl enable --now mesh-controlplane; fi
  echo "now bring $etc/kek, $etc/etcd/*.key and $etc/etcd/root.* away from this host: whoever has them has the mesh"
}

sidecar() {
  local name=${1:?"setup.sh sidecar NAME ADDRESS JOIN-FILE"} address=${2:?} join=${3:?}
  [[ $name =~ ^[a-z0-9]([a-z0-9-]{0,21}[a-z0-9])?$ ]] || fail "$name: use 1 to 23 of a-z, 0-9 and '-'"
  install -d -m 0755 "$root/etc/sysusers.d" "$etc/sidecars"
  echo "u sidecar-$name - \"Service mesh sidecar of $name\"" > "$root/etc/sysusers.d/mesh-sidecar-$name.conf"
  if [ ! -f "$etc/sidecars/$name.yaml" ]; then
    cat > "$etc/sidecars/$name.yaml" << END
instance: $(hostname -s | tr '[:upper:]_' '[:lower:]-')
advertise: $address
stateDir: /var/lib/mesh/$name
runtimeDir: /run/mesh/$name
join: /run/credentials/mesh-sidecar@$name.service/join
END
    chmod 0644 "$etc/sidecars/$name.yaml"
  fi
  if [ "$join" = - ]; then join=/dev/stdin; fi
  encrypt join "$credstore/mesh.$name.join" < "$join"
  if live; then
    systemd-sysusers
    systemctl enable --now "mesh-sidecar@$name"
    # From now on it has an identity that it renews by itself, over reboots too.
    rm "$credstore/mesh.$name.join"
  fi
}

case ${1:-help} in
  install) install_all ;;
  etcd) shift; etcd_member "$@" ;;
  replica) replica ;;
  sidecar) shift; sidecar "$@" ;;
  help | -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac
