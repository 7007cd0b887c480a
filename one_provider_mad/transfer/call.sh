#!/bin/sh
# Of one-provider-mad: an action of OpenNebula's transfer driver one_provider. The file's name is the action's.
# Written by `one-provider install`, removed by its option --remove.
exec "${0%/*}/../one_provider/answer" "${0%/*}" "${0##*/}" "$@"
