#!/bin/sh
# Starts weft in its container, as a user of its own with NET_ADMIN alone; `weft discovery` and `weft route-manager` with
# nothing at all.
#
#   docker-entrypoint.sh registrar --daemon     a verb of weft's, or one of the old script's options
#   docker-entrypoint.sh sh                     any other program, with the same rights
#   docker-entrypoint.sh --healthy              for HEALTHCHECK: whether weft does its work
#
# RUN_AS_ROOT=true: the user is root, with whatever capabilities the container has. Otherwise it is `weft`, a member of
# the group that Docker's socket belongs to on this host, whatever its number. WEFT_UID: its number, default 7600.
set -eu

SOCKET=${DOCKER_HOST:-unix:///var/run/docker.sock}
DATA_DIR=${DATA_DIR:-/var/lib/docker-router}
USER_ID=${WEFT_UID:-7600}
readonly SETGID=6 SETUID=7 SETPCAP=8 NET_ADMIN=12 NET_RAW=13 # capability.h

say() { echo "entrypoint: $*" >&2; }

die() {
    say "$*"
    exit 1
}

# Whether this process has the capability of that number in its set of that name (CapEff, CapBnd, ...).
has() {
    value=$(sed -n "s/^$1:[[:space:]]*//p" /proc/self/status)
    # 64 bits in hexadecimal: the low 32 of them hold every capability that is asked for here.
    low=$(printf '%s' "$value" | tail -c 8)
    [ $(((0x$low >> $2) & 1)) -eq 1 ]
}

true_word() {
    case "$1" in 1 | [Tt]rue | TRUE | [Yy]es | YES | [Oo]n | ON) return 0 ;; esac
    return 1
}

# Whether that verb needs no right at all on its host.
rightless() { [ "$VERB" = discovery ] || [ "$VERB" = route-manager ]; }

# health_status.json is what the registrar says of itself; docker-router's two and the route manager answer GET /health,
# the other daemons on their sockets.
healthy() {
    case " $(tr '\0' ' ' </proc/1/cmdline) " in
        *" router "*) docker_router router "${HEALTH_PORT:-9478}" ;;
        *" discovery "*) docker_router discovery "${HEALTH_PORT:-9477}" ;;
        *" route-manager "*)
            HEALTH_IP=${ROUTE_MANAGER_HEALTH_IP:-127.0.0.1}
            [ "${ROUTE_MANAGER_HEALTH_PORT:-9479}" -eq 0 ] || ask "${ROUTE_MANAGER_HEALTH_PORT:-9479}"
            ;;
    esac
    RUN_DIR=${RUN_DIR:-/var/run/flannel-registrar}
    if [ -e "$RUN_DIR/health_status.json" ]; then
        exec python3 - "$RUN_DIR/health_status.json" "${MONITORING_INTERVAL:-300}" <<'PYTHON'
import json, re, sys, time
path, interval = sys.argv[1:]
told = json.load(open(path))
seconds = float(re.match(r"[\d.]+", interval)[0]) * {"m": 60, "h": 3600}.get(interval[-1], 1)
age = time.time() - told["last_check"]
print(told["status"], told["message"], f"{age:.0f} s ago")
sys.exit(told["status"] not in ("healthy", "degraded", "starting") or age > 2 * seconds + 60)
PYTHON
    fi
    for socket in "${WEFT_SOCKET:-/run/weft/registrar.sock}" /run/weft/*.sock; do
        if [ -S "$socket" ]; then
            exec /opt/weft/bin/weft show status --socket "$socket"
        fi
    done
    die "nothing of weft's runs here"
}

# Asks `weft $1` on port $2; without one (0), its socket, or whether discovery.json is kept up.
docker_router() {
    [ "$2" -eq 0 ] || ask "$2"
    [ "$1" = discovery ] || exec /opt/weft/bin/weft router show status
    [ -n "$(find "$DATA_DIR/discovery.json" -mmin -2 2>/dev/null)" ] ||
        die "$DATA_DIR/discovery.json was not written for two minutes"
    exit 0
}

# Asks GET /health on port $1.
ask() {
    exec python3 - "${HEALTH_IP:-127.0.0.1}" "$1" <<'PYTHON'
import json, sys, urllib.error, urllib.request
host, port = sys.argv[1:]
host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
url = f"http://[{host}]:{port}/health" if ":" in host else f"http://{host}:{port}/health"
try:
    told = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5))
except urllib.error.HTTPError as error:
    told = json.load(error)
except OSError as error:
    sys.exit(f"{url}: {error}")
print(json.dumps(told))
sys.exit(told["status"] not in ("healthy", "degraded", "starting"))
PYTHON
}

# Makes the user and its groups, and prints the groups' numbers with commas. A number that is taken has its name kept.
make_user() {
    getent group "$USER_ID" >/dev/null || echo "weft:x:$USER_ID:" >>/etc/group
    getent passwd "$USER_ID" >/dev/null || echo "weft:x:$USER_ID:$USER_ID:weft:/run/weft:/usr/sbin/nologin" >>/etc/passwd
    groups=$USER_ID
    path=${SOCKET#unix://}
    if [ "$path" = "$SOCKET" ] || rightless || [ "$VERB" = router ]; then
        : # reached over the network; or not at all, and not to be reached either
    elif [ -S "$path" ]; then
        gid=$(stat -c %g "$path")
        getent group "$gid" >/dev/null || echo "docker-host:x:$gid:weft" >>/etc/group
        groups=$groups,$gid
    elif [ "$VERB ${ENGINE:-docker}" = "registrar docker" ] || [ "$VERB ${WEFT_ENGINE:-docker}" = "agent docker" ]; then
        say "there is no Docker socket at $path: mount it (-v /var/run/docker.sock:/var/run/docker.sock:ro), or name" \
            "this host's networks yourself (ENGINE=static NETWORKS=name=subnet,...); starting without it"
    fi
    echo "$groups"
}

# What the user must be able to write. A router's shared folder may well be mounted read-only.
places() {
    case "$VERB" in
        discovery) echo "$DATA_DIR" ;;
        route-manager) echo /run/weft ;;
        router) echo "${RUN_DIR:-/run/docker-router}" /run/weft; [ ! -w "$DATA_DIR" ] || echo "$DATA_DIR" ;;
        flanneld) echo "${RUN_DIR:-/var/run/flannel-registrar}" /run/weft /run/flannel ;; # subnet.env
        *) echo "${RUN_DIR:-/var/run/flannel-registrar}" /run/weft ;;
    esac
}

give() {
    for path in $(places); do
        if ! { mkdir -p "$path" && chown -R "$USER_ID:$USER_ID" "$path"; }; then
            say "$path can't be given to user $USER_ID: is it mounted read-only?"
        fi
    done
    ! rightless || return 0
    # What iptables of the legacy kind needs, where this host uses it: its lock, its list of tables, a raw socket.
    if [ -n "$(cat /proc/net/ip_tables_names 2>/dev/null)" ]; then
        say "this host's firewall rules are of iptables' legacy kind, which only root can read: set RUN_AS_ROOT=true." \
            "Starting without; routes are made and rules are not"
    fi
}

# Gives up everything but NET_ADMIN (and that, too, where nothing needs it), as far as this container lets it be given up.
as_weft() {
    if ! has CapEff $SETGID || ! has CapEff $SETUID; then
        say "the user can't be changed without SETUID and SETGID; staying root, with no other capability than this" \
            "container's, and no right to others' files. Better: leave cap_drop out (all but NET_ADMIN is given up here)," \
            "for discovery and route-manager with user: \"$USER_ID:$USER_ID\""
        exec "$@"
    fi
    groups=$(make_user)
    give
    caps=-all
    rightless || ! has CapBnd $NET_ADMIN || caps=$caps,+net_admin
    case " $* " in # what pings
        *" diagnose "* | *" --diagnose "* | *" leases "*) ! has CapBnd $NET_RAW || caps=$caps,+net_raw ;;
    esac
    bounding=
    ! has CapEff $SETPCAP || bounding=--bounding-set=$caps
    # shellcheck disable=SC2086 # nothing, or one word
    exec setpriv --reuid="$USER_ID" --regid="$USER_ID" --groups="$groups" --no-new-privs \
        --inh-caps="$caps" --ambient-caps="$caps" $bounding -- "$@"
}

[ "${1:-}" != --healthy ] || healthy
case "${1:-}" in
    /app/*) verb=${1#/app/}; shift; set -- "$verb" "$@" ;;
esac
case "${1:-}" in
    "") set -- registrar --daemon ;;
    -*) set -- registrar "$@" ;; # the old script's options
esac
VERB=$1
command -v "$1" >/dev/null || set -- /opt/weft/bin/weft "$@"

if rightless; then
    [ "$(id -u)" -eq 0 ] || exec "$@"
elif ! has CapBnd $NET_ADMIN; then
    say "this container may not change routes: give it NET_ADMIN (cap_add: [NET_ADMIN]) and network_mode: host." \
        "Starting all the same; each change will be refused"
fi
if [ "$(id -u)" -ne 0 ]; then
    has CapEff $NET_ADMIN || say "user $(id -u) has no NET_ADMIN: leave \"user:\" out, the entry point changes it itself"
    exec "$@"
fi
! true_word "${RUN_AS_ROOT:-false}" || exec "$@"
as_weft "$@"
