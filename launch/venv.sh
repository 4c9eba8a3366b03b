# Sourced by quickstart.sh and test.sh from the checkout's root: makes .venv and installs this checkout in it.
#
#   ensure_venv           the package alone
#   ensure_venv render    with the extra "render"
#   ensure_venv dev       with the extra "dev", which holds "render"
#
# The environment variable PYTHON names the interpreter of a new .venv; otherwise the first of
# python3.11, python3.12, python3.13, python3, python that runs and is new enough. A stamp in .venv remembers what
# was installed, so that nothing is asked of the network while setup.cfg and constraints.txt stay as they are.

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit 1
}

python_version() { # "3.11" of an interpreter; nothing where it does not run (a pyenv shim, say)
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null || true
}

is_supported() { # is "3.11", "3.12" or newer
  case "$1" in 3.*) [ "${1#3.}" -ge 11 ] ;; *) false ;; esac
}

find_python() {
  local candidate version seen=""
  if [ -n "${PYTHON:-}" ]; then
    version=$(python_version "$PYTHON")
    is_supported "$version" ||
      fail "PYTHON=$PYTHON is ${version:-no working Python}; name a Python 3.11 to 3.13"
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    version=$(python_version "$candidate")
    if is_supported "$version"; then
      printf '%s\n' "$candidate"
      return
    fi
    seen="$seen $candidate=${version:-absent}"
  done
  fail "needs Python 3.11 to 3.13 on PATH (found:$seen); install one, or name it: PYTHON=/path/to/python3.11 bash $0"
}

ensure_venv() {
  local extra="${1:-}" target="." python have want key stamps
  [ -z "$extra" ] || target=".[$extra]"
  have=$(python_version .venv/bin/python)
  if [ -n "$have" ] && [ -n "${PYTHON:-}" ]; then
    want=$(python_version "$PYTHON")
    [ "$want" = "$have" ] ||
      fail "PYTHON=$PYTHON is ${want:-no working Python}, but .venv was made with $have; remove .venv to change over"
  fi
  if [ -z "$have" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || exit 1
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "$python has no venv module; on Debian or Ubuntu: apt-get install python$(python_version "$python")-venv"
    echo "making .venv with $python ($(python_version "$python"))"
    "$python" -m venv .venv || fail "'$python -m venv .venv' failed; see above"
  fi
  key="$(cat setup.cfg pyproject.toml constraints.txt | cksum) $PWD"
  stamps=(".venv/installed-${extra:-base}" .venv/installed-dev)
  [ -n "$extra" ] || stamps=(.venv/installed-*) # any extra brings the package itself along
  if ! cat "${stamps[@]}" 2>/dev/null | grep -qxF -- "$key"; then
    echo "installing $target with constraints.txt in .venv (a few minutes on a first run)"
    .venv/bin/python -m pip install -qq --disable-pip-version-check -e "$target" -c constraints.txt ||
      fail "installing $target failed; see pip's message above (it needs a package index the first time)"
    printf '%s\n' "$key" >".venv/installed-${extra:-base}"
  fi
}
