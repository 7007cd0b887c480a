#!/bin/sh
# Starts this release's own environment by its full path, and so exactly the Python that the package depends on.
exec @release@/bin/python -I -c 'from @module@ import @function@; @function@()' "$@"
