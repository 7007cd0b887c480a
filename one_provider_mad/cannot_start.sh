# Speaks for a driver that its own Python cannot run: says the cause where an operator looks, and keeps VMs as they are.
#
# usage: sh cannot_start.sh PROGRAM INITIALISED REASON REQUESTS [ARGUMENT...]
#   PROGRAM      path of the program, links resolved
#   INITIALISED  INIT if INIT was answered, else empty
#   REASON       why it cannot start; empty: what is wrong with its Python is found out here
#   REQUESTS     lines of requests that were read and have no answer, each cut after the VM's id
#
# A process that ended instead would be started again every second, without a word in any log, and lose the requests in
# between: their VMs would wait for ever. So this one stays. It answers INIT, writes the cause with LOG and into the
# driver's log, and fails each action, which leaves the VM in the state that it had. It answers neither POLL nor
# MONITOR nor START_MONITOR: a failure there would put VMs into UNKNOWN and the host into ERROR, and a host hook of
# OpenNebula's deletes the VMs of such a host (decision 19). Once the program can start, this process ends itself, and
# OpenNebula starts the program in its place.

program=$1 initialised=$2 reason=$3 requests=$4
shift 4
unset ONE_PROVIDER_MAD_REASON # of the program's wrapper, which is called below
name=${program##*/}
bin=${program%/*}
root=${bin%/*}
python=$root/.venv/bin/python
if [ -L "$bin/python" ] || [ -e "$bin/python" ]; then python=$bin/python; fi
[ -e "/proc/$$/fd/2" ] || exec 2>/dev/null # closed by oned
exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-    # leaked by oned
set -f

# Follow a path, link by link. Sets `closed` to the first folder or file that this user may not enter or run, or
# `missing` to the first that does not exist.
follow() {
    at='' rest=${1#/} closed='' missing='' links=0
    while [ -n "$rest" ]; do
        part=${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
        case $part in '' | .) continue ;; ..) at=${at%/*} && continue ;; esac
        if [ ! -x "${at:-/}" ]; then closed=${at:-/} && return; fi
        at=$at/$part
        if [ -L "$at" ] && [ $links -lt 40 ]; then
            links=$((links + 1))
            target=$(readlink "$at")
            case $target in /*) at='' ;; *) at=${at%/*} ;; esac
            rest=${target#/}${rest:+/$rest}
        elif [ ! -e "$at" ]; then
            missing=$at && return
        fi
    done
    if [ ! -x "$at" ]; then closed=$at; fi
}

# Print the command that builds an environment which this user can run; $1 is enough if there is none yet.
remedy() {
    if [ ! -e "$root/Makefile" ]; then
        echo 'install one-provider-mad again, with a Python that all users can run'
        return
    fi
    if [ -n "$1" ]; then echo "make -C $root $1" && return; fi
    for other in /usr/bin/python3 /usr/bin/python3.13 /usr/bin/python3.12 /usr/bin/python3.11 \
        /usr/local/bin/python3.13 /usr/local/bin/python3.12 /usr/local/bin/python3.11 /usr/local/bin/python3; do
        if "$other" -I -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "make -C $root setup REPLACE=1 PYTHON=$other"
            return
        fi
    done
    echo "install a Python of 3.11 or newer that all users can run, then make -C $root setup REPLACE=1 PYTHON=…"
}

if [ -z "$reason" ]; then
    follow "$python"
    if [ "$missing" = "$root/.venv" ] && [ ! -e "$root/Makefile" ]; then
        reason="no Python is in $bin: install one-provider-mad in an environment, with python3 -m venv or pipx"
    elif [ "$missing" = "$root/.venv" ]; then
        reason="$missing does not exist: $(remedy setup)"
    elif [ -n "$missing" ]; then
        reason="$missing does not exist, and $python leads there: $(remedy)"
    elif [ -n "$closed" ]; then
        user=$(id -un 2>/dev/null) || user=$(id -u)
        reason="$closed is closed to $user, and $python leads there: $(remedy)"
    else
        error=$("$python" -V 2>&1 </dev/null | tail -n 1)
        error=${error#"$python: "}
        reason="$python cannot be run ($error): $(remedy)"
    fi
fi
reason=$(printf %s "$reason" | tr -d '[:cntrl:]')
sentence="the driver cannot start: $reason"

case $name$* in
    one-provider* | "$name--version" | "$name--help" | "$name-h")
        printf '%s: %s\n' "$name" "$reason" >&2
        exit 1
        ;;
esac
printf '%s: %s\n' "$name" "$sentence" >&2

# Write the cause into the driver's log, as one_provider_mad/logs.py would. Root writes into no file of another user.
write_log() {
    log=/var/log/one
    if [ -n "$ONE_LOCATION" ]; then log=$ONE_LOCATION/var; fi
    for word in $*; do :; done
    log=$log/${name}_$(printf %s "${word:-unnamed}" | tr -c 'A-Za-z0-9._-' _).log
    if [ "$(id -u)" = 0 ] && [ ! -O "$log" ]; then return; fi
    escaped=$(printf %s "$sentence" | sed 's/[\\"]/\\&/g')
    (umask 027 && printf '{"error": "%s", "event": "cannot start", "level": "error", "timestamp": "%s"}\n' \
        "$escaped" "$(date -u +%Y-%m-%dT%H:%M:%S.%6NZ)" >>"$log") 2>/dev/null
}
write_log "$@"

byte() { printf "\\$(printf %03o "$1")"; }

# Print a text as monitord reads it: base64 of zlib (RFC 1950), here with one block that is not compressed.
encode() {
    low=1 high=0 length=0
    for value in $(printf %s "$1" | od -An -v -tu1); do
        low=$(((low + value) % 65521))
        high=$(((high + low) % 65521))
        length=$((length + 1))
    done
    {
        printf '\170\001\001'
        for value in $((length % 256)) $((length / 256)) $((255 - length % 256)) $((255 - length / 256)); do
            byte $value
        done
        printf %s "$1"
        for value in $((high / 256)) $((high % 256)) $((low / 256)) $((low % 256)); do byte $value; done
    } | base64 | tr -d '\n'
}

# Write the cause into OpenNebula's log; $1 is the reader: monitord, or oned up to 5.12, or oned since 6.0. Another
# number than -1, or - for oned since 6.0, would be taken for a VM's (docs/protocol.md).
say() {
    if [ -z "$1" ]; then return; fi
    case $name$1 in
        one_im_providermonitord) printf 'LOG E -1 %s %s\n' "$(date +%s)" "$(encode "$sentence")" ;;
        one_im_provider* | *oned-6) printf 'LOG E -1 %s\n' "$sentence" ;;
        *) printf 'LOG E - %s\n' "$sentence" ;;
    esac
    said=yes
}

# Tell who reads: a line that oned has not asked for must have its form.
reader() {
    case $(cat "/proc/$PPID/comm" 2>/dev/null) in
        onemonitord) echo monitord ;;
        oned)
            case $(timeout -s KILL 5 "/proc/$PPID/exe" --version </dev/null 2>/dev/null) in
                *'OpenNebula '[345].*) echo oned-5 ;;
                *'OpenNebula '[0-9]*) echo oned-6 ;;
            esac
            ;;
    esac
}

# Answer one line.
take() {
    # shellcheck disable=SC2086 # split into words
    set -- $1 ''
    action=$1
    if [ "$2" = - ]; then shift; fi
    case $action:$2 in
        START_MONITOR:* | STOP_MONITOR:*) say monitord ;;
        MONITOR:* | STOPMONITOR:*) say oned-5 ;;
        POLL:*) [ -n "$said" ] || say oned-5 ;;
        *: | *:*[!0-9]*) ;; # no request
        *)
            if [ -z "$said" ]; then
                case $line in "$action  "* | "$action - "*) say oned-6 ;; *) say oned-5 ;; esac
            fi
            if [ "$name" != one_im_provider ]; then printf '%s FAILURE %s %s\n' "$action" "$2" "$sentence"; fi
            ;;
    esac
}

# Ends this process once the program can start; without its input and output, which OpenNebula watches.
me=$$
(
    passed=0 before=''
    while sleep 1 && [ -e "/proc/$me" ]; do
        passed=$((passed + 1)) now=''
        if [ -x "$python" ]; then now=yes; fi
        if [ -n "$now" ] && { [ -z "$before" ] || [ $((passed % 10)) = 0 ]; } && "$program" --version; then
            kill -KILL $me
            exit
        fi
        before=$now
    done
) </dev/null >/dev/null 2>&1 &
watcher=$!

said=''
begin() {
    sleep 1 # oned since 6.0 reads INIT's answer with one read, and drops what follows in it (include/Driver.h)
    say "$(reader)"
}
if [ -n "$initialised" ]; then begin; fi
if [ -n "$requests" ]; then
    while IFS= read -r line; do take "$line"; done <<END
$requests
END
fi
while IFS= read -r line; do
    case $line in
        INIT | 'INIT '*)
            echo 'INIT SUCCESS'
            begin
            ;;
        FINALIZE*) break ;;
        *) take "$line" ;;
    esac
done
kill -KILL $watcher 2>/dev/null
exit 0
