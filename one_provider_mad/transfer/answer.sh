#!/bin/sh
# Of one-provider-mad: carries out the actions of OpenNebula's transfer driver one_provider. A cloud has its VMs' disks
# itself, so that there is nothing to copy, and what OpenNebula alone would do with such a disk is refused.
# Written by `one-provider install`, removed by its option --remove.
#
# usage: answer FOLDER ACTION ARGUMENT...
#   FOLDER    of the transfer driver that one_tm called: one_provider, or that of an image's datastore
#   ACTION    name of the called file: clone, or clone.one_provider in the folder of another driver
#   ARGUMENT  as one_tm passes them (OpenNebula src/tm/TransferManager.cc)
#
# The disks of a VM keep the driver of the system datastore that it was first deployed to
# (VirtualMachine::check_tm_mad_disks), also when `onevm recover --recreate` starts it anew at home. So an action
# beside another driver looks where the disk is, and leaves one at home to the driver there.

folder=$1 action=${2%.one_provider}
shift 2
ours=${0%/*}
seen=$ours/.seen # one empty file for each system datastore with this driver, renewed by `monitor`

refuse() {
    echo "$1" >&2
    exit 1
}

# Set `datastore` and `vm`, the numbers in HOST:PATH/DATASTORE/VM or HOST:PATH/DATASTORE/VM/disk.N.
locate() {
    path=${1#*:}
    case ${path##*/} in disk.*) path=${path%/*} ;; esac
    vm=${path##*/}
    path=${path%/*}
    datastore=${path##*/}
    case /$datastore/$vm/ in
        *//* | *[!0-9/]*) refuse "one_provider's $action got no path of a VM's disk: $1" ;;
    esac
}

remember() {
    { mkdir -p "$seen" && : >"$seen/$1"; } 2>/dev/null
}

# Set `driver`, the transfer driver of a system datastore. An hour after it was last monitored OpenNebula is asked.
find_driver() {
    driver=one_provider
    [ -z "$(find "$seen/$1" -mmin -60 2>/dev/null)" ] || return 0
    shown=$("${ONE_LOCATION:+$ONE_LOCATION/bin/}onedatastore" show -x "$1" 2>&1) ||
        refuse "OpenNebula does not tell the driver of system datastore $1: $(echo "$shown" | head -n 1)"
    driver=$(echo "$shown" | sed -n 's:.*<TM_MAD>\(<!\[CDATA\[\)\{0,1\}\([^]<]*\).*:\2:p' | head -n 1)
    [ "$driver" != one_provider ] || remember "$1"
}

# Run what one_tm would have run without this file. $1 is the system datastore's driver.
leave_to_home() {
    other=$folder/$action.$1
    [ -e "$other" ] || other=$folder/$action
    shift
    exec "$other" "$@"
}

# A disk cannot follow its VM into another system datastore: it is in the cloud, or in none. A VM's folder can, which
# one_tm moves after the disks: a VM that has none loses nothing.
check_move() {
    case ${1##*/} in disk.*) ;; *) return 0 ;; esac
    locate "$1"
    from=$datastore
    locate "$2"
    [ "$from" = "$datastore" ] ||
        refuse "VM $vm has its disks in system datastore $from, not in $datastore: resume it on a host of the former"
}

if [ "$action" = monitor ]; then
    cat >/dev/null # the datastore, which one_datastore writes
    remember "$1"
    # The room is the cloud's own; schedulers need a number. One PiB.
    echo "USED_MB=0"
    echo "FREE_MB=1073741824"
    echo "TOTAL_MB=1073741824"
    exit 0
fi

if [ "${folder##*/}" != one_provider ]; then
    case $action in
        clone | ln | mv) locate "$2" ;;
        *) locate "$1" ;;
    esac
    find_driver "$datastore"
    if [ "$action" = mv ] && [ "$driver" != one_provider ]; then
        home=$driver
        locate "$1"
        find_driver "$datastore"
        [ "$driver" = one_provider ] || leave_to_home "$home" "$@"
    elif [ "$driver" != one_provider ]; then
        leave_to_home "$driver" "$@"
    fi
fi

case $action in
    mv) check_move "$1" "$2" ;;
    cpds) refuse "the cloud has this disk, disk-saveas cannot copy it: make the image with the cloud's own tools" ;;
    snap_*) refuse "disk snapshots in a cloud are made and deleted only while the VM runs: resume it first" ;;
    *backup*) refuse "the cloud has this VM's disks, OpenNebula cannot back them up: use the cloud's own backups" ;;
    restore) refuse "the cloud has this VM's disks, OpenNebula cannot restore them: use the cloud's own backups" ;;
esac
exit 0
