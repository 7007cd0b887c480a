# Shell functions of the package's scripts, for dpkg and rpm alike.
#
# An upgrade replaces the files of a package while processes of the earlier release run, which still import modules:
# oned keeps its drivers for months. So no process runs from the package's own files, in payload/. Each release has a
# folder of hard links to them, releases/<version>-<digest>, which stays until no process runs from it; the link
# `current` leads to the installed one. Hard links cost no room, and the folder's files outlive the package's.

base=/usr/lib/one-provider-mad

# use_release: make the unpacked payload the current release.
use_release() {
    release=$(cat "$base/payload/RELEASE")
    mkdir -p "$base/releases/$release"
    # --force replaces each file by a rename, so that processes of this release miss none while it is reinstalled.
    cp --archive --link --force "$base/payload/." "$base/releases/$release/"
    ln -sfn "releases/$release" "$base/current.new"
    mv --no-target-directory "$base/current.new" "$base/current"
}

# processes_of FOLDER: print the ids of processes that run from it.
processes_of() {
    # The Python of a driver is started by its path in the release; /proc/<pid>/maps has the libraries that it has
    # loaded. In brackets the first letter keeps this grep from finding itself.
    for process in $(grep --files-with-matches --no-messages "[/]${1#/}/" /proc/[0-9]*/cmdline /proc/[0-9]*/maps |
        cut -d / -f 3 | sort --numeric-sort --unique); do
        printf '%s ' "$process"
    done
}

# remove_unused: remove each release but the current one, unless processes run from it; say which stay, and why.
remove_unused() {
    for folder in "$base"/releases/*/; do
        folder=${folder%/}
        if [ ! -d "$folder" ] || [ "$folder" = "$(readlink --canonicalize "$base/current")" ]; then continue; fi
        processes=$(processes_of "$folder")
        if [ -n "$processes" ]; then
            echo "one-provider-mad: release ${folder##*/} stays while processes run from it: ${processes% }"
            is_running=yes
        else
            rm -rf "$folder"
        fi
    done
}

# make_way: before the first installation. A checkout's `one-provider install` has left links where the package has its
# own, which replace them; a program of another kind is not ours to replace.
make_way() {
    for program in one_vmm_provider one_im_provider; do
        path=/usr/lib/one/mads/$program
        if [ -L "$path" ]; then
            echo "one-provider-mad: $path led to $(readlink "$path"), and now leads to this package's driver"
        elif [ -e "$path" ]; then
            echo "one-provider-mad: $path is no link: move that file away, then install this package again" >&2
            exit 1
        fi
    done
}

# arrive: after the package's files are in place.
arrive() {
    use_release
    is_running=
    remove_unused
    if [ -n "$is_running" ]; then
        echo "one-provider-mad: these go on with the release they run; OpenNebula starts $release with"
        echo "one-provider-mad:     systemctl restart opennebula"
    fi
}

# leave: before the package's files are removed; releases stay from which processes run.
leave() {
    rm -f "$base/current"
    is_running=
    remove_unused
    for folder in "$base/releases" "$base"; do
        if [ -d "$folder" ]; then rmdir --ignore-fail-on-non-empty "$folder"; fi
    done
}
