"""`one-provider completion`: prints the script by which bash or zsh completes its command lines.

The scripts ask the program itself, in the form of click's own scripts (click.shell_completion). Those are not used:
click's for zsh completes nothing at the second Tab where it is installed as a file in zsh's `fpath`.
"""

from __future__ import annotations

import click

_BASH = """\
# bash completion of one-provider, for the folder bash-completion/completions

_one_provider() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            plain,*) COMPREPLY+=("${line#plain,}") ;;
            file,*) compopt -o default ;;
            dir,*) compopt -o dirnames ;;
        esac
    done < <(IFS=$'\\n'; env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \\
        _ONE_PROVIDER_COMPLETE=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F _one_provider one-provider
"""

_ZSH = """\
#compdef one-provider
# zsh completion of one-provider, for the file _one-provider in a folder of fpath

_one-provider() {
    local -a bare explained
    local kind value text
    while IFS= read -r kind && IFS= read -r value && IFS= read -r text; do
        case $kind in
            plain) if [[ $text == _ ]]; then bare+=("$value"); else explained+=("$value:$text"); fi ;;
            file) _path_files ;;
            dir) _path_files -/ ;;
        esac
    done < <(env COMP_WORDS="${(F)words}" COMP_CWORD=$((CURRENT - 1)) \\
        _ONE_PROVIDER_COMPLETE=zsh_complete "${words[1]}" 2>/dev/null)
    (( $#explained )) && _describe -V one-provider explained -U
    (( $#bare )) && compadd -U -V one-provider -a bare
}

if [[ $funcstack[1] == _one-provider ]]; then
    _one-provider "$@" # the first Tab has loaded this file
else
    compdef _one-provider one-provider
fi
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH}


_HELP = """\
Print the script by which a shell completes commands, options, NAMEs, VMs, actions and releases.

\b
  one-provider completion bash > /usr/share/bash-completion/completions/one-provider
  one-provider completion zsh > /usr/local/share/zsh/site-functions/_one-provider

For one user: eval "$(one-provider completion bash)" in ~/.bashrc, or the same with zsh behind compinit in ~/.zshrc.
"""


@click.command("completion", help=_HELP, short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(tuple(_SCRIPTS)))
def command(shell: str) -> None:
    """Print the script by which a shell completes commands, options, NAMEs, VMs, actions and releases."""
    click.echo(_SCRIPTS[shell], nl=False)
