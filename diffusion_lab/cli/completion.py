"""TAB completion in bash for ``train.py``, ``sample.py`` and ``evaluate.py`` only.

Hydra's own completion runs any script after ``python`` to ask it for completions (its issue 3275). This one runs only
the commands of this project; for all others, completion stays unchanged.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.faults import CommandError

SHELL = "bash"

INSTALL = r"""
if [ "$(complete -p python 2>/dev/null | grep -c _diffusion_lab_complete)" = 0 ]; then
    _diffusion_lab_other=$(complete -p python 2>/dev/null | sed -n 's/.* -F \([^ ]*\) .*/\1/p')
fi
_diffusion_lab_complete() {
    local line=${COMP_LINE:0:COMP_POINT} word= choices prefix
    local -a words
    read -ra words <<< "$line"
    case ${line: -1} in ' ') ;; *) word=${words[-1]}; unset 'words[-1]' ;; esac
    case $(realpath -- "${words[1]:-/}" 2>/dev/null) in
        @PROGRAMS@) ;;
        *) if [ -n "$_diffusion_lab_other" ]; then "$_diffusion_lab_other" "$@"; fi; return ;;
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
"""

UNINSTALL = r"""
complete -r python python3 2>/dev/null
if [ -n "$_diffusion_lab_other" ]; then complete -F "$_diffusion_lab_other" python python3; fi
unset -f _diffusion_lab_complete
unset _diffusion_lab_other
"""


def completion_script(arguments: Sequence[str], programs: Sequence[Path]) -> str:
    """Return the shell code printed by ``--shell-completion install=bash`` (or ``uninstall=bash``).

    Args:
        arguments: Arguments after ``--shell-completion``.
        programs: Scripts to complete.

    Raises:
        CommandError: The arguments are neither of these.
    """
    scripts = {f"install={SHELL}": INSTALL, f"uninstall={SHELL}": UNINSTALL}
    if len(arguments) != 1 or arguments[0] not in scripts:
        raise CommandError(
            f"--shell-completion must be followed by install={SHELL} or uninstall={SHELL}, got "
            f"{' '.join(arguments)!r}: there is no completion for other shells"
        )
    patterns = "|".join(shlex.quote(str(program.resolve())) for program in programs)
    return scripts[arguments[0]].strip().replace("@PROGRAMS@", patterns)
