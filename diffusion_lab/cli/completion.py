"""TAB completion in bash for ``diffusion-lab`` and the scripts ``train.py``, ``sample.py`` and ``evaluate.py`` only.

Hydra's own completion runs any script after ``python`` to ask it for completions (its issue 3275). This one runs only
the commands of this project; for all others, completion stays unchanged.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.console.command_line import CHECKOUT, COMMANDS, SCRIPTS, console_script
from diffusion_lab.faults import CommandError

SHELL = "bash"

NO_FILE = "'/no file'"
"""Pattern that the path of no program matches."""

INSTALL = r"""
if [ "$(complete -p python 2>/dev/null | grep -c _diffusion_lab_complete)" = 0 ]; then
    _diffusion_lab_other=$(complete -p python 2>/dev/null | sed -n 's/.* -F \([^ ]*\) .*/\1/p')
fi
_diffusion_lab_complete() {
    local line=${COMP_LINE:0:COMP_POINT} word= choices prefix
    local -a words
    read -ra words <<< "$line"
    case ${line: -1} in ' ') ;; *) word=${words[-1]}; unset 'words[-1]' ;; esac
    case $(realpath -- "$(type -P -- "${words[0]:-/}")" 2>/dev/null) in
        @CONSOLE@)
            if [ ${#words[@]} = 1 ]; then
                compopt +o nospace 2>/dev/null
                COMPREPLY=($(compgen -W "@COMMANDS@" -- "$word"))
                return
            fi
            case ${words[1]} in @COMPOSED@) ;; *) return ;; esac ;;
        *) case $(realpath -- "${words[1]:-/}" 2>/dev/null) in
            @PROGRAMS@) ;;
            *) if [ -n "$_diffusion_lab_other" ]; then "$_diffusion_lab_other" "$@"; fi; return ;;
        esac ;;
    esac
    line="python program ${words[*]:2} $word"
    choices=$(COMP_LINE=$line COMP_POINT=0 "${words[0]}" "${words[1]}" -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    case $COMP_WORDBREAKS in *=*)  # bash then completes only what follows the last =
        prefix=${word%"${word##*=}"}
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}") ;;
    esac
}
complete -o nospace -o default -F _diffusion_lab_complete python python3
complete -o nospace -o default -F _diffusion_lab_complete diffusion-lab
"""

UNINSTALL = r"""
complete -r python python3 diffusion-lab 2>/dev/null
if [ -n "$_diffusion_lab_other" ]; then complete -F "$_diffusion_lab_other" python python3; fi
unset -f _diffusion_lab_complete
unset _diffusion_lab_other
"""

COMPOSED = ("train", "sample", "evaluate")
"""Commands whose arguments are completed."""


def completion_script(arguments: Sequence[str]) -> str:
    """Return the shell code printed by ``--shell-completion install=bash`` (or ``uninstall=bash``).

    It completes the console command, and in a checkout the scripts.

    Args:
        arguments: Arguments after ``--shell-completion``.

    Raises:
        CommandError: The arguments are neither of these.
    """
    code = {f"install={SHELL}": INSTALL, f"uninstall={SHELL}": UNINSTALL}
    if len(arguments) != 1 or arguments[0] not in code:
        raise CommandError(
            f"--shell-completion must be followed by install={SHELL} or uninstall={SHELL}, got "
            f"{' '.join(arguments)!r}: there is no completion for other shells"
        )
    console = console_script()
    patterns = {
        "@CONSOLE@": _pattern([] if console is None else [Path(console)]),
        "@PROGRAMS@": _pattern([] if CHECKOUT is None else [CHECKOUT / SCRIPTS[name] for name in COMPOSED]),
        "@COMMANDS@": " ".join(COMMANDS),
        "@COMPOSED@": "|".join(COMPOSED),
    }
    script = code[arguments[0]].strip()
    for placeholder, pattern in patterns.items():
        script = script.replace(placeholder, pattern)
    return script


def _pattern(files: Sequence[Path]) -> str:
    """Return a pattern of ``case`` that matches the resolved paths; for no files, none."""
    return "|".join(shlex.quote(str(file.resolve())) for file in files) or NO_FILE
