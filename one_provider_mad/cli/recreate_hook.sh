#!/bin/sh
# Recreates VMs that a cloud had no room for, or took back; "one-provider install NAME --recreate-hook" has written this.
# OpenNebula calls it for every VM that enters one of three states, so it tells first whether the VM is on a host of ours.
# From 5.10 on the VM comes on stdin, up to 5.8 as the second argument: XML, in base64.

if [ $# -gt 1 ]; then
    vm=$(printf %s "$2" | base64 -d)
else
    vm=$(base64 -d)
fi
driver=$(printf %s "$vm" | grep -o '<VM_MAD>[^/]*' | tail -n 1 | sed 's/<VM_MAD>//; s/<!\[CDATA\[//; s/[]<].*//')
case $driver in
    '' | *[!A-Za-z0-9_.-]*) exit 0 ;;
esac
[ -e "@conf@/$driver.toml" ] || [ -e "@var@/one_provider_mad_$driver.journal" ] || exit 0
id=$(printf %s "$vm" | grep -o '<ID>[0-9]*' | head -n 1 | tr -dc 0-9)
[ -n "$id" ] || exit 0
if [ ! -x "@program@" ]; then
    echo "VM $id is left as it is: @program@ is not there; run one-provider install NAME --recreate-hook again" >&2
    exit 1
fi
exec "@program@" recreate "$id" --hook
